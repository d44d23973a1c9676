"""Where the configuration is: the declaration's file, and the profile files that it includes."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import takewhile
from pathlib import Path, PurePosixPath

from lmctl.errors import LmctlError, Place, escape
from lmctl.paths import Folders
from lmctl.record import record

MAIN, LOCAL, MACHINE = "localmodels.toml", "localmodels.local.toml", "machine.toml"
MOST_FILES = 256


@record
class Request:
    """What the command line says about the configuration. `elsewhere`: `-C` was given, so LMCTL_CONFIG is not asked.

    `earlier` is the content of the declaration's files at an earlier time, by their path from its folder: they alone
    are read, and what lies there now is not.
    """

    directory: Path  # absolute; looked in, then upwards
    file: Path | None = None  # --config
    sets: tuple[str, ...] = ()  # KEY=VALUE
    elsewhere: bool = False
    empty: bool = False  # a declaration without profiles is welcome
    earlier: Mapping[str, bytes] | None = None


def discover(request: Request, folders: Folders, environ: Mapping[str, str]) -> Path:
    """Return the declaration's file, with links resolved. Raises as `located`."""
    return Path(os.path.realpath(located(request, folders, environ)))


def located(request: Request, folders: Folders, environ: Mapping[str, str]) -> Path:
    """Return the declaration's file as it is named, which may be a link.

    Raises E-FILE when there is none, E-PERM where it is shut.
    """
    if request.elsewhere:
        refuse_missing(request.directory)
    named = _named(request, environ)
    if named is not None:
        return request.directory / named
    for folder in (request.directory, *request.directory.parents, folders.config):
        if os.path.lexists(folder / MAIN):  # a link that leads nowhere is said so, and no other declaration's turn
            return folder / MAIN
    if not os.access(request.directory, os.X_OK):
        what = f"{escape(str(request.directory))} may not be entered"
        raise LmctlError("E-PERM", what, fix="check its permissions")
    what = f"there is no {MAIN} in {escape(str(request.directory))} or above"
    raise LmctlError("E-FILE", what, fix="run `lmctl init`, or name a file with --config")


def _named(request: Request, environ: Mapping[str, str]) -> Path | None:
    if request.file is None and not request.elsewhere and environ.get("LMCTL_CONFIG"):
        return Path(environ["LMCTL_CONFIG"])
    return request.file


def last_resort(request: Request, folders: Folders, environ: Mapping[str, str]) -> Path | None:
    """Return the user's own declaration where it counts, with links resolved: none is named, none lies above."""
    above = (request.directory, *request.directory.parents)
    if _named(request, environ) is not None or any(os.path.lexists(folder / MAIN) for folder in above):
        return None
    return Path(os.path.realpath(folders.config / MAIN)) if os.path.lexists(folders.config / MAIN) else None


def own_files(file: Path, listing: Sequence[str], contents: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return what was read of a declaration's own files, by their path from its folder; `contents` by absolute path."""
    found = {name: contents.get(str(file.parent / name)) for name in (file.name, *listing, LOCAL)}
    return {name: content for name, content in found.items() if content is not None}


def refuse_missing(directory: Path) -> None:
    """Raise E-FILE unless the folder that `-C` names is there: the one above it is another declaration's."""
    if not directory.is_dir():
        raise LmctlError("E-FILE", f"{escape(str(directory))} is no folder", fix="correct what -C names")


def included(folder: Path, patterns: Sequence[str], place: Place) -> tuple[str, ...]:
    """Return the files that the globs match, sorted, as posix paths from `folder` (a real path).

    Raises E-INCLUDE for a link that leads out of `folder`, a file that is not there, or the declaration itself;
    E-LIMIT for more than 256 files; E-PERM for a folder that may not be looked into, as its profiles are not gone.
    """
    found: set[str] = set()
    for pattern in patterns:
        before = len(found)
        if glob.has_magic(pattern):
            _refuse_shut(folder, pattern, place)
        for name in glob.iglob(pattern, root_dir=folder, recursive=True):  # noqa: PTH207 (relative names, lazily)
            if not (folder / name).is_dir():
                found.add(inside(folder, name, place))
            if len(found) > MOST_FILES:
                raise LmctlError("E-LIMIT", f"`include` matches more than {MOST_FILES} files", place=place)
        if len(found) == before and not glob.has_magic(pattern):
            _missing(folder, pattern, place)
    return tuple(sorted(found))


def looked_into(root: str, pattern: str) -> Iterator[str]:
    """Yield the folders in which a glob looks, the one where it begins also when it is not there."""
    parts = PurePosixPath(pattern).parts[:-1]
    plain = list(takewhile(lambda part: not glob.has_magic(part), parts))
    yield "/".join((root, *plain))
    if len(plain) < len(parts):
        found = glob.iglob("/".join((*parts, "")), root_dir=root, recursive=True)  # noqa: PTH207
        yield from (f"{root}/{name}".rstrip("/") for name in found)


def _refuse_shut(folder: Path, pattern: str, place: Place) -> None:
    for path in looked_into(str(folder), pattern):
        if os.path.isdir(path) and not os.access(path, os.R_OK | os.X_OK):  # noqa: PTH112
            shown = escape(os.path.relpath(path, folder), 80)
            what = f"{place.file} includes what is in {shown}, which may not be looked into"
            raise LmctlError("E-PERM", what, fix="check its permissions", place=place)


def _missing(folder: Path, pattern: str, place: Place) -> None:
    if not (folder / pattern).is_file():
        shown = escape(pattern, 80)
        raise LmctlError("E-INCLUDE", f"{place.file} includes {shown}, which is no file", fix="correct it", place=place)


def matches(pattern: str, name: str) -> bool:
    """True when `included` finds a file `name` by `pattern`: `*` stays within a folder, and hidden names hide."""
    return _match(PurePosixPath(pattern).parts, PurePosixPath(name).parts)


def _match(patterns: Sequence[str], parts: Sequence[str]) -> bool:
    if not patterns:
        return not parts
    pattern, part = patterns[0], parts[0] if parts else ""
    hidden = part.startswith(".") and not pattern.startswith(".")
    if pattern == "**":
        return _match(patterns[1:], parts) or (part != "" and not hidden and _match(patterns, parts[1:]))
    fits = fnmatchcase(part, pattern) and not hidden if glob.has_magic(pattern) else pattern == part
    return part != "" and fits and _match(patterns[1:], parts[1:])


def inside(folder: Path, name: str, place: Place) -> str:
    """Return the posix form of an included file's name. Raises E-INCLUDE for one that may not be included."""
    shown = escape(name, 80)
    real = os.path.realpath(folder / name)
    if os.path.commonpath([real, folder]) != str(folder):
        what = f"{place.file} includes {shown}, a link that leads out of the declaration's folder"
        raise LmctlError("E-INCLUDE", what, fix="copy the file", place=place)
    if name in {MAIN, LOCAL} or real == os.path.realpath(folder / MAIN):
        what = f"{place.file} includes {shown}: a declaration cannot include itself"
        raise LmctlError("E-INCLUDE", what, fix='include "profiles/*.toml"', place=place)
    return name.replace(os.sep, "/")
