"""lmctl's own log: a line for every command that did something, in the state folder of its declaration.

Commands that only look, and commands that find nothing to do, write nothing. No line holds a secret or a prompt.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

from lmctl.errors import BROKEN_PIPE, BUG, DISK, INTEGRITY, INTERRUPTED, NETWORK, PARTIAL, TERMINATED, UNHEALTHY
from lmctl.record import record
from lmctl.result import Result
from lmctl.spec import Json

NAME = "lmctl.log"
_SIZE = 1 << 20  # bytes after which a new file is begun
_KEPT = 2  # older files
_MOST = 100  # changes and errors that a line tells
# how a command may end that has begun; every other code says that it was refused and nothing changed
_BEGUN = frozenset(
    [BUG, PARTIAL, INTEGRITY, NETWORK, DISK, UNHEALTHY, INTERRUPTED, BROKEN_PIPE, TERMINATED],
)


# of these a failure is told as well; what they did stands in `Result.done`
ACTS = frozenset(
    [
        *("apply", "doctor", "down", "download", "lock", "prune", "restart"),
        *("rollback", "service", "start", "stop", "trust", "uninstall"),
    ]
)


@record
class Ran:
    """One command that has ended. `began` in seconds since the epoch, `took` in seconds."""

    command: str
    result: Result
    began: float
    took: float

    @property
    def counts(self) -> bool:
        """Whether there is something to write down."""
        return bool(self.result.done) or (self.command in ACTS and self.result.exit_code in _BEGUN)


def line(ran: Ran, hide: Callable[[str], str]) -> bytes:
    """Return the line of a command: one JSON object, control characters escaped; `hide` takes secrets out of text."""
    changes, errors = ran.result.done, ran.result.errors
    told: dict[str, Json] = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(ran.began)),
        "pid": os.getpid(),
        "command": ran.command,
        "exit": ran.result.exit_code,
        "seconds": round(ran.took, 3),
        "changes": [hide(change) for change in changes[:_MOST]],
        "errors": [hide(f"{error.code}: {error.what}") for error in errors[:_MOST]],
    }
    if len(changes) > _MOST:
        told["more"] = len(changes) - _MOST
    return json.dumps(told).encode() + b"\n"


def write(folder: Path, text: bytes) -> None:
    """Append a line to the log in a state folder that exists; a disk that refuses it keeps no command from ending."""
    with contextlib.suppress(OSError):
        path = folder / NAME
        descriptor = _opened(path)
        try:
            # whoever else turns the files over is done at once: without the lock the line goes into a file too large
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.fstat(descriptor).st_size + len(text) > _SIZE and _is(descriptor, path):
                    _turn_over(path)
                    os.close(descriptor)
                    descriptor = _opened(path)
            os.write(descriptor, text)
        finally:
            os.close(descriptor)


def tail(folder: Path, lines: int) -> list[str]:
    """Return the latest lines of the log, the oldest first; nothing where there is none."""
    found: list[str] = []
    for path in (folder / f"{NAME}.1", folder / NAME):
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(descriptor, "rb") as file:
                found += file.read(2 * _SIZE).decode("utf-8", "replace").splitlines()
    return found[-lines:]


def _opened(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(path, flags, 0o600)


def _is(descriptor: int, path: Path) -> bool:
    return os.path.samestat(os.fstat(descriptor), path.lstat())


def _turn_over(path: Path) -> None:
    for number in range(_KEPT, 0, -1):
        older = path.with_name(f"{NAME}.{number}")
        newer = path if number == 1 else path.with_name(f"{NAME}.{number - 1}")
        with contextlib.suppress(FileNotFoundError):
            newer.replace(older)
