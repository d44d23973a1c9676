"""The state folder of one declaration's supervisord: what it declares, and writing it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from lmctl import launch
from lmctl.errors import LmctlError, escape
from lmctl.hosts import supervisor_conf, supervisor_daemon, supervisor_keys
from lmctl.paths import disk_error, write_atomic
from lmctl.record import replace as copy
from lmctl.spec import ProgramSpec

_EARLIER = (".1", ".2", ".3", ".4")  # of edited configurations
_LOG_BYTES = 20 << 20  # for a program without a section, where nothing else is known


class Files:
    """The files of one state folder; `log_max_bytes` is for one program, None leaves what is written."""

    def __init__(self, folder: Path, log_max_bytes: int | None) -> None:
        self.folder = folder
        self._log_max_bytes = log_max_bytes
        self._conf = folder / "supervisord.conf"
        self._login = folder / "service"

    def program(self, name: str) -> Path:
        """Return the launcher's file of a program."""
        return self.folder / "programs" / f"{name}.json"

    def starts(self, name: str) -> Path:
        """Return where the launcher counts the starts of a program."""
        return self.folder / "starts" / name

    def log(self, name: str) -> Path:
        """Return where the output of a program goes."""
        return self.folder / "logs" / f"{name}.log"

    def write(self, programs: Sequence[ProgramSpec], kept: Sequence[ProgramSpec] = ()) -> bool:
        """Write what `programs` need, each file atomically and only when its bytes differ; True when one did.

        Nothing is written when supervisor's own parser does not read back what was meant. What is gone keeps its file
        until `sweep`: it may still run, and must be seen until it does not. Those of `lost` that are `kept` get their
        section again and no file. Raises E-SUPERVISOR, and E-SPACE, E-PERM or E-IO from the disk.
        """
        named = (*programs, *kept)
        text = supervisor_conf.join(self._sections(named)).encode()
        supervisor_daemon.check_limit(supervisor_conf.descriptors(len(named)))
        if _bytes(self._conf) != text:
            supervisor_conf.check(text.decode(), named)
        supervisor_daemon.folders(self.folder)
        wanted = {self.program(spec.id): (supervisor_conf.program_file(spec), 0o600) for spec in programs}
        wanted[self.folder / "launch"] = (supervisor_conf.launcher(), 0o700)
        if self._login.exists():  # a unit starts it at login: it follows a new Python as `launch` does
            wanted[self._login] = (supervisor_conf.login(self.folder), 0o700)
        wanted[self._conf] = (text, 0o600)
        changed = [path for path, (content, _) in wanted.items() if _bytes(path) != content]
        if self._conf in changed:
            self._keep_edits()
        for path in changed:
            write_atomic(path, *wanted[path])
        known = {*wanted, *(self.program(spec.id) for spec in kept)}
        return bool(changed) or any(path not in known for path in self._program_files())

    def _keep_edits(self) -> None:
        """Keep a copy of a supervisord.conf that somebody edited: what they wrote is not lmctl's to lose.

        The last one is `supervisord.conf.edited`, those before it are counted from 1 on.
        """
        content, programs = _bytes(self._conf), (f"programs/{path.name}" for path in self._program_files())
        known = {*self._scripts(), *programs}
        if not content or known.issuperset(self.declared()[1]):
            return
        copies = [self._conf.with_name(f"{self._conf.name}.edited{n}") for n in ("", *_EARLIER)]
        if _bytes(copies[0]) == content:
            return
        with _reported(copies[0]):
            for newer, older in reversed([*pairwise(copies)]):
                if newer.exists():
                    newer.replace(older)
        write_atomic(copies[0], content)

    def lost(self, but: Collection[str]) -> list[ProgramSpec]:
        """Return what supervisord.conf tells of programs whose file is gone or damaged, of none in `but`."""
        blocks, _ = supervisor_conf.split(self._text())
        names = [name for name in sorted(blocks) if supervisor_conf.ours(name) and name not in but]
        gone = (name for name in names if self._read(self.program(name)) is None)
        return [supervisor_conf.spec_of(name, blocks[name]) for name in gone]

    def _read(self, path: Path) -> ProgramSpec | None:
        """Return what a program's file declares, None when lmctl cannot have written it."""
        try:
            spec = supervisor_conf.read_program(path)
            self._sections([spec])  # its id and hash are ones that lmctl forms
        except (OSError, ValueError, LmctlError):
            return None
        return spec

    def named(self) -> frozenset[str]:
        """Return the programs that supervisord.conf names."""
        return frozenset(supervisor_conf.split(self._text())[0]) - {""}

    def sweep(self, alive: Collection[str]) -> None:
        """Remove the files of programs that supervisord.conf does not name, but for those that are `alive`.

        Raises E-PERM or E-IO.
        """
        stays = {*self.named(), *alive}
        specs = (self._read(path) for path in self._program_files())
        supervisor_keys.sweep(self.folder, {spec.id for spec in specs if spec and spec.key_file and spec.id in stays})
        for path in self._program_files():
            if path.stem not in stays:
                with _reported(path):
                    self.starts(path.stem).unlink(missing_ok=True)
                    path.unlink(missing_ok=True)

    def declared(self) -> tuple[dict[str, ProgramSpec], tuple[str, ...]]:
        """Return the programs that the files declare, and what in them is not as `write` would leave it."""
        text = self._text()
        blocks, foreign = supervisor_conf.split(text)
        specs: dict[str, ProgramSpec] = {}
        edited = list(foreign)
        for path in self._program_files():
            spec = self._read(path)
            if spec is None:
                edited.append(f"programs/{escape(path.name)}")
                continue
            autostart, stop = supervisor_conf.settings(blocks.get(spec.id, ""))
            specs[spec.id] = copy(spec, autostart=autostart, stop_timeout=stop)
            if _bytes(path) != supervisor_conf.program_file(spec):
                edited.append(f"programs/{path.name}")
        if text or specs:
            expected = self._sections(tuple(specs.values()))
            names = sorted({*blocks, *expected})
            present = [spec for name, spec in specs.items() if name in blocks]
            few = self._sections([*present, *self.lost(specs)])[""]
            if blocks[""] == few:
                # it counts the programs: one that is gone from it may not have ended yet, one may have lost its file
                expected[""] = few
            edited += [escape(name) or "supervisord" for name in names if blocks.get(name) != expected.get(name)]
            edited += [name for name, script in self._scripts().items() if not self._formed(name, script)]
        return specs, tuple(dict.fromkeys(edited))

    def stranded(self) -> tuple[str, ...]:
        """Return the scripts that name a Python, or an lmctl, which is gone, and are else as `write` would leave them.

        Those that name another one than this are fine: it may be the same by another path.
        """
        formed = ((name, self._formed(name, script)) for name, script in self._scripts().items())
        return tuple(name for name, python in formed if python and not _there(*python))

    def _scripts(self) -> dict[str, bytes]:
        """Return the scripts that are to be there, as they are."""
        found = {"launch": _bytes(self.folder / "launch"), "service": _bytes(self._login)}
        return {name: script or b"" for name, script in found.items() if name == "launch" or script is not None}

    def _formed(self, name: str, script: bytes) -> tuple[str, str] | None:
        """Return the Python and the lmctl that a script names, None unless it is one that lmctl formed."""
        python = supervisor_conf.python_of(script)
        if python is None:
            return None
        formed = supervisor_conf.launcher(*python) if name == "launch" else supervisor_conf.login(self.folder, *python)
        return python if script == formed else None

    def patience(self, names: Iterable[str]) -> dict[str, float]:
        """Return the seconds after which programs that were told to stop are killed."""
        blocks, _ = supervisor_conf.split(self._text())
        return {name: supervisor_conf.settings(blocks.get(name, ""))[1] for name in names}

    def begin_series(self, name: str, *, keep_hold: bool) -> None:
        """Count the starts of a program from here on."""
        if self.starts(name).exists():
            self._update(name, lambda records: launch.cleared(records, keep_hold=keep_hold))

    def hold(self, name: str, reason: bool | str) -> None:
        """Make the launcher refuse the program."""
        supervisor_daemon.folders(self.folder)
        self._update(name, lambda records: launch.with_hold(records, reason))

    def _update(self, name: str, change: Callable[[list[launch.Record]], Iterable[launch.Record]]) -> None:
        with _reported(self.starts(name)):
            launch.update(str(self.starts(name)), change)

    def _sections(self, programs: Sequence[ProgramSpec]) -> dict[str, str]:
        socket, limit = supervisor_daemon.socket_text(self.folder), self._log_max_bytes
        if limit is not None:
            return supervisor_conf.sections(programs, socket, limit)
        written, _ = supervisor_conf.split(self._text())
        blocks = supervisor_conf.sections(programs, socket, _LOG_BYTES)
        return {name: supervisor_conf.with_log_of(block, written.get(name, "")) for name, block in blocks.items()}

    def _program_files(self) -> list[Path]:
        return sorted((self.folder / "programs").glob("*.json"))

    def _text(self) -> str:
        return (_bytes(self._conf) or b"").decode("utf-8", "replace")


@contextlib.contextmanager
def _reported(path: Path) -> Iterator[None]:
    """Turn what the disk refuses into E-SPACE, E-PERM or E-IO."""
    try:
        yield
    except OSError as error:
        raise disk_error(path, error) from error


def _there(python: str, module: str) -> bool:
    return os.access(python, os.X_OK) and os.access(module, os.R_OK)


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None
