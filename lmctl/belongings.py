"""What lmctl writes into its state folder, told by name: everything else there is somebody's own, and stays."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from lmctl.paths import Folders

RECORDS = "declarations"  # the folder of the state folder that says which folder a name belongs to
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")  # of a declaration
_TEMPORARY = r"\.[^/]+\.[0-9]+\.tmp"
_PROGRAM = r"(p-[0-9a-f]{12}|gateway|watch)"
# files that nobody else would call so: one of them tells that a folder is lmctl's
_TELLING = r"ledger\.db.*|supervisord\.(conf|lock|pid)|trust\.json|apply\.lock|lmctl\.log.*|undeclared\.(json|lock)"
_FILES = re.compile(
    rf"({_TELLING}|lock|watch\.(lock|json)|gateway\.lock|launch|service|[sg]\.sock|usage\.db.*|supervisord\.(conf\.edited(\.[0-9])?|log.*)|{_TEMPORARY}"
    rf"|programs/({_PROGRAM}\.json|{_TEMPORARY})|logs/{_PROGRAM}\.log.*|(starts|keys)/({_PROGRAM}|{_TEMPORARY})"
    rf"|snapshots/\.?[1-9][0-9]*/.+|declaration/(localmodels\.(toml|lock)|{_TEMPORARY}))",
    re.DOTALL,
)
_FOLDERS = re.compile(r"programs|logs|starts|keys|declaration|snapshots(/\.?[1-9][0-9]*(/.+)?)?", re.DOTALL)


def is_name(name: str) -> bool:
    """Return whether a declaration can be called so."""
    return _NAME.fullmatch(name) is not None and name != RECORDS


def is_state(folder: Path) -> bool:
    """Return whether a folder of the state folder is a declaration's: a file in it tells, or none is anybody else's."""
    names = [path.name for path in _entries(folder)]
    telling = any(re.fullmatch(_TELLING, name, re.DOTALL) for name in names)
    return is_name(folder.name) and (telling or (bool(names) and all(map(ours, names))))


def ours(path: str) -> bool:
    """Return whether lmctl writes a file or a folder of this name, from a declaration's state folder, `/` between."""
    return _FILES.fullmatch(path) is not None or _FOLDERS.fullmatch(path) is not None


def foreign(state: Path) -> Iterator[Path]:
    """Yield the files, links and empty folders below a declaration's state folder that lmctl did not write."""
    for above, folders, files in os.walk(state):
        here = Path(above)
        links = [name for name in folders if (here / name).is_symlink()]
        for path in sorted(here / name for name in (*files, *links)):
            if _FILES.fullmatch(path.relative_to(state).as_posix()) is None:
                yield path
        if here != state and not folders and not files and not ours(here.relative_to(state).as_posix()):
            yield here


def strangers(folders: Folders) -> Iterator[Path]:
    """Yield what lies in the state folder beside declarations and is none: files, and folders without any."""
    for path in _entries(folders.state):
        if path.is_symlink() or not path.is_dir():
            if re.fullmatch(rf"crash-.*\.json|{_TEMPORARY}", path.name) is None:
                yield path
        elif path.name == RECORDS:
            yield from (one for one in _entries(path) if one.suffix != ".json")
        elif not is_state(path):
            found = [Path(above) / name for above, _, names in os.walk(path) for name in names]
            yield from sorted(found) or [path]


def _entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return []
