"""The examples as a reader finds them: copied from the repository, with ports that are free here."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from e2e.conftest import REPOSITORY, hub, machine, port

__all__ = ["hub", "machine", "port"]

Example = Callable[..., dict[str, int]]


@pytest.fixture
def example(machine, port) -> Example:
    """Copy an example into a folder, the machine's own by default; return the port of each profile."""

    def copy(name: str, target: Path | None = None) -> dict[str, int]:
        folder = target or machine.folder
        shutil.copytree(REPOSITORY / "examples" / name, folder, dirs_exist_ok=True)
        ports = {}
        for file in sorted(folder.rglob("*.toml")):
            profile, lines = file.stem, []
            for line in file.read_text().splitlines():
                if header := re.fullmatch(r"\[profiles\.(.+)\]", line):
                    profile = header[1]
                if declared := re.fullmatch(r"(port\s*= )\d+", line):
                    ports[profile] = port()
                    line = f"{declared[1]}{ports[profile]}"
                lines.append(line)
            file.write_text("\n".join(lines) + "\n")
        return ports

    return copy


@pytest.fixture
def on_path(machine) -> Path:
    """A folder at the front of PATH with an `lmctl` that is the one under test."""
    folder = machine.home / "bin"
    folder.mkdir()
    (folder / "lmctl").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lmctl "$@"\n')
    (folder / "lmctl").chmod(0o755)
    machine.environ["PATH"] = f"{folder}:{machine.env()['PATH']}"
    return folder
