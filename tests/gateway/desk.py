"""A scheduler with a machine of numbers below it: what it asks for is noted, and done when a test says so."""

from __future__ import annotations

from collections.abc import Mapping

from lmctl.gateway.demand import Admit, Drained, Look, Policy, Refuse, Seen, Start, Stop, Why
from lmctl.gateway.scheduler import Scheduler

SOLO = Policy("on-demand", ttl=100.0, slots=1, queue=4, load_timeout=60.0)


class Desk:
    """`running` is what a look finds, `sizes` the memory of each profile against `memory`; None: not known."""

    def __init__(self, policies: Mapping[str, Policy], memory: float | None = None, **sizes: float) -> None:
        self.now = 1000.0
        self.memory, self.sizes = memory, sizes
        self.running: dict[str, Seen] = {}
        self.starts: list[str] = []  # under way
        self.stops: list[str] = []
        self.causes: dict[str, str] = {}  # why each was last told to stop
        self.ended: dict[int, Why | None] = {}  # None: admitted
        self.drained: list[str] = []
        self.looks = 0
        self.scheduler = Scheduler()
        self.policies = dict(policies)
        self.follow()

    def fits(self, names: frozenset[str]) -> bool | None:
        if self.memory is None:
            return None
        return sum(self.sizes.get(name, 1) for name in names) <= self.memory

    def follow(self, **policies: Policy) -> None:
        self.policies.update(policies)
        self.scheduler.follow(self.policies, self.fits, self.now)
        self.heed()

    def heed(self) -> None:
        while effects := self.scheduler.take():
            for effect in effects:
                self.do(effect)

    def do(self, effect: object) -> None:
        match effect:
            case Start(name=name):
                self.starts.append(name)
            case Stop(name=name, cause=cause):
                self.stops.append(name)
                self.causes[name] = cause
            case Admit(ticket=ticket):
                assert ticket not in self.ended
                self.ended[ticket] = None
            case Refuse(ticket=ticket, why=why):
                assert ticket not in self.ended
                self.ended[ticket] = why
            case Drained(name=name):
                self.drained.append(name)
            case Look():
                self.looks += 1
                self.look()

    def look(self) -> None:
        self.scheduler.observed(self.running, self.now, self.now)

    def ask(self, name: str) -> int:
        """Return a ticket; one that never waited is admitted at once, as 0."""
        if self.scheduler.enter(name):
            return 0
        ticket = self.scheduler.wait(name, self.now)
        self.heed()
        return ticket

    def leave(self, name: str) -> None:
        self.scheduler.leave(name, self.now)
        self.heed()

    def up(self, name: str) -> None:
        """The start under way is done."""
        self.starts.remove(name)
        self.running[name] = "ready"
        self.scheduler.started(name, self.now)
        self.heed()

    def down(self, name: str) -> None:
        """The stop under way is done."""
        self.stops.remove(name)
        self.running.pop(name, None)
        self.scheduler.stopped(name, self.now)
        self.heed()

    def fails(self, name: str, what: str = "no weights") -> None:
        self.starts.remove(name)
        self.scheduler.failed(name, Why(503, "start_failed", what, 1.0), self.now)
        self.heed()

    def serve(self, name: str) -> None:
        """Start a profile and serve one request."""
        self.ask(name)
        self.up(name)
        self.leave(name)

    def give_up(self, name: str, ticket: int) -> None:
        self.scheduler.give_up(name, ticket, self.now)
        self.heed()

    def after(self, seconds: float) -> None:
        """Time passes, with every moment at which something is due."""
        end, turns = self.now + seconds, 0
        while (due := self.scheduler.due()) <= end:
            turns += due <= self.now
            assert turns < 1000, "something is due again and again"
            self.now = max(self.now, due)
            self.scheduler.tick(self.now)
            self.heed()
        self.now = end

    def state(self, name: str) -> str:
        return self.scheduler.states()[name].state

    def code(self, ticket: int) -> str:
        """Return how a ticket ended: "waits", "admitted" or the code of its refusal."""
        if ticket not in self.ended:
            return "admitted" if ticket == 0 else "waits"
        why = self.ended[ticket]
        return "admitted" if why is None else why.code
