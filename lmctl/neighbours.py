"""What the other declarations of this machine hold: content that must stay, ports that are taken."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from lmctl import adhoc, lockfile
from lmctl.errors import LmctlError
from lmctl.paths import read_regular

_LIMIT = 64 << 10  # bytes of one file of declarations/
_CONFIG_LIMIT = 1 << 20  # bytes of a declaration


def folder_of(record: Path) -> tuple[Path, Path]:
    """Return folder and file of a declaration from its record. Raises ValueError for a record that is broken."""
    try:
        content = json.loads(read_regular(record, _LIMIT))
        return Path(content["folder"]), Path(content["file"])
    except (LmctlError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(str(record)) from error


def references(records: Path, own: Path, cache: Path, leaving: frozenset[str] = frozenset()) -> frozenset[str] | None:
    """Return the sha256 of all that other declarations have locked; None when it cannot be told for one of them.

    It cannot when its folder, its file or every lock of it is gone or cannot be read: then it may refer to anything.
    Those that are `leaving` this machine refer to nothing any more.
    """
    digests: set[str] = set()
    for record in (record for record in _others(records, own) if record.stem not in leaving):
        try:
            folder, file = folder_of(record)
            _parses(file)
            locks = [folder / name for name in (lockfile.COMMITTED, lockfile.LOCAL)]
            present = [lockfile.read_cached(path, cache) for path in locks if path.exists()]
            beside = records.parent / record.stem / lockfile.UNDECLARED
            undeclared = [lockfile.read_cached(beside, cache)] if beside.exists() else []
        except (LmctlError, OSError, ValueError):
            return None
        if not present and record.stem != adhoc.NAME:
            return None
        present += undeclared
        digests |= {file.sha256 for lock in present for one in lock.artifacts.values() for file in one.files}
    return frozenset(digests)


def _parses(file: Path) -> None:
    import tomllib  # only when something is about to be pruned

    tomllib.loads(read_regular(file, _CONFIG_LIMIT).decode())


def served(state: Path, own: str, leaving: frozenset[str] = frozenset()) -> frozenset[str] | None:
    """Return all words of the commands of other declarations' programs; None when one of them cannot be read.

    What a program was last applied or rolled back to may be in no lock of today, and it may start at any time.
    """
    words: set[str] = set()
    for folder in (folder for folder in state.glob("*/programs") if folder.parent.name not in {own, *leaving}):
        for program in folder.glob("*.json"):
            try:
                argv = json.loads(read_regular(program, _CONFIG_LIMIT))["argv"]
            except (LmctlError, ValueError, KeyError, TypeError, RecursionError):
                return None
            if not isinstance(argv, list) or not all(isinstance(word, str) for word in argv):
                return None
            words.update(argv)
    return frozenset(words)


def ports(state: Path, records: Path, own: Path) -> dict[int, str]:
    """Return the ports on which programs of other declarations listen, as far as their files say, with their names."""
    found: dict[int, str] = {}
    for record in _others(records, own):
        for program in (state / record.stem / "programs").glob("*.json"):
            try:
                listen = json.loads(read_regular(program, _CONFIG_LIMIT))["listen"]
                found[int(listen.rpartition(":")[2])] = record.stem
            except (LmctlError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
                continue  # whatever it is, its owner will be told
    return found


def _others(records: Path, own: Path) -> Iterator[Path]:
    return (record for record in sorted(records.glob("*.json")) if record != own)
