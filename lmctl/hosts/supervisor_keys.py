"""The keys that engines behind the gateway demand: a file each, made once and gone with its program; never shown."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from lmctl.errors import LmctlError
from lmctl.paths import disk_error, make_private, read_own, write_atomic

_FOLDER = "keys"
_KEY = re.compile(rb"[0-9a-f]{64}\n")
_OURS = re.compile(r"p-[0-9a-f]{12}")


def name(program: str) -> str:
    """Return the name of a program's key file, from the state folder."""
    return f"{_FOLDER}/{program}"


def sound(folder: Path, program: str) -> bool:
    """Whether a program's key is there as lmctl made it, and nobody else can read it."""
    try:
        return _KEY.fullmatch(read_own(folder / name(program), 128, private=True)) is not None
    except (OSError, LmctlError):
        return False


def read(folder: Path, file: str) -> str:
    """Return the key in a file of that name, empty where there is none that is sound."""
    try:
        return read_own(folder / file, 128, private=True).decode("ascii", "replace").strip()
    except (OSError, LmctlError):
        return ""


def make(folder: Path, programs: Collection[str]) -> None:
    """Make the key of each program that has no sound one. Raises E-SPACE, E-PERM or E-IO."""
    for program in sorted(programs):
        if not sound(folder, program):
            make_private(folder / _FOLDER)
            write_atomic(folder / name(program), f"{os.urandom(32).hex()}\n".encode())


def sweep(folder: Path, stays: Collection[str]) -> None:
    """Remove the keys of all programs but those; what is no program's stays. Raises E-PERM or E-IO."""
    try:
        for entry in os.scandir(folder / _FOLDER):
            if entry.name not in stays and _OURS.fullmatch(entry.name):
                Path(entry.path).unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise disk_error(folder / _FOLDER, error) from error
