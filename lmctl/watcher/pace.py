"""When to look: edits are let settle, what comes meanwhile makes one more turn, and time passes. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from lmctl.record import record

_MOST_NAMES = 16  # of one turn: more are only counted as having changed
_LONGEST = 10.0  # debounces that saving without an end may put a turn off


@record
class Turn:
    """Why it is time to look: files that changed, and whether the world is compared too."""

    files: tuple[str, ...] = ()
    world: bool = False


class Pace:
    """Collects what happens and says when it is time. Times are seconds of a clock that only goes forward."""

    def __init__(self, debounce: float, interval: float, now: float) -> None:
        self._debounce, self._interval = debounce, interval
        self._first: float | None = None  # of the files that changed since the last turn
        self._last = now
        self._files: set[str] = set()
        self._again: float | None = None  # when to try once more what somebody else was in the way of
        self._ended: float | None = None  # when the first program ended since the world was compared
        self._compared = now

    def set(self, debounce: float, interval: float) -> None:
        """Take on what the configuration says now."""
        self._debounce, self._interval = debounce, interval

    def saved(self, files: Iterable[str], now: float) -> None:
        """Note that files changed: their turn comes once nothing more happens to them."""
        self._first = now if self._first is None else self._first
        self._last = now
        for name in sorted(files):
            if len(self._files) < _MOST_NAMES:
                self._files.add(name)

    def ended(self, now: float) -> None:
        """Note that a program ended."""
        self._ended = now if self._ended is None else self._ended

    def again(self, at: float) -> None:
        """Have a turn at a time, if there is none before."""
        self._again = at

    def settles(self) -> float | None:
        """Return when the files that changed since the last turn have settled; None when none did."""
        if self._first is None:
            return None
        return min(self._last + self._debounce, self._first + _LONGEST * self._debounce)

    def turn(self, now: float) -> Turn | None:
        """Return the turn that is due and begin it: what is noted from now on makes another one."""
        if now < self._next():
            return None
        world = now >= self._world()
        found = Turn(tuple(sorted(self._files)), world)
        self._first, self._files, self._again = None, set(), None
        if world:
            self._ended, self._compared = None, now
        return found

    def wait(self, now: float) -> float:
        """Return the seconds until a turn is due, if nothing more happens."""
        return max(0.0, self._next() - now)

    def _next(self) -> float:
        settles = self._again if self._first is None else self.settles()
        return self._world() if settles is None else min(settles, self._world())

    def _world(self) -> float:
        timer = self._compared + self._interval
        return timer if self._ended is None else min(timer, self._ended + self._debounce)
