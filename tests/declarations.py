"""A declaration in an empty folder, for tests to write and load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lmctl.config.find import Request
from lmctl.config.loading import load
from lmctl.paths import Folders
from lmctl.spec import Declaration, Hardware

LINUX = Hardware("linux", "x86_64", "box", 16 << 30)
PRELUDE = 'version = 1\nname = "team"\n'


class Place:
    """A folder with a declaration in it."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder, self.home = folder, home
        self.folders = Folders.of({}, home)

    def write(self, name: str, text: str | bytes) -> Path:
        """Write a file of the declaration."""
        return _write(self.folder / name, text)

    def machine(self, text: str) -> Path:
        """Write machine.toml."""
        return _write(self.folders.config / "machine.toml", text)

    def load(
        self, *sets: str, environ: Mapping[str, str] | None = None, hardware: Hardware = LINUX, **request: object
    ) -> Declaration:
        """Load it from its folder."""
        asked = Request(**{"directory": self.folder, "sets": sets, **request})  # type: ignore[arg-type]
        return load(asked, self.folders, environ or {}, hardware)


def _write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path
