"""Which model starts, stops and makes way, and which request is let through: told of events and the time. Pure.

Requests of one profile are let through in order of arrival, and starts get their turn in the order in which the
requests that want them arrived: a model that is asked all the time drains once somebody older waits for its memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from lmctl.gateway import turned_away, turns
from lmctl.gateway.demand import (
    Admit,
    Cause,
    Drained,
    Effect,
    Fits,
    Look,
    Policy,
    Refuse,
    Seen,
    Standing,
    Start,
    Stop,
    Why,
)
from lmctl.gateway.served import NEVER, Served
from lmctl.record import replace

_FRESH = 1.0  # seconds for which a look at what runs is good enough to refuse somebody
_ROUND = 15.0  # seconds between two looks that nobody asked for
_RETRY = 5.0  # seconds for which a program that could not be stopped is left alone


class Scheduler:
    """Every method but `enter` takes the time; what is to be done afterwards is taken with `take`.

    Exactly one of admission, refusal and `give_up` ends a ticket.
    """

    def __init__(self) -> None:
        self._served: dict[str, Served] = {}
        self._fits: Fits = lambda names: None
        self._effects: list[Effect] = []
        self._tickets = 0
        self._busy = True  # something is waited for beside a free slot of a model that runs
        self._looking, self._seen, self._next_look = False, -NEVER, -NEVER
        self._doubted: set[str] = set()

    # requests

    def enter(self, name: str) -> bool:
        """Take a slot of a model that runs, if one is free and nobody waits for it."""
        one = self._served.get(name)
        if one is None or not one.open or one.waiting or one.in_flight >= one.policy.slots:
            return False
        one.in_flight += 1
        return True

    def wait(self, name: str, now: float) -> int:
        """Let a request wait for a slot; return its ticket."""
        self._tickets += 1
        ticket, one = self._tickets, self._served.get(name)
        if one is None:
            self._effects.append(Refuse(name, ticket, turned_away.undeclared(name)))
        elif len(one.waiting) + one.in_flight >= one.policy.slots + one.policy.queue:
            self._effects.append(Refuse(name, ticket, turned_away.queue_full(name, one.policy.queue)))
        else:
            one.waiting[ticket] = now
            if not one.open or one.in_flight < one.policy.slots:
                self._settle(now)
        return ticket

    def give_up(self, name: str, ticket: int, now: float) -> None:
        """Whoever waited left."""
        one = self._served.get(name)
        if one is not None and one.waiting.pop(ticket, None) is not None:
            self._settle(now)

    def leave(self, name: str, now: float) -> float:
        """Give a slot back; return when the model would be stopped if nobody asked for it again."""
        one = self._served[name]
        one.in_flight -= 1
        one.last_use = now
        if self._busy or not one.open:
            self._settle(now)
        elif one.waiting:
            self._admit(one)
        return NEVER if one.in_flight else one.sleeps

    # programs

    def started(self, name: str, now: float) -> None:
        """The start that was asked for is done: the model answers."""
        one = self._served.get(name)
        if one is not None and one.state == "starting":
            self._ready(one, now)
            one.changed = now
        self._settle(now)

    def failed(self, name: str, why: Why, now: float) -> None:
        """The start that was asked for failed: everybody who waits is told, and so is who asks too early again."""
        one = self._served.get(name)
        if one is not None and one.state == "starting":
            one.state, one.changed = "asleep", now
            one.failing(why, now)
            self._refuse_all(one, replace(why, retry=one.pause))
            self._seen = self._next_look = -NEVER  # perhaps others changed what was counted on
        self._settle(now)

    def stopped(self, name: str, now: float, *, done: bool = True) -> None:
        """The stop that was asked for ended; not `done`: the model may still run, and is looked at."""
        one = self._served.get(name)
        if one is not None and one.state == "stopping":
            one.state, one.changed = "asleep", now
            if not done:
                one.state, one.last_use, one.spared_until = "ready", now, now + _RETRY
                self._doubt(one)
        self._settle(now)

    def observed(self, running: Mapping[str, Seen], since: float, now: float) -> None:
        """A look that began at `since` found these running; what the scheduler itself changed later counts more."""
        self._looking, self._seen = False, since
        for one in self._served.values():
            if one.state in ("starting", "stopping") or one.changed > since:
                continue
            seen = running.get(one.name)
            if seen == "ready" and one.state != "ready":
                self._ready(one, now)
            elif seen == "loading" and one.state != "loading":
                one.state, one.changed = "loading", now
            elif seen is None:
                one.state = "asleep"
        self._looked(now)
        self._settle(now)

    def unseen(self, now: float) -> None:
        """A look could not be had: what is known goes on to count."""
        self._looking, self._seen = False, now
        self._looked(now)
        self._settle(now)

    def lost(self, name: str, now: float) -> None:
        """A model that should run cannot be reached."""
        one = self._served.get(name)
        if one is not None and one.state == "ready":
            one.state, one.changed = "asleep", now
            self._doubt(one)
        self._settle(now)

    # people

    def follow(self, policies: Mapping[str, Policy], fits: Fits, now: float) -> None:
        """Go by these policies from now on; who waits for a profile that is no more is refused."""
        self._fits = fits
        for name, policy in policies.items():
            one = self._served.setdefault(name, Served(name, policy))
            one.policy, one.gone = policy, False
        for name, one in self._served.items():
            one.gone = name not in policies
        self._seen = self._next_look = -NEVER
        self._settle(now)

    def drain(self, name: str, until: float, now: float) -> None:
        """Admit nobody to a profile until `resume`; `Drained` comes when nothing is in flight, at the latest `until`.

        Meanwhile somebody else starts and stops it. Who asks for it waits.
        """
        one = self._served.get(name)
        if one is None:
            self._effects.append(Drained(name))
            return
        one.paused, one.drain_until = True, until
        self._settle(now)

    def resume(self, name: str, now: float) -> None:
        """Let requests through again, once it is seen what runs."""
        one = self._served.get(name)
        if one is not None and one.paused:
            one.paused, one.drain_until = False, None
            if one.state == "ready":
                one.state, one.changed = "loading", now
            self._doubt(one)
        self._settle(now)

    # time

    def tick(self, now: float) -> None:
        """Time has passed."""
        self._settle(now)

    def due(self) -> float:
        """Return when `tick` has something to do at the latest, infinity for never."""
        return min((NEVER if self._looking else self._next_look, *map(self._due, self._served.values())))

    def _due(self, one: Served) -> float:
        drained = NEVER if one.drain_until is None else one.drain_until
        spared = one.spared_until if self._busy and one.spared_until > -NEVER else NEVER
        return min(one.deadline, one.sleeps, drained, spared)

    def take(self) -> list[Effect]:
        """Return what is to be done, once."""
        found, self._effects = self._effects, []
        return found

    @property
    def has_effects(self) -> bool:
        """Whether something is to be done."""
        return bool(self._effects)

    def states(self) -> dict[str, Standing]:
        """Return how every declared profile stands."""
        return {name: one.standing() for name, one in self._served.items() if not one.gone}

    # decisions

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
        if why is None or self._seen > one.waiting[one.oldest] - _FRESH:
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
