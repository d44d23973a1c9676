"""What a binary says of itself, its version and its flags: asked once, kept until the file changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT, TimeoutExpired
from typing import Any

from plumbum import local

from lmctl.errors import LmctlError, escape
from lmctl.paths import make_private, write_atomic
from lmctl.record import record

_OUTPUT = 256 << 10  # bytes of that output which are read
_FLAG = r"(?<![\w-])--[A-Za-z][\w-]*"
_VERSION = r"(?i)version:?\s*(\S.*)"


@record
class Facts:
    """What a binary told about itself; `version` is one line, or None when it prints none."""

    version: str | None
    flags: frozenset[str]

    def unknown(self, argv: Sequence[str]) -> list[str]:
        """Return the long flags in `argv` that the binary's help does not show."""
        return [word for word in argv if re.fullmatch(_FLAG, word) and word not in self.flags]


class Binaries:
    """Runs binaries with `path` as PATH, for at most `timeout` seconds, and remembers their answers in `cache`."""

    def __init__(self, path: str, cache: Path, timeout: float) -> None:
        self._path, self._cache, self._timeout = path, cache, timeout

    def facts(self, command: tuple[str, ...], fix: str) -> Facts:
        """Return the answers, asked once per file. Raises E-ENGINE when it does not run here or prints no flags."""
        known = self.remembered(command)
        if known is not None:
            return known
        code, first = self._ask((*command, "--version"), fix)
        _, help_text = self._ask((*command, "--help"), fix)
        facts = Facts(_version_in(first) if code == 0 else None, frozenset(re.findall(_FLAG, help_text)))
        if not facts.flags:
            what = f"{escape(command[0])} prints no flags: {escape(help_text.strip(), 80) or 'nothing at all'}"
            raise LmctlError("E-ENGINE", what, fix=fix)
        self._remember(command, facts)
        return facts

    def version(self, command: tuple[str, ...], fix: str) -> str | None:
        """Return what the binary prints for --version. Raises E-ENGINE when it does not run here."""
        code, output = self._ask((*command, "--version"), fix)
        return _version_in(output) if code == 0 else None

    def _ask(self, command: tuple[str, ...], fix: str) -> tuple[int, str]:
        what = escape(" ".join(command))
        environment = {"PATH": self._path, "HOME": os.environ.get("HOME", "/"), "LANG": "C"}
        try:
            process: Any = local[command[0]].popen(
                command[1:], stdin=DEVNULL, stdout=PIPE, stderr=STDOUT, env=environment, cwd="/", new_session=True
            )
        except OSError as error:  # a wrong architecture, a missing interpreter
            raise LmctlError("E-ENGINE", f"{what} does not run here: {error.strerror}", fix=fix) from error
        try:
            output = _read(process.stdout.fileno(), time.monotonic() + self._timeout)
        finally:
            code = _end(process)
        if output is None:
            raise LmctlError("E-ENGINE", f"{what} says nothing within {self._timeout:.0f} s", fix=fix)
        if code < 0 and len(output) < _OUTPUT:  # a longer output was cut short by us
            killed = signal.Signals(-code).name
            raise LmctlError("E-ENGINE", f"{what} ends with {killed}", fix=fix)
        return code, output.decode("utf-8", "replace")

    def _note(self, command: tuple[str, ...]) -> tuple[Path, list[str | int]]:
        status = Path(command[0]).stat()
        name = hashlib.sha256("\0".join(command).encode("utf-8", "surrogateescape")).hexdigest()[:16]
        return self._cache / f"{name}.json", [*command, status.st_size, status.st_mtime_ns]

    def remembered(self, command: tuple[str, ...]) -> Facts | None:
        """Return what the file told before, None when it was never asked or has changed. Raises OSError."""
        file, key = self._note(command)
        try:
            note = json.loads(file.read_bytes())
            return Facts(note["version"], frozenset(note["flags"])) if note["key"] == key else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # a cache that cannot be read is no cache

    def _remember(self, command: tuple[str, ...], facts: Facts) -> None:
        file, key = self._note(command)
        note = {"key": key, "version": facts.version, "flags": sorted(facts.flags)}
        with contextlib.suppress(LmctlError, OSError):
            make_private(self._cache)
            write_atomic(file, json.dumps(note).encode())


def _end(process: Any) -> int:
    """Return the exit code of a program that is done; one that is not is killed with all that it started."""
    try:
        process.wait(1.0)
    except TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    process.stdout.close()
    return int(process.returncode)


def _read(descriptor: int, deadline: float) -> bytes | None:
    """Return what comes until the end, at most `_OUTPUT` bytes; None when the end does not come in time."""
    found = b""
    while len(found) < _OUTPUT:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return None
        part = os.read(descriptor, 65536)
        if not part:
            break
        found += part
    return found[:_OUTPUT]


def _version_in(output: str) -> str | None:
    """Return the line that names a version, without that word; else the first line; None when there is none."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    named = next((found[1] for line in lines if (found := re.search(_VERSION, line))), None)
    shown = named or (lines[0] if lines else None)
    return None if shown is None else escape(shown, 80)
