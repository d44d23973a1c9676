"""The program of `watch.notify`: told of what the watcher notices, one JSON object on its stdin."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from subprocess import DEVNULL, Popen

from lmctl.spec import Json

_LONGEST = 30.0  # seconds that one notice may take
_MOST = 4  # at once; more are left out: whoever is late hears of the next one
_PASSED = ("HOME", "USER", "PATH", "LANG", "TZ", "TMPDIR", "DISPLAY", "DBUS_SESSION_BUS_ADDRESS", "XDG_RUNTIME_DIR")


class Hook:
    """Starts the program without a shell and waits for nothing; it sees no token and no LMCTL_ variable."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = {key: environ[key] for key in environ if key in _PASSED or key.startswith("LC_")}
        self._running: list[tuple[Popen[bytes], float]] = []

    def tell(self, argv: tuple[str, ...], notice: Mapping[str, Json]) -> str | None:
        """Start the program with a notice; return why it cannot be, in words."""
        self.reap()
        if not argv or len(self._running) >= _MOST:
            return None
        try:
            with tempfile.TemporaryFile() as file:  # a pipe would have to be read
                file.write(json.dumps(notice).encode())
                file.seek(0)
                process = Popen(
                    argv,
                    stdin=file,
                    stdout=DEVNULL,
                    stderr=DEVNULL,
                    cwd=self._environ.get("HOME", "/"),
                    env=self._environ,
                    start_new_session=True,
                )
        except (OSError, ValueError) as error:
            return f"{argv[0]} of watch.notify cannot be run: {error.strerror if isinstance(error, OSError) else error}"
        self._running.append((process, time.monotonic()))
        return None

    def reap(self, longest: float = _LONGEST) -> None:
        """Let go of programs that ended, and end those that run longer than `longest` seconds."""
        left = []
        for process, began in self._running:
            if process.poll() is None and time.monotonic() - began >= longest:
                with suppress(OSError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            if process.poll() is None:
                left.append((process, began))
        self._running = left
