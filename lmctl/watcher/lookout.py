"""While something is applied: what is saved is heard, and what nobody wants any more is ended early."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

_LONGEST = 60.0  # seconds between two looks at the time


class Lookout:
    """A thread that waits in the place of one that applies; `ended` tells whether it ended that early.

    `heed` waits for something to happen, at most so many seconds, and notes it; `wake` lets it return. `settles` tells
    when what was saved has settled, None when nothing was; `obsolete` whether something else is declared by then, and
    `end` ends what is under way, as a first interrupt does.
    """

    def __init__(
        self,
        heed: Callable[[float], None],
        wake: Callable[[], None],
        settles: Callable[[], float | None],
        obsolete: Callable[[], bool],
        end: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self.ended = False
        self._heed, self._wake, self._settles = heed, wake, settles
        self._obsolete, self._end, self._clock = obsolete, end, clock
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="lookout", daemon=True)

    def __enter__(self) -> Lookout:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._wake()
        self._thread.join()

    def _look(self) -> None:
        judged: float | None = None
        while not self._over.is_set():
            at, now = self._settles(), self._clock()
            if at is None or at == judged:
                self._heed(_LONGEST)
            elif now < at:
                self._heed(at - now)
            elif self._obsolete():
                self.ended = True
                self._end()
                return
            else:
                judged = at
