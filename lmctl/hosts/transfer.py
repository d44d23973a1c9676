"""Files from the Hub into the Hugging Face cache: room first, several at once, verified, placed by rename."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lmctl.errors import LmctlError, escape
from lmctl.host import Fetch, Fetched, OnProgress, Progress
from lmctl.hosts import placing
from lmctl.hosts.carrier import Source
from lmctl.hosts.deadline import stopped
from lmctl.hosts.endpoint import Endpoint
from lmctl.hosts.hashing import sha256
from lmctl.hosts.journal import Partial, finished
from lmctl.hosts.limits import Limits, Rate
from lmctl.hosts.stream import Stream
from lmctl.paths import disk_error, make_private, sync_folder
from lmctl.spec import Signature

_PACE = 0.1  # seconds between two words about one file
_MARGIN = 1.05  # of what is missing must be free


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write on the file system of `folder`."""
    held = os.statvfs(folder)
    return held.f_bavail * held.f_frsize


class HubTransfer:
    """`host.Transfer`. `hub` is the Hugging Face cache, `own` the folder `<HF_HOME>/lmctl` on the same file system.

    `stop` ends every download soon, with all that arrived kept. The token is sent to the endpoint alone.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        hub: Path,
        own: Path,
        limits: Limits | None = None,
        *,
        stop: threading.Event | None = None,
        free: Callable[[Path], int] = free_bytes,
    ) -> None:
        self._endpoint, self._hub, self._own, self._limits = endpoint, hub, own, limits or Limits()
        self._stop, self._free = stop or threading.Event(), free
        self._rate = Rate(self._limits.rate)
        self._telling = threading.Lock()

    def room(self, fetches: Sequence[Fetch]) -> None:
        """Raise E-SPACE when what is missing and 5 % do not fit, E-IO when partial files lie on another file system."""
        here, there = _existing(self._own), _existing(self._hub)
        if here.stat().st_dev != there.stat().st_dev:
            what = f"{escape(str(self._own))} and {escape(str(self._hub))} are on different file systems"
            raise LmctlError("E-IO", what, fix="set HF_HOME so that both are on one")
        needs = {fetch.file.sha256: (fetch, self._missing(fetch)) for fetch in fetches}
        needed = int(sum(missing for _, missing in needs.values()) * _MARGIN)
        free = self._free(there)
        if needed > free:
            rows = [f"\n  {_bytes(missing):>11}  {escape(f.file.path)}" for f, missing in needs.values() if missing]
            what = f"{_bytes(needed)} are needed on {escape(str(there))} (5 % to spare), {_bytes(free)} are free"
            raise LmctlError("E-SPACE", what + "".join(rows), fix="free some space, or run `lmctl prune`")

    def fetch(
        self, fetches: Sequence[Fetch], on_progress: OnProgress, on_verified: Callable[[Fetched], None]
    ) -> tuple[Fetched, ...]:
        """Bring every file, each to its own end: one that fails does not keep the others from coming.

        `on_verified` hears of each file that was brought, from several threads, before it gets its place; never of
        one that the cache had already.
        """
        groups: dict[str, list[Fetch]] = {}
        for fetch in fetches:
            groups.setdefault(fetch.file.sha256, []).append(fetch)

        told: dict[str, tuple[str, float]] = {}  # by path: the last phase, and when

        def tell(progress: Progress) -> None:
            with self._telling:
                phase, at = told.get(progress.path, ("", 0.0))
                if progress.phase != phase or time.monotonic() - at >= _PACE:
                    told[progress.path] = progress.phase, time.monotonic()
                    on_progress(progress)

        with ThreadPoolExecutor(max(1, self._limits.files), "file") as pool:
            running = [pool.submit(self._group, group, tell, on_verified) for group in groups.values()]
            try:
                ended = {fetched.fetch: fetched for future in running for fetched in future.result()}
            except BaseException:
                self._stop.set()  # also for an interrupt: what arrived is kept, then the pool can end
                raise
        return tuple(ended[fetch] for fetch in fetches)

    def _group(self, group: Sequence[Fetch], tell: OnProgress, on_verified: Callable[[Fetched], None]) -> list[Fetched]:
        """Bring files of the same content one after the other: they share a partial file."""
        return [self._ended(fetch, tell, on_verified) for fetch in group]

    def _ended(self, fetch: Fetch, tell: OnProgress, on_verified: Callable[[Fetched], None]) -> Fetched:
        path, size = fetch.file.path, fetch.file.size
        try:
            blob = self._one(fetch, tell, on_verified)
        except LmctlError as error:
            if error.code != "E-INTERRUPTED":
                tell(Progress(path, 0, size, "failed", error.problems[0].what))
            return Fetched(fetch, error=error)
        tell(Progress(path, size, size, "done"))
        return Fetched(fetch, blob, _signature(blob))

    def _one(self, fetch: Fetch, tell: OnProgress, on_verified: Callable[[Fetched], None]) -> Path:
        if self._stop.is_set():
            raise stopped(fetch.file.path)
        placing.snapshot_path(self._hub, fetch.repo, fetch.commit, fetch.file.path)
        if blob := self._there(fetch, tell):
            return blob
        self._endpoint.reachable()
        partial = Partial.open(self._own / "partial", fetch.file.sha256, fetch.file.size)
        try:
            if blob := self._there(fetch, tell):  # another process was quicker
                partial.remove()
                return blob
            source = Source(self._endpoint, fetch)
            found = Stream(source, partial, self._limits, self._rate, self._stop, tell).run()
            if found != fetch.file.sha256:
                raise self._quarantined(partial, fetch, found)
            tell(Progress(fetch.file.path, fetch.file.size, fetch.file.size, "place"))
            on_verified(Fetched(fetch, placing.blob_path(self._hub, fetch), _signature(partial.path)))
            blob = placing.place(partial.path, self._hub, self._own, fetch)
            partial.forget()
            return blob
        finally:
            partial.close()

    def _there(self, fetch: Fetch, tell: OnProgress) -> Path | None:
        """Return the blob when the cache has it already with the right sha256, linked."""
        blob, size = placing.blob_path(self._hub, fetch), fetch.file.size
        try:
            if blob.stat().st_size != size:
                return None
            told = lambda done: tell(Progress(fetch.file.path, done, size, "hash"))  # noqa: E731
            if sha256(blob, told, self._stop) != fetch.file.sha256:
                return None
        except OSError:
            return None  # not there, or not to be read: then it is fetched
        placing.link(self._hub, self._own, fetch)
        return blob

    def _quarantined(self, partial: Partial, fetch: Fetch, found: str) -> LmctlError:
        folder = make_private(self._own / "quarantine")
        try:
            partial.path.replace(folder / fetch.file.sha256)
            partial.journal.unlink(missing_ok=True)
            sync_folder(folder)
        except OSError as error:
            return disk_error(folder, error)
        what = f"{escape(fetch.file.path)} has sha256 {found}, the lock says {fetch.file.sha256}"
        return LmctlError("E-HASH", what, fix="run it again; if it stays so, `lmctl lock --upgrade`")

    def _missing(self, fetch: Fetch) -> int:
        try:
            if placing.blob_path(self._hub, fetch).stat().st_size == fetch.file.size:
                return 0
        except OSError:
            pass  # not there yet
        held = finished(self._own / "partial" / fetch.file.sha256, fetch.file.size)
        return fetch.file.size - sum(end - start for start, end in held)


def _signature(path: Path) -> Signature:
    status = path.stat()
    return Signature(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)


def _existing(path: Path) -> Path:
    """Return the nearest folder of `path` that exists, as far as that may be known."""
    return next(part for part in (path, *path.parents) if os.path.isdir(part))  # noqa: PTH112 (a shut one has none)


def _bytes(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
