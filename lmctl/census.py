"""Every declaration that has left something on this machine, whatever became of its files."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from lmctl import belongings, neighbours
from lmctl.belongings import RECORDS
from lmctl.config import loading
from lmctl.config.find import MAIN, Request
from lmctl.paths import Folders
from lmctl.spec import Declaration, Hardware, Machine


def machine(folders: Folders, hardware: Hardware) -> Machine:
    """Return what machine.toml says, whatever became of the declarations. Raises what is wrong with it."""
    file = folders.state / MAIN
    request = Request(folders.state, file, empty=True)
    alone = {Path(os.path.realpath(file)): b'version = 1\nname = "leaving"\n'}
    return loading.resolve(request, folders, {}, hardware, instead=alone).declaration.machine


def names(folders: Folders) -> list[str]:
    """Return every declaration that has left something in the state folder; what else lies there is none."""
    records = {path.stem for path in _entries(folders.state / RECORDS) if path.suffix == ".json"}
    held = {path.name for path in _entries(folders.state, folders=True) if belongings.is_state(path)}
    return sorted(filter(belongings.is_name, records | held))


def stub(folders: Folders, name: str, about: Machine) -> Declaration:
    """Return a declaration of which nothing but its name matters: it wants nothing any more."""
    folder, file = folders.declaration(name), folders.declaration(name) / MAIN
    with contextlib.suppress(ValueError):
        folder, file = neighbours.folder_of(folders.state / RECORDS / f"{name}.json")
    return Declaration(name, folder, file, (), machine=about)


def _entries(folder: Path, *, folders: bool = False) -> list[Path]:
    try:
        found = sorted(folder.iterdir())
        return [path for path in found if path.is_dir() and not path.is_symlink()] if folders else found
    except OSError:
        return []
