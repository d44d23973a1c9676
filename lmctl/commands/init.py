"""`lmctl init`: write a first localmodels.toml, and keep this machine's own files out of version control."""

from __future__ import annotations

import argparse
import re
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from lmctl import adhoc, lockfile
from lmctl.command import Context
from lmctl.config.find import LOCAL, MAIN, refuse_missing
from lmctl.errors import LmctlError, escape
from lmctl.paths import read_regular, write_atomic
from lmctl.record import record
from lmctl.result import Result

_OWN = (LOCAL, lockfile.LOCAL)  # this machine's own files, beside the declaration
_IGNORE = ".gitignore"
_IGNORE_LIMIT = 1 << 20  # bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", help="identity of the declaration on a machine; default: made of the folder's name")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Write the file where there is none. Raises E-CONFLICT, E-NAME and E-FILE."""
    from lmctl.config_edit import first  # brings tomlkit, which no other command starts with

    options = context.options
    if options.elsewhere:
        refuse_missing(options.directory)
    path = (options.directory / (options.config or MAIN)).absolute()
    if path.exists() or path.is_symlink():
        raise LmctlError(
            "E-CONFLICT", f"{escape(str(path))} is there already", fix="add to it with `lmctl profile add`"
        )
    name = _checked(args.name) if args.name is not None else _from_folder(path.parent.name)
    write_atomic(path, first(name).encode(), 0o644)
    ignoring = _ignoring(path.parent)
    if ignoring.lines:
        write_atomic(ignoring.file, ignoring.content, ignoring.mode)
    lines = [f"Wrote {escape(str(path), 4096)}.", *_told(ignoring)]
    lines.append("Next: lmctl profile add NAME model=owner/name quant=Q4_K_M, then lmctl plan.")
    written = str(ignoring.file) if ignoring.lines else None
    return Result({"file": str(path), "name": name, "gitignore": written}, "\n".join(lines))


def _checked(name: str) -> str:
    from lmctl.config.names import name as check_name

    check_name(name)
    adhoc.refuse_name(name)
    return name


def _from_folder(folder: str) -> str:
    """Return a name made of the folder's. Raises E-NAME where that is none that a declaration may have."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", folder).lstrip("._-")[:63] or "models"
    try:
        return _checked(name)
    except LmctlError as error:
        raise LmctlError(error.code, error.problems[0].what, fix="give another one with --name NAME") from error


@record
class _Ignoring:
    """What has to be written so that git passes over `_OWN`; no `lines` when nothing has to, or nothing may."""

    file: Path
    lines: tuple[str, ...] = ()
    content: bytes = b""
    mode: int = 0o644
    missing: bool = False  # some of them are not ignored, and it is not for lmctl to change that


def _ignoring(folder: Path) -> _Ignoring:
    """Look at what git ignores in `folder`: a new file is written anywhere, one that is there grows in a work tree."""
    file = folder / _IGNORE
    tree = next((each for each in (folder, *folder.parents) if (each / ".git").exists()), None)
    patterns = {pattern for each in _above(folder, tree) for pattern in _patterns(each, own=each == folder)}
    lines = tuple(name for name in _OWN if not any(fnmatchcase(name, pattern) for pattern in patterns))
    if not lines:
        return _Ignoring(file)
    if not file.exists() and not file.is_symlink():
        return _Ignoring(file, lines, _joined(b"", lines))
    before = None if tree is None or file.is_symlink() else _content(file)
    if before is None:
        return _Ignoring(file, missing=True)
    return _Ignoring(file, lines, _joined(before, lines), stat.S_IMODE(file.stat().st_mode))


def _above(folder: Path, tree: Path | None) -> Iterator[Path]:
    """Yield `folder` and those above it up to the root of its work tree."""
    for each in (folder, *folder.parents):
        yield each
        if tree in (None, each):
            return


def _patterns(folder: Path, *, own: bool) -> Iterator[str]:
    """Yield the patterns of a folder's file that can mean files here; one that takes another back says so, too."""
    for line in (_content(folder / _IGNORE) or b"").decode("utf-8", "replace").splitlines():
        pattern = line.strip().removeprefix("!").removeprefix("**/")
        yield pattern.removeprefix("/") if own else pattern


def _content(file: Path) -> bytes | None:
    """Return the bytes of a regular file, None where they cannot be had."""
    try:
        return read_regular(file, _IGNORE_LIMIT)
    except LmctlError:
        return None


def _joined(before: bytes, lines: tuple[str, ...]) -> bytes:
    end = b"\n" if before and not before.endswith(b"\n") else b""
    return before + end + "".join(f"{line}\n" for line in lines).encode()


def _told(ignoring: _Ignoring) -> list[str]:
    if ignoring.lines:
        return [f"Wrote {', '.join(ignoring.lines)} to {_IGNORE}: they are for this machine alone."]
    return [f"Keep {', '.join(_OWN)} out of version control."] if ignoring.missing else []
