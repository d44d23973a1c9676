"""Kernel locks on files that are never unlinked: gone with their holder, so there is nothing to unlock by hand."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lmctl.errors import LmctlError, escape
from lmctl.paths import disk_error, make_private

_POLL = 0.1  # seconds between two tries of a waiter


@contextmanager
def exclusive(
    path: Path,
    command: str,
    *,
    wait: bool = False,
    say: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
) -> Iterator[Callable[[], None]]:
    """Hold the lock at `path`, with `wait` once its holder lets go; yield a check to make between two steps.

    A waiter is told once, through `say`, who holds it. When `stop` is set before the lock is held, KeyboardInterrupt
    is raised and nothing was done.

    The check raises E-IO when the file is no longer the one that is locked: then another lmctl may be at work.

    Raises E-BUSY naming the holder's pid, command and since when, E-PERM or E-IO when the lock file is not a regular
    file of ours.
    """
    stop = stop or threading.Event()
    make_private(path.parent)
    descriptor = _open(path)
    try:
        while not _taken(descriptor):
            if not wait:
                what = f"another lmctl works here: {_holder(descriptor)}"
                raise LmctlError("E-BUSY", what, fix="wait, or use --wait")
            if say is not None:
                say(f"waiting for another lmctl: {_holder(descriptor)}")
                say = None
            stop.wait(_POLL)
            _refuse_stopped(stop)
        _refuse_stopped(stop)
        _refuse_replaced(descriptor, path)
        _introduce(descriptor, command)
        yield lambda: _refuse_replaced(descriptor, path)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise LmctlError("E-IO", f"{escape(str(path))} is not a regular file", fix="remove it") from error
        raise disk_error(path, error) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        os.close(descriptor)
        raise LmctlError("E-PERM", f"{escape(str(path))} is not a regular file of this user", fix="remove it")
    return descriptor


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


def _refuse_replaced(descriptor: int, path: Path) -> None:
    held, now = os.fstat(descriptor), None
    with contextlib.suppress(OSError):
        now = path.lstat()
    if now is None or (held.st_dev, held.st_ino) != (now.st_dev, now.st_ino):
        raise LmctlError("E-IO", f"{escape(str(path))} was replaced while it was locked", fix="run it again")


def _holder(descriptor: int) -> str:
    try:
        note = json.loads(os.pread(descriptor, 4096, 0))
        return f"pid {int(note['pid'])}, `{escape(str(note['command']))}`, since {escape(str(note['since']), 20)}"
    except (ValueError, KeyError, TypeError):
        return "it has not said who it is yet"
