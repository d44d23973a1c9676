"""How fast, how often and how long a transfer may try."""

from __future__ import annotations

import threading
import time

from lmctl.record import record

_TRIAL = 0.25  # seconds after which the rate decides on one connection more
_GAIN = 1.15  # what one more must have brought
_ENOUGH = 128 << 20  # bytes per second of one connection that fills a line of 1 Gbit/s: more would cost, not help


@record
class Limits:
    """Seconds and bytes; the defaults are what people get."""

    connections: int = 4  # of one file, at most
    files: int = 3  # at once
    rate: int | None = None  # bytes per second of all together
    stall: float = 60.0  # seconds in which at least `trickle` bytes per second must arrive
    trickle: int = 1024
    tries: int = 5  # failures in a row, without 16 MiB of progress between them
    wait: float = 60.0  # seconds of waiting that a server may ask for, in all
    backoff: float = 0.5
    split: int = 64 << 20  # bytes from which a file is fetched over several connections
    span: int = 32 << 20  # bytes of one request then


class Pace:
    """Tells whether one connection more would help: several pay where one is slower than the line, else they cost."""

    def __init__(self, done: int) -> None:
        self._since, self._before, self._best, self._settled = time.monotonic(), done, 0.0, False

    def wants_more(self, done: int) -> bool:
        """Return True when a trial is over and the rate grew; `done` are the bytes so far."""
        now = time.monotonic()
        if self._settled or now - self._since < _TRIAL:
            return False
        rate = (done - self._before) / (now - self._since)
        self._settled = rate > _ENOUGH or rate < _GAIN * self._best
        self._since, self._before, self._best = now, done, rate
        return not self._settled


class Rate:
    """Shared by all connections: lets through so many bytes per second on average, at most a second's worth ahead."""

    def __init__(self, rate: int | None) -> None:
        self._rate, self._lock, self._free = rate, threading.Lock(), time.monotonic()

    @property
    def chunk(self) -> int:
        """Bytes to read at once: small when slow, so that a slow line is not taken for a stalled one."""
        return 1 << 20 if self._rate is None else max(1024, min(1 << 20, self._rate // 10))

    def take(self, count: int, stop: threading.Event) -> None:
        """Wait until `count` bytes may pass, or `stop`."""
        if self._rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free = max(self._free, now - 0.1) + count / self._rate
            ahead = self._free - now
        if ahead > 0:
            stop.wait(ahead)
