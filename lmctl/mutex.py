"""Kernel locks on files that are never unlinked: gone with their holder, so there is nothing to unlock by hand."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lmctl.errors import LmctlError, escape
from lmctl.paths import disk_error, make_private

PATIENCE = 5.0  # seconds to wait, unasked, for a lock that nobody holds for long
_GLANCE = 0.3  # seconds to wait for a lock all the same: somebody may only be asking who holds it
_POLL = 0.1  # seconds between two tries of a waiter


class Held:
    """A lock that is held. Calling it raises E-IO when the file is no longer the one that is locked.

    Then another lmctl may be at work: whoever holds it asks between two steps.
    """

    def __init__(self, path: Path, descriptor: int, command: str, say: Callable[[str], None] | None) -> None:
        self._path, self._descriptor, self._command, self._say = path, descriptor, command, say

    def __call__(self) -> None:
        held, now = os.fstat(self._descriptor), None
        with contextlib.suppress(OSError):
            now = self._path.lstat()
        if now is None or (held.st_dev, held.st_ino) != (now.st_dev, now.st_ino):
            raise LmctlError("E-IO", f"{escape(str(self._path))} was replaced while it was locked", fix="run it again")

    @contextmanager
    def released(self) -> Iterator[None]:
        """Let others have the lock meanwhile; hold it again at the end, once nobody else does.

        What was looked at before may have changed. Raises E-IO as calling does. An exception leaves without the lock.
        """
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        yield
        _wait(self._descriptor, math.inf, self._say, threading.Event())
        self()
        _introduce(self._descriptor, self._command)


@contextmanager
def exclusive(
    path: Path,
    command: str,
    *,
    wait: bool = False,
    patience: float = 0.0,
    say: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
    fix: str = "wait, or use --wait",
) -> Iterator[Held]:
    """Hold the lock at `path`, with `wait` once its holder lets go, else when it does within `patience` seconds.

    Somebody who only asks for the holder, as `holder` does, is waited for in any case.

    A waiter is told once, through `say`, who holds it. When `stop` is set before the lock is held, KeyboardInterrupt
    is raised and nothing was done.

    Raises E-BUSY naming the holder's pid, command and since when, and `fix`; E-PERM or E-IO when the lock file is not a
    regular file of ours.
    """
    stop = stop or threading.Event()
    make_private(path.parent)
    descriptor = _open(path)
    try:
        if not _wait(descriptor, math.inf if wait else max(patience, _GLANCE), say if wait else None, stop):
            raise LmctlError("E-BUSY", f"another lmctl works here: {_holder(descriptor)}", fix=fix)
        _refuse_stopped(stop)
        held = Held(path, descriptor, command, say)
        held()
        _introduce(descriptor, command)
        yield held
    finally:
        os.close(descriptor)


def holder(path: Path) -> str | None:
    """Return who holds the lock at `path` now, in words; None when nobody does, or it cannot be known.

    For a moment it shares the lock itself: whoever asks for it then tries again.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(descriptor)
    finally:
        os.close(descriptor)
    return None


def holding(path: Path) -> int | None:
    """Return the pid of who holds the lock at `path` now, as it said itself; None as `holder`."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with contextlib.suppress(ValueError, KeyError, TypeError, OSError):
            return int(json.loads(os.pread(descriptor, 4096, 0))["pid"])
    finally:
        os.close(descriptor)
    return None


def _wait(descriptor: int, seconds: float, say: Callable[[str], None] | None, stop: threading.Event) -> bool:
    """Return whether the lock was to be had within `seconds`. Raises KeyboardInterrupt when `stop` is set."""
    end = time.monotonic() + seconds
    while not _taken(descriptor):
        if time.monotonic() >= end:
            return False
        if say is not None:
            say(f"waiting for another lmctl: {_holder(descriptor)}")
            say = None
        stop.wait(_POLL)
        _refuse_stopped(stop)
    return True


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EOPNOTSUPP):
            raise LmctlError("E-IO", f"{escape(str(path))} is not a regular file", fix="remove it") from error
        if isinstance(error, PermissionError) and _of_another(path):
            raise _not_ours(path) from error
        raise disk_error(path, error) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        os.close(descriptor)
        raise _not_ours(path)
    return descriptor


def _not_ours(path: Path) -> LmctlError:
    return LmctlError("E-PERM", f"{escape(str(path))} is not a regular file of this user", fix="remove it")


def _of_another(path: Path) -> bool:
    with contextlib.suppress(OSError):
        return path.lstat().st_uid != os.geteuid()
    return False


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _introduce(descriptor: int, command: str) -> None:
    """Tell waiters who holds the lock; a disk that takes no note is no reason to do nothing."""
    note = json.dumps({"pid": os.getpid(), "since": time.strftime("%Y-%m-%d %H:%M:%S"), "command": command})
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, note.encode(), 0)


def _refuse_stopped(stop: threading.Event) -> None:
    if stop.is_set():
        raise KeyboardInterrupt


def _holder(descriptor: int) -> str:
    try:
        note = json.loads(os.pread(descriptor, 4096, 0))
        return f"pid {int(note['pid'])}, `{escape(str(note['command']))}`, since {escape(str(note['since']), 20)}"
    except (ValueError, KeyError, TypeError):
        return "it has not said who it is yet"
