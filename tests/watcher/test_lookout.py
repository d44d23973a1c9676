"""What is applied ends early once something else is declared, and only then; time is what the test says it is."""

from __future__ import annotations

import queue
import threading

from lmctl.watcher.lookout import Lookout
from lmctl.watcher.pace import Pace


class World:
    """Edits that the test makes; each is noted by `heed` and judged once it settled, a second later."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pace = Pace(1.0, 60.0, self.now)
        self.happens: queue.Queue[str | None] = queue.Queue()
        self.heard: queue.Queue[float] = queue.Queue()  # seconds for which it wanted to wait
        self.declared = "as applied"
        self.judged: list[str] = []
        self.ended = threading.Event()

    def heed(self, seconds: float) -> None:
        self.heard.put(seconds)
        saved = self.happens.get(timeout=60)
        if saved is not None:
            self.pace.saved([saved], self.now)

    def obsolete(self) -> bool:
        self.judged.append(self.declared)
        return self.declared != "as applied"

    def lookout(self) -> Lookout:
        wake = lambda: self.happens.put(None)  # noqa: E731
        return Lookout(self.heed, wake, self.pace.settles, self.obsolete, self.ended.set, lambda: self.now)

    def save(self, declared: str) -> None:
        self.declared = declared
        self.happens.put("a.toml")

    def waits(self) -> float:
        """Return for how long it now wants to wait."""
        return self.heard.get(timeout=60)


def test_an_apply_in_which_nothing_is_saved_goes_on():
    world = World()
    with world.lookout() as lookout:
        assert world.waits() == 60.0
    assert (lookout.ended, world.judged) == (False, [])


def test_F25_an_apply_ends_early_once_something_else_is_declared_and_has_settled():
    world = World()
    with world.lookout() as lookout:
        world.waits()
        world.save("something else")
        assert world.waits() == 1.0
        assert world.judged == []
        world.now = 1.0
        world.happens.put(None)
        assert world.ended.wait(60)
    assert lookout.ended
    assert world.pace.turn(1.0) is not None, "what was saved has its turn afterwards"


def test_a_save_that_declares_the_same_ends_nothing_and_the_next_one_is_judged_anew():
    world = World()
    with world.lookout() as lookout:
        world.waits()
        world.save("as applied")
        world.waits()
        world.now = 1.0
        world.happens.put(None)
        assert world.waits() == 60.0  # judged once, however long it goes on
        assert world.judged == ["as applied"]
        world.now = 5.0
        world.save("something else")
        world.waits()
        world.now = 6.0
        world.happens.put(None)
        assert world.ended.wait(60)
    assert (lookout.ended, world.judged) == (True, ["as applied", "something else"])
