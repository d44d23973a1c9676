"""One profile as the scheduler knows it: what it does, who uses it, who waits for it."""

from __future__ import annotations

import math

from lmctl.gateway.demand import Policy, Standing, State, Why

NEVER = math.inf
_LONGEST_PAUSE = 60.0  # seconds between two tries to start what does not start


class Served:
    """`state` is never "draining": that is what `leaving` (for another model) and `paused` (asked for by name) say."""

    __slots__ = (
        "changed",
        "closed",
        "drain_until",
        "failed",
        "failed_until",
        "gone",
        "in_flight",
        "last_use",
        "leaving",
        "name",
        "open",
        "pause",
        "paused",
        "policy",
        "spared_until",
        "state",
        "waiting",
    )

    def __init__(self, name: str, policy: Policy) -> None:
        self.name, self.policy = name, policy
        self.state: State = "asleep"
        self.in_flight = 0
        self.waiting: dict[int, float] = {}  # ticket -> when it came; in order of arrival
        self.last_use = -NEVER
        self.open = False  # new requests are admitted
        self.closed = -NEVER  # since when they are not
        self.changed = -NEVER  # when it was last started, stopped or found lost
        self.leaving = self.paused = self.gone = False
        self.drain_until: float | None = None  # while somebody waits for it to be drained
        self.failed: Why | None = None  # why the last start failed
        self.failed_until = -NEVER
        self.pause = 0.0  # seconds between the last failure and the next try
        self.spared_until = -NEVER  # it could not be stopped: until then it is left alone

    @property
    def on_demand(self) -> bool:
        return self.policy.kind == "on-demand" and not self.gone

    @property
    def admits(self) -> bool:
        """Whether requests may be let through; `open` is what was made of it last."""
        return self.state == "ready" and not (self.leaving or self.paused or self.gone)

    @property
    def idle(self) -> bool:
        return not self.in_flight and not self.waiting

    @property
    def oldest(self) -> int:
        """The ticket that waits longest; there is one."""
        return next(iter(self.waiting))

    @property
    def deadline(self) -> float:
        """When the oldest ticket has waited too long for the model to run."""
        if self.open or not self.waiting:
            return NEVER
        return max(self.waiting[self.oldest], self.closed) + self.policy.load_timeout

    @property
    def sleeps(self) -> float:
        """When it has idled long enough."""
        rests = self.on_demand and self.open and self.idle
        return max(self.last_use + self.policy.ttl, self.spared_until) if rests else NEVER

    def makes_way(self, ticket: int, now: float) -> bool:
        """Whether it may be stopped for a request that came as `ticket`: older ones that wait for it go first."""
        free = self.on_demand and self.state == "ready" and not self.paused and now >= self.spared_until
        return free and (not self.waiting or self.oldest > ticket)

    def failing(self, why: Why, now: float) -> None:
        """Note that a start failed: the next try is after a pause that grows."""
        self.pause = min(_LONGEST_PAUSE, self.pause * 2) or 1.0
        self.failed, self.failed_until = why, now + self.pause

    def standing(self) -> Standing:
        draining = self.state == "ready" and (self.leaving or self.paused)
        failed = self.failed.message if self.failed is not None else ""
        return Standing("draining" if draining else self.state, self.in_flight, len(self.waiting), failed, self.sleeps)
