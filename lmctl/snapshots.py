"""What an apply was made of, kept for rollbacks: the declaration's files and the lock, a folder per generation."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from lmctl.errors import LmctlError, escape
from lmctl.generations import KEPT
from lmctl.paths import disk_error, make_private, read_regular, sync_folder, write_atomic
from lmctl.secret import LOOKS_SECRET

LOCK = "localmodels.lock"  # what both lock files said together
_FOLDER = "snapshots"
_LIMIT = 64 << 20  # bytes of one file; a lock is the largest
_MOST = 1024  # files


def numbers(state: Path) -> tuple[int, ...]:
    """Return the generations of which there is a snapshot, the oldest first."""
    found = (path.name for path in (state / _FOLDER).glob("[1-9]*"))
    return tuple(sorted(int(name) for name in found if name.isascii() and name.isdecimal()))


def keep(state: Path, number: int, files: Mapping[str, bytes]) -> None:
    """Keep `files`, by their path from the declaration's folder, as the snapshot of a generation, whole or not at all.

    Of more than 50 the oldest go. Nothing is kept where a file holds what looks like a secret, or lies outside. What
    killed runs left goes; whoever calls holds the declaration's lock. Raises E-SPACE, E-PERM or E-IO.
    """
    import shutil  # brings every compression there is, and most runs change nothing

    parent = state / _FOLDER
    try:
        for left in (*parent.glob(".[1-9]*"), *parent.glob(str(number))):  # also what the ledger never knew of
            shutil.rmtree(left)
        if all(_inside(name) for name in files) and not any(map(_secret, files.values())):
            make_private(parent)
            _write(parent, number, files)
        for old in numbers(state)[:-KEPT]:
            shutil.rmtree(parent / str(old))
    except OSError as error:
        raise disk_error(parent, error) from error


@contextmanager
def keeping(state: Path) -> Iterator[Callable[[int, Mapping[str, bytes]], None]]:
    """Yield `keep`; what it kept goes again with an exception, for then no ledger knows of it."""
    import shutil  # as above

    kept: list[int] = []

    def keep_also(number: int, files: Mapping[str, bytes]) -> None:
        kept.append(number)
        keep(state, number, files)

    try:
        yield keep_also
    except BaseException:
        for number in kept:
            shutil.rmtree(state / _FOLDER / str(number), ignore_errors=True)
        raise


def read(state: Path, number: int) -> dict[str, bytes]:
    """Return the files of a snapshot by their path from the declaration's folder.

    Raises E-USAGE when there is none, E-STATE when it is not what `keep` writes, and as `read_regular`.
    """
    folder = state / _FOLDER / str(number)
    if number not in numbers(state):
        kept = ", ".join(map(str, numbers(state))) or "none"
        what = f"generation {number} has no snapshot"
        raise LmctlError("E-USAGE", what, fix=f"see `lmctl history`; there are snapshots of: {escape(kept)}")
    found: dict[str, bytes] = {}
    for name in _names(folder):
        if len(found) == _MOST:
            raise LmctlError("E-STATE", f"{escape(str(folder))} holds more than lmctl writes", fix="remove it")
        found[name] = read_regular(folder / name, _LIMIT)
    if LOCK not in found:
        raise LmctlError("E-STATE", f"{escape(str(folder))} lacks {LOCK}", fix="choose another generation")
    return found


def _write(parent: Path, number: int, files: Mapping[str, bytes]) -> None:
    import shutil  # as above

    temporary = parent / f".{number}"
    try:
        for name, content in files.items():
            path = temporary / name
            make_private(path.parent)
            write_atomic(path, content)
        temporary.rename(parent / str(number))
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(parent)


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _secret(content: bytes) -> bool:
    return LOOKS_SECRET.search(content.decode("utf-8", "replace")) is not None


def _names(folder: Path) -> Iterator[str]:
    for here, _, files in os.walk(folder):
        yield from ((Path(here) / file).relative_to(folder).as_posix() for file in sorted(files))
