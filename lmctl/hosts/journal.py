"""A partial file and the journal of its finished ranges: what a killed download leaves for the next one."""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import stat
import threading
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from lmctl.errors import LmctlError, escape
from lmctl.hosts import pids
from lmctl.paths import disk_error, make_private, sync

LOSS = 16 << 20  # bytes that may be on disk without the journal saying so
CHECKPOINT = 8 << 20  # bytes after which the journal is written
_STRIDE = 16 << 20  # bytes after which those who follow the file are woken: a wake-up costs as much as copying them
_PAGE = 4096  # bytes of a journal: blanks fill it, so that the next one covers all of it
_BOOT = Path("/proc/sys/kernel/random/boot_id")

Ranges = tuple[tuple[int, int], ...]  # disjoint, sorted, [start, end)


def merged(ranges: Sequence[tuple[int, int]], start: int, end: int) -> Ranges:
    """Return `ranges` with [start, end) added."""
    apart = [one for one in ranges if one[1] < start or one[0] > end]
    met = [one for one in ranges if one not in apart]
    return tuple(sorted([*apart, (min([start, *(a for a, _ in met)]), max([end, *(b for _, b in met)]))]))


def gaps(ranges: Sequence[tuple[int, int]], size: int) -> Ranges:
    """Return what of [0, size) is in none of `ranges`."""
    edges = [0, *(edge for one in ranges for edge in one), size]
    return tuple((a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b)


def boot() -> str:
    """Return what names this run of the system, empty where nothing does."""
    return _BOOT.read_text().strip() if _BOOT.exists() else _boot_elsewhere()


@cache
def _boot_elsewhere() -> str:
    from lmctl.hosts import sysctl  # ctypes: needed on macOS alone

    return sysctl.text("kern.bootsessionuuid") or ""


def finished(path: Path, size: int) -> Ranges:
    """Return the ranges of the partial file that its journal vouches for; one that cannot be read vouches for none.

    What was written outlives a killed process, but only what was flushed outlives a crash of the system.
    """
    try:
        held, there = json.loads(_journal(path).read_bytes()), path.stat().st_size
        same = held["boot"] == boot() != ""
        pairs = [(int(start), int(end)) for start, end in held["written" if same else "flushed"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return ()
    ordered = all(a < b for a, b in pairs) and all(x[1] < y[0] for x, y in itertools.pairwise(pairs))
    within = all(start >= 0 and end <= min(size, there) for start, end in pairs)
    return tuple(pairs) if ordered and within and held.get("size") == size else ()


def _journal(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")


class Partial:
    """A partial file that this process alone writes: an exclusive flock on the file itself, kept until `close`.

    Several threads may `write`, one saves. Three conditions share one lock, so that no thread is woken in vain: `room`
    for those who write, `due` for the one who saves, `grown` for those who follow the bytes.
    """

    def __init__(self, path: Path, size: int, descriptor: int) -> None:
        self.path, self.size, self.descriptor = path, size, descriptor
        lock = threading.Lock()
        self.room, self.due, self.grown = (threading.Condition(lock) for _ in range(3))
        self.written: Ranges = finished(path, size)
        self.flushed: Ranges = ()
        self.unsaved = 0
        self._boot = boot()
        self._unseen = 0  # bytes written since `grown` was notified

    @classmethod
    def open(cls, folder: Path, sha256: str, size: int) -> Partial:
        """Open or create the partial file of `sha256`; raises E-BUSY when another process writes it."""
        path = make_private(folder) / sha256
        while True:
            try:
                # the folder is private; the mode is what the file shall have in the cache, by the umask
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
                descriptor = os.open(path, flags, 0o666)
            except OSError as error:
                raise disk_error(path, error) from error
            try:
                if _locked(descriptor, path):
                    return cls(path, size, descriptor)
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # replaced while the lock was taken: the path names another file now

    @property
    def journal(self) -> Path:
        return _journal(self.path)

    def write(self, offset: int, data: bytes, stop: threading.Event) -> None:
        """Write `data` at `offset`; waits while too much is not in the journal yet. Raises E-SPACE, E-IO."""
        with self.room:
            self.room.wait_for(lambda: self.unsaved + len(data) <= LOSS or stop.is_set())
        view, position = memoryview(data), offset
        try:
            while view:
                count = os.pwrite(self.descriptor, view, position)
                view, position = view[count:], position + count
        except OSError as error:
            raise self._refused(error) from error
        with self.room:
            self.written = merged(self.written, offset, position)
            self.unsaved += len(data)
            self._unseen += len(data)
            if self.unsaved >= CHECKPOINT:
                self.due.notify_all()
            if self._unseen >= _STRIDE or self.written == ((0, self.size),):
                self._unseen = 0
                self.grown.notify_all()

    def save(self) -> None:
        """Say in the journal what is on disk."""
        if not self._boot:
            self.flush()
        with self.room:
            ranges, count = self.written, self.unsaved
        held = {"size": self.size, "pid": os.getpid(), "boot": self._boot, "written": ranges, "flushed": self.flushed}
        try:
            self._put(json.dumps(held).encode())
        except OSError as error:
            raise self._refused(error) from error
        with self.room:
            self.unsaved -= count
            self.room.notify_all()

    def _put(self, data: bytes) -> None:
        """Write the journal: whole in its place the first time, then over itself, in one call for one page.

        No fsync and no file in the place of another: an old journal loses a few bytes, a torn one is not believed,
        and a rename over a file makes many file systems write the new one out, which took a quarter of a download.
        """
        try:
            descriptor = os.open(self.journal, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            temporary = self.journal.with_name(f".{self.journal.name}.tmp")
            try:
                temporary.write_bytes(data.ljust(_PAGE))
                temporary.replace(self.journal)
            except OSError:
                temporary.unlink(missing_ok=True)
                raise
            return
        with open(descriptor, "wb", buffering=0) as file:
            there = os.fstat(file.fileno()).st_size
            file.write(data.ljust(max(_PAGE, there)))

    def flush(self) -> None:
        """Bring to the disk what was written; other threads may go on writing."""
        ranges = self.written
        try:
            getattr(os, "fdatasync", sync)(self.descriptor)  # macOS has no fdatasync
        except OSError as error:
            raise self._refused(error) from error
        self.flushed = ranges

    def _refused(self, error: OSError) -> LmctlError:
        return disk_error(self.path, error, sum(end - start for start, end in gaps(self.written, self.size)))

    def frontier(self, position: int) -> int:
        """Return the end of the written bytes that follow `position` without a gap; call it holding `grown`."""
        return next((end for start, end in self.written if start <= position < end), position)

    def discard(self) -> None:
        """Forget all bytes: they belong to something else. Raises E-SPACE, E-PERM, E-IO."""
        with self.room:
            self.written, self.flushed, self.unsaved, self._unseen = (), (), 0, 0
            self.room.notify_all()
        self.forget()
        try:
            os.ftruncate(self.descriptor, 0)
        except OSError as error:
            raise disk_error(self.path, error) from error

    def remove(self) -> None:
        """Remove file and journal. Raises E-PERM, E-IO."""
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(self.path, error) from error
        self.forget()

    def forget(self) -> None:
        """Remove the journal. Raises E-PERM, E-IO."""
        try:
            self.journal.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(self.journal, error) from error

    def close(self) -> None:
        """Give up the lock."""
        os.close(self.descriptor)


def _locked(descriptor: int, path: Path) -> bool:
    """Lock `descriptor`; False when `path` names another file by then. Raises E-BUSY, E-IO."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise LmctlError("E-IO", f"{escape(str(path))} is not a regular file", fix="remove it")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        what = f"{path.name[:12]}… is being downloaded by {_holder(path)}"
        raise LmctlError("E-BUSY", what, fix="wait until it is done, then run it again") from error
    try:
        named = path.lstat()
    except FileNotFoundError:
        return False
    return (named.st_ino, named.st_dev) == (status.st_ino, status.st_dev)


def _holder(path: Path) -> str:
    try:
        return f"pid {int(json.loads(_journal(path).read_bytes())['pid'])}"
    except (OSError, ValueError, TypeError, KeyError):
        return "another lmctl"


def busy(path: Path) -> bool:
    """Return whether a process that lives writes the partial file `path`, as far as its journal tells."""
    try:
        held = json.loads(_journal(path).read_bytes())
        return held["boot"] == boot() and pids.stat(int(held["pid"])) is not None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return False
