"""How often the same plan was tried: once, then after pauses that grow. Pure."""

from __future__ import annotations

_FIRST, _LONGEST = 60.0, 3600.0  # seconds between tries
_MOST = 256  # plans that are remembered


class Attempts:
    """Remembers plans by their fingerprint, which covers what was observed, as long as nobody edits anything."""

    def __init__(self) -> None:
        self._tried: dict[str, tuple[int, float]] = {}  # fingerprint -> tries, time of the last one
        self._declared: str | None = None

    def declared(self, fingerprint: str) -> None:
        """Note what is declared: another configuration is a fresh wish, and nothing of it was tried."""
        if fingerprint != self._declared:
            self._tried.clear()
        self._declared = fingerprint

    def due(self, plan: str, now: float) -> bool:
        """Whether a plan may be tried now. Seconds of a clock that only goes forward."""
        return now >= self.next(plan)

    def next(self, plan: str) -> float:
        """Return the time from which a plan may be tried; minus infinity for one that was not."""
        tries, last = self._tried.get(plan, (0, float("-inf")))
        return last + _pause(tries)

    def tried(self, plan: str, now: float) -> None:
        """Note a try that begins, however it ends."""
        tries = self._tried.pop(plan, (0, 0.0))[0]
        self._tried[plan] = (tries + 1, now)
        while len(self._tried) > _MOST:
            del self._tried[next(iter(self._tried))]

    def settled(self, now: float) -> None:
        """Note that there is nothing to do: what has held for longer than its pause is forgotten."""
        self._tried = {name: one for name, one in self._tried.items() if now - one[1] < 2 * _pause(one[0])}


def _pause(tries: int) -> float:
    return min(_LONGEST, _FIRST * 2.0 ** min(tries - 1, 30)) if tries else 0.0
