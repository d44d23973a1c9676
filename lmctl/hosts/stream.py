"""One file on its way: connections side by side, a hash behind them, a journal, and another try where one helps."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Literal

from lmctl.errors import LmctlError, escape
from lmctl.host import OnProgress, Progress
from lmctl.hosts.answers import Passing, Patience
from lmctl.hosts.carrier import Carrier, Discard, Source, Span
from lmctl.hosts.deadline import stopped
from lmctl.hosts.hashing import Flushing, Hashing, partial_bytes
from lmctl.hosts.journal import CHECKPOINT, LOSS, Partial, gaps
from lmctl.hosts.limits import Limits, Pace, Rate
from lmctl.hosts.redirects import Line
from lmctl.paths import disk_error

_TICK = 0.1  # seconds between looks at stalls, progress and the wish to stop

NewLine = Callable[[], Line]


class Stream:
    """Brings the bytes of `source` into `partial`; the calling thread saves the journal and watches the connections."""

    def __init__(
        self,
        source: Source,
        partial: Partial,
        limits: Limits,
        rate: Rate,
        stop: threading.Event,
        on_progress: OnProgress,
    ) -> None:
        self._source, self._partial, self._limits = source, partial, limits
        self._rate, self._stop, self._on_progress = rate, stop, on_progress
        self._patience = Patience(limits.tries, limits.wait, limits.backoff)
        self._discards = 0

    def run(self) -> str:
        """Return the sha256 of the whole file. Raises LmctlError; what arrived is then kept for the next time."""
        _keep_pages()
        hashing, flushing = Hashing(self._partial), Flushing(self._partial)
        try:
            while gaps(self._partial.written, self._partial.size):
                done = self._done()
                try:
                    self._attempt()
                except Discard as why:
                    hashing.end()
                    self._restart(why)
                    hashing = Hashing(self._partial)
                except Passing as passing:
                    if self._done() - done >= LOSS:
                        self._patience.progress()
                    self._pause(passing)
            flushing.end()
            self._partial.flush()
            return self._hash(hashing)
        finally:
            flushing.end()
            hashing.end()

    def _attempt(self) -> None:
        """Fetch everything that is missing; raises what the first failing connection met."""
        spans, halt = self._spans(), threading.Event()
        lock = threading.Lock()

        def take() -> Span | None:
            with lock:
                return spans.popleft() if spans else None

        carriers: list[Carrier] = []

        def more() -> None:
            line = Line(self._source.endpoint, self._limits.stall)
            carriers.append(Carrier(self._source, self._partial, take, line, self._rate, halt))

        try:
            more()
            self._watch(carriers, spans, more)
        finally:
            halt.set()
            with self._partial.room:
                self._partial.room.notify_all()
            for carrier in carriers:
                if not carrier.ended:
                    carrier.line.abort()
            for carrier in carriers:
                carrier.join()
            self._partial.save()

    def _spans(self) -> deque[Span]:
        """Return what to ask for, in file order, so that the hash can follow."""
        size, limits = self._partial.size, self._limits
        if not self._source.ranged or (size < limits.split and not self._partial.written):
            return deque(gaps(self._partial.written, size))
        return deque(
            (start, min(start + limits.span, end))
            for first, end in gaps(self._partial.written, size)
            for start in range(first, end, limits.span)
        )

    def _watch(self, carriers: list[Carrier], spans: deque[Span], more: Callable[[], None]) -> None:
        """Save, report and watch until all connections ended; raises the first failure, E-NETWORK on a stall."""
        pace = Pace(self._done())
        while not _over(carriers):
            with self._partial.due:
                self._partial.due.wait_for(lambda: self._partial.unsaved >= CHECKPOINT or _over(carriers), _TICK)
            if self._partial.unsaved >= CHECKPOINT:
                self._partial.save()
            self._report("download")
            if spans and len(carriers) < self._limits.connections and pace.wants_more(self._done()):
                more()
            if self._stop.is_set():
                raise stopped(self._source.fetch.file.path)
            for carrier in carriers:
                if not carrier.ended and carrier.stalled(self._limits.stall, self._limits.trickle):
                    what = f"{self._source.endpoint.host} sends nothing any more"
                    raise Passing(LmctlError("E-NETWORK", what, fix="run it again: it goes on where it stopped"))
        for carrier in carriers:
            if carrier.failure is not None:
                raise carrier.failure

    def _restart(self, why: Discard) -> None:
        """Throw away what is there, once, and ask for the whole file in one answer."""
        self._discards += 1
        if self._discards > 1:
            what = (
                f"{self._source.endpoint.host} does not serve {escape(self._source.fetch.file.path)} twice alike: {why}"
            )
            raise LmctlError("E-HUB", what, fix="try again later, or check the proxy")
        self._partial.discard()
        self._source.ranged, self._source.url = False, None
        self._source.tags.clear()

    def _pause(self, passing: Passing) -> None:
        seconds = self._patience.pause(passing)
        if seconds >= 1:
            self._report("wait", f"{passing.error.problems[0].what}; trying again in {seconds:.0f} s")
        if self._stop.wait(seconds):
            raise stopped(self._source.fetch.file.path)

    def _hash(self, hashing: Hashing) -> str:
        while hashing.is_alive():
            hashing.join(_TICK)
            self._report("hash", done=hashing.done)
            if self._stop.is_set():
                raise stopped(self._source.fetch.file.path)
        if hashing.failure is not None:
            raise disk_error(self._partial.path, hashing.failure)
        return hashing.hexdigest()

    def _done(self) -> int:
        return partial_bytes(self._partial)

    def _report(self, phase: Literal["download", "hash", "wait"], note: str = "", done: int | None = None) -> None:
        path, total = self._source.fetch.file.path, self._partial.size
        self._on_progress(Progress(path, self._done() if done is None else done, total, phase, note))


def _keep_pages() -> None:
    """Let the allocator keep the memory of one piece for the next: by default glibc maps each large piece anew.

    It takes the size of the largest block that was freed as the one from which to map (mallopt(3), M_MMAP_THRESHOLD);
    fresh pages for each piece cost a twentieth of a fast download.
    """
    bytes(LOSS)


def _over(carriers: list[Carrier]) -> bool:
    """Return whether there is nothing left to wait for: all ended, or one failed."""
    return all(carrier.ended for carrier in carriers) or any(carrier.failure is not None for carrier in carriers)
