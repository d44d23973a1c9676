"""What the scheduler decides whenever something happened: who is let through, starts, stops and makes way. Pure."""

from __future__ import annotations

from lmctl.gateway import turned_away, turns
from lmctl.gateway.demand import Admit, Cause, Drained, Effect, Fits, Look, Refuse, Start, Stop, Why
from lmctl.gateway.served import NEVER, Served
from lmctl.record import replace

_ROUND = 15.0  # seconds between two looks that nobody asked for


class Decisions:
    """The state of all profiles, and what follows from it; `Scheduler` tells it what happened."""

    def __init__(self) -> None:
        self._served: dict[str, Served] = {}
        self._fits: Fits = lambda names: None
        self._effects: list[Effect] = []
        self._tickets = 0
        self._busy = True  # something is waited for beside a free slot of a model that runs
        self._looking, self._seen, self._next_look = False, -NEVER, -NEVER
        self._doubted: set[str] = set()

    def _settle(self, now: float) -> None:
        while True:
            self._expire(now)
            self._plan(now)
            self._busy = self._opened(now)
            admitted = [self._admit(one) for one in self._served.values() if one.open and one.waiting]
            if not any(admitted):  # else who waited for others to be served may have its turn now
                break
        for one in list(self._served.values()):
            if now >= one.sleeps:
                self._stop(one, "ttl", now)
            elif one.gone and one.idle and one.state not in ("starting", "stopping"):
                del self._served[one.name]
        if now >= self._next_look and not self._looking:
            self._looking = True
            self._effects.append(Look(frozenset(self._doubted)))
            self._doubted.clear()

    def _expire(self, now: float) -> None:
        for one in self._served.values():
            while now >= one.deadline:
                self._refuse(one, one.oldest, turned_away.too_late(one.name, one.policy.load_timeout))
            if one.drain_until is not None and (not one.in_flight or now >= one.drain_until):
                one.drain_until = None
                self._effects.append(Drained(one.name))
            if now >= one.spared_until:
                one.spared_until = -NEVER

    def _plan(self, now: float) -> None:
        """Begin the starts that can begin, and say who makes way for those that cannot yet."""
        decided = turns.decide(self._wanted(now), self._served.values(), self._fits, now)
        for name in decided.starts:
            self._served[name].state, self._served[name].changed = "starting", now
            self._effects.append(Start(name))
        for one in self._served.values():
            one.leaving = one.name in decided.leaving
            if one.leaving and not one.in_flight:
                self._stop(one, "room", now)

    def _wanted(self, now: float) -> list[Served]:
        """Return what is to be started, in the order in which it was asked for; who asks in vain is refused."""
        asked = [one for one in self._served.values() if one.waiting and not one.admits]
        for one in asked:
            why = self._refusal(one, now)
            if why is not None:
                self._refuse_all(one, why)
        wanted = [one for one in asked if one.waiting and one.state == "asleep" and one.on_demand and not one.paused]
        return sorted(wanted, key=lambda one: one.oldest)

    def _refusal(self, one: Served, now: float) -> Why | None:
        """Return why nobody has to wait for a profile, None where waiting may help, or a look has to be had first."""
        if one.gone:
            return turned_away.undeclared(one.name)
        if one.state != "asleep" or one.paused:
            return None
        if one.failed is not None and now < one.failed_until:
            return replace(one.failed, retry=one.failed_until - now)
        why = turns.hopeless(one, self._served.values(), self._fits)
        if why is None or self._seen >= one.waiting[one.oldest]:  # what somebody started just now is not refused
            return why
        self._next_look = -NEVER
        return None

    def _opened(self, now: float) -> bool:
        """Open and close the doors; return whether anything is waited for beside a free slot."""
        busy = False
        for one in self._served.values():
            was, one.open = one.open, one.admits
            if was and not one.open:
                one.closed = now
            busy = busy or one.leaving or (bool(one.waiting) and not one.open)
            if one.waiting and one.state == "loading":
                self._next_look = min(self._next_look, now + _soon(now - one.changed))
        return busy

    def _ready(self, one: Served, now: float) -> None:
        one.state, one.last_use = "ready", now
        one.failed, one.failed_until, one.pause = None, -NEVER, 0.0

    def _stop(self, one: Served, cause: Cause, now: float) -> None:
        one.closed = now if one.open else one.closed
        one.state, one.leaving, one.open = "stopping", False, False
        self._effects.append(Stop(one.name, cause))

    def _admit(self, one: Served) -> bool:
        """Let requests through as far as there are slots; return whether any was."""
        before = one.in_flight
        while one.waiting and one.in_flight < one.policy.slots:
            ticket = one.oldest
            del one.waiting[ticket]
            one.in_flight += 1
            self._effects.append(Admit(one.name, ticket))
        return one.in_flight > before

    def _refuse(self, one: Served, ticket: int, why: Why) -> None:
        del one.waiting[ticket]
        self._effects.append(Refuse(one.name, ticket, why))

    def _refuse_all(self, one: Served, why: Why) -> None:
        for ticket in list(one.waiting):
            self._refuse(one, ticket, why)

    def _doubt(self, one: Served) -> None:
        self._doubted.add(one.name)
        self._seen = self._next_look = -NEVER

    def _looked(self, now: float) -> None:
        """Say when to look next: soon while somebody waits for what somebody else started."""
        demanded = any(one.on_demand for one in self._served.values())
        self._next_look = now + _ROUND if demanded else NEVER


def _soon(waited: float) -> float:
    """Seconds to the next look at a program that is loading: a twentieth of what it took so far."""
    return min(1.0, max(0.05, waited / 20))
