"""Engines of this machine: which program serves a backend, what it calls itself, and whether it can run at all."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmctl.all_backends import BACKENDS
from lmctl.backend import Engine
from lmctl.errors import LmctlError, escape

if TYPE_CHECKING:
    from lmctl.hosts.binaries import Binaries

_TIMEOUT = 20.0  # seconds that a binary may take to print its version or its flags


class Engines:
    """Implements `host.Engines`: `binaries` are machine.toml's by backend, `path` is PATH, `cache` lmctl's own."""

    def __init__(self, binaries: Mapping[str, str], path: str, cache: Path, timeout: float = _TIMEOUT) -> None:
        self.binaries = binaries
        self.path = os.pathsep.join(folder for folder in path.split(os.pathsep) if folder.startswith("/"))
        self.cache = cache / "engines"
        self.timeout = timeout

    def find(self, backend: str) -> Engine | None:
        """Return the engine, None when there is none; raises E-ENGINE when machine.toml names something else.

        The configured binary, else the backend's own package, else a name on PATH, else the embedded engine.
        """
        answers = BACKENDS[backend]
        if not answers.BINARIES and answers.MODULE is None:
            return Engine(())  # the declared command is the whole argv
        if configured := self.binaries.get(backend):
            return Engine(_configured(backend, configured))
        name, module = answers.MODULE or ("", None)
        importable = module is not None and importlib.util.find_spec(name) is not None
        if module is not None and importable and not module.embedded:
            return module
        for program, *rest in answers.BINARIES:
            if found := self._on_path(program):
                return Engine((found, *rest))
        return module if importable else None

    def version(self, backend: str) -> str | None:
        """Return what the engine calls itself as far as it is known: nothing is run for it."""
        engine = self.find(backend)
        if engine is None or not engine.argv:
            return None
        if engine.argv[0] == "{python}":
            return _package_version(backend)
        with contextlib.suppress(OSError):
            facts = self._binaries().remembered(engine.argv)
            return facts.version if facts else None
        return None

    def ask(self, backend: str) -> str | None:
        """Return the version; an engine that was never asked is run for it, with --version and nothing else."""
        known, engine = self.version(backend), self.find(backend)
        if known is not None or engine is None or not engine.argv or engine.argv[0] == "{python}":
            return known
        return self._binaries().version(engine.argv, BACKENDS[backend].INSTALL)

    def _binaries(self) -> Binaries:
        from lmctl.hosts.binaries import Binaries  # what runs programs is slow to import, and plan runs none

        return Binaries(self.path, self.cache, self.timeout)

    def check(self, backend: str, argv: Sequence[str], folder: Path) -> str | None:
        """Return the engine's version if it can run `argv` from `folder`; raises E-ENGINE with the next step if not.

        Runs the binary with --version and --help, once: the answers are kept until the file changes. A program of
        the declaration's own is not run, only looked for.
        """
        fix = BACKENDS[backend].INSTALL
        if argv[0] == "{python}":
            if self.find(backend) is None:
                raise LmctlError("E-ENGINE", f"no engine for backend {backend} is installed", fix=fix)
            return self.version(backend)
        program = self._program(argv[0], folder, fix)
        engine = self.find(backend)
        if engine is None or not engine.argv:
            return None
        facts = self._binaries().facts((str(program), *engine.argv[1:]), fix)
        unknown = facts.unknown(argv[len(engine.argv) :])
        if unknown:
            what = f"{escape(str(program))} ({facts.version or 'no version'}) does not know {', '.join(unknown[:3])}"
            raise LmctlError("E-ENGINE", what, fix=f"install a newer one: {fix}")
        return facts.version

    def _on_path(self, name: str) -> str | None:
        """What shutil.which does, without its import of every compression there is."""
        places = (f"{folder}/{name}" for folder in self.path.split(os.pathsep) if folder)
        return next((place for place in places if os.access(place, os.X_OK) and Path(place).is_file()), None)

    def _program(self, name: str, folder: Path, fix: str) -> Path:
        found = self._on_path(name) if "/" not in name else str(folder / name)
        if found is None:
            raise LmctlError("E-ENGINE", f"{escape(name)} is not on PATH", fix=fix)
        return _executable(Path(found), fix)


def _configured(backend: str, configured: str) -> tuple[str, ...]:
    path = Path(configured)
    if not path.is_absolute():
        what = f"machine.toml: engines.{backend}.binary is not an absolute path: {escape(configured)}"
        raise LmctlError("E-ENGINE", what, fix="write it in full")
    _executable(path, "correct engines.<backend>.binary in machine.toml")
    rest = next((rest for name, *rest in BACKENDS[backend].BINARIES if name == path.name), [])
    return (configured, *rest)


def _executable(path: Path, fix: str) -> Path:
    shown = escape(str(path))
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise LmctlError("E-ENGINE", f"{shown} cannot be used: {error.strerror}", fix=fix) from error
    if not stat.S_ISREG(mode):
        raise LmctlError("E-ENGINE", f"{shown} is not a file", fix=fix)
    if not os.access(path, os.X_OK):
        raise LmctlError("E-ENGINE", f"{shown} is not executable", fix=f"chmod +x it, or {fix}")
    return path


def _package_version(backend: str) -> str | None:
    from importlib import metadata  # slow to import, and seldom asked

    module = BACKENDS[backend].MODULE
    try:
        return metadata.version(module[0].replace("_", "-")) if module else None
    except metadata.PackageNotFoundError:
        return None
