"""sha256 of files: of one that is still growing, and of many side by side."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lmctl.errors import LmctlError
from lmctl.host import OnProgress, Progress
from lmctl.hosts.deadline import stopped
from lmctl.hosts.journal import Partial

BLOCK = 1 << 20  # bytes read at once
_FLUSH = 256 << 20
_PACE = 0.1  # seconds between two words about one file


class Hashing(threading.Thread):
    """Hashes a partial file in file order, right behind the bytes that arrive; OpenSSL needs no interpreter lock."""

    def __init__(self, partial: Partial) -> None:
        super().__init__(name="hash", daemon=True)
        self._partial, self._ended = partial, False
        self._sha256 = hashlib.sha256()
        self.done = 0
        self.failure: OSError | None = None
        self.start()

    def run(self) -> None:
        """Follow the frontier to the end of the file, or until `end`."""
        view = memoryview(bytearray(BLOCK))
        partial = self._partial
        while self.done < partial.size:
            with partial.grown:
                partial.grown.wait_for(lambda: self._ended or partial.frontier(self.done) > self.done)
                frontier = partial.frontier(self.done)
            if self._ended:
                return
            try:
                while self.done < frontier and not self._ended:
                    count = os.preadv(partial.descriptor, [view[: frontier - self.done]], self.done)
                    if count == 0:
                        raise OSError(5, "the partial file was cut")
                    self._sha256.update(view[:count])
                    self.done += count
            except OSError as error:
                self.failure = error
                return

    def end(self) -> None:
        """Stop without a result."""
        with self._partial.grown:
            self._ended = True
            self._partial.grown.notify_all()
        self.join()

    def hexdigest(self) -> str:
        """Return the hash; the thread has ended and `done` is the whole size."""
        return self._sha256.hexdigest()


class Flushing(threading.Thread):
    """Brings what arrives to the disk while more arrives, so that little is left to wait for at the end."""

    def __init__(self, partial: Partial) -> None:
        super().__init__(name="flush", daemon=True)
        self._partial, self._ended = partial, False
        self.start()

    def run(self) -> None:
        """Flush whenever `_FLUSH` bytes more were written, until `end`; the last flush, by another, meets any error."""
        partial = self._partial
        self._flushed = partial_bytes(partial)
        while True:
            with partial.grown:
                partial.grown.wait_for(lambda: self._ended or partial_bytes(partial) - self._flushed >= _FLUSH)
            if self._ended:
                return
            self._flushed = partial_bytes(partial)
            with contextlib.suppress(LmctlError):
                partial.flush()

    def end(self) -> None:
        """Stop."""
        with self._partial.grown:
            self._ended = True
            self._partial.grown.notify_all()
        self.join()


def partial_bytes(partial: Partial) -> int:
    """Return how many bytes of the file are there."""
    return sum(end - start for start, end in partial.written)


def sha256(path: Path, on_bytes: Callable[[int], None] | None = None, stop: threading.Event | None = None) -> str:
    """Return the sha256 of a regular file; `on_bytes` is told the bytes done so far.

    Raises OSError, and E-NETWORK once `stop` is set.
    """
    digest, buffer, done = hashlib.sha256(), bytearray(BLOCK), 0
    view = memoryview(buffer)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            if stop is not None and stop.is_set():
                raise stopped(path.name)
            digest.update(view[:count])
            done += count
            if on_bytes is not None:
                on_bytes(done)
    return digest.hexdigest()


def side_by_side(
    paths: Sequence[Path], on_progress: OnProgress, stop: threading.Event | None = None
) -> tuple[str | None, ...]:
    """Return the sha256 of each file, on all cores at once; None where it cannot be read.

    Raises E-INTERRUPTED once `stop` is set, within the time that a block takes.
    """
    telling, told = threading.Lock(), dict.fromkeys(paths, 0.0)

    def one(path: Path) -> str | None:
        def tell(done: int) -> None:
            now = time.monotonic()
            if now - told[path] >= _PACE:
                told[path] = now
                with telling:
                    on_progress(Progress(str(path), done, size, "hash"))

        try:
            size = path.stat().st_size
            return sha256(path, tell, stop)
        except OSError:
            return None

    with ThreadPoolExecutor(os.cpu_count() or 1, "hash") as pool:
        return tuple(pool.map(one, paths))
