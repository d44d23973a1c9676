"""Which model starts, stops and makes way, and which request is let through: told of events and the time. Pure.

Requests of one profile are let through in order of arrival, and starts get their turn in the order in which the
requests that want them arrived: a model that is asked all the time drains once somebody older waits for its memory.
"""

from __future__ import annotations

from collections.abc import Mapping

from lmctl.gateway import turned_away
from lmctl.gateway.decisions import Decisions
from lmctl.gateway.demand import Drained, Effect, Fits, Policy, Refuse, Seen, Standing, Why
from lmctl.gateway.served import NEVER, Served
from lmctl.record import replace

_RETRY = 5.0  # seconds for which a program that could not be stopped is left alone


class Scheduler(Decisions):
    """Every method but `enter` takes the time; what is to be done afterwards is taken with `take`.

    Exactly one of admission, refusal and `give_up` ends a ticket.
    """

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
            if why.code != turned_away.HELD:  # who is let go again may be started at once
                one.failing(why, now)
                why = replace(why, retry=one.pause)
            self._refuse_all(one, why)
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
