"""Whose turn it is: which sleeping models start now, and which that run make way for them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lmctl.gateway import turned_away
from lmctl.gateway.demand import Fits, Why
from lmctl.gateway.eviction import victims
from lmctl.gateway.served import Served
from lmctl.record import record


@record
class Turns:
    """`starts` can begin now; `leaving` admit nobody more, and stop once nothing is in flight."""

    starts: tuple[str, ...]
    leaving: frozenset[str]


def decide(wanted: Iterable[Served], every: Collection[Served], fits: Fits, now: float) -> Turns:
    """Return what is to be done for `wanted`, all asleep, in the order in which they were asked for.

    What comes later has to fit beside what comes before it, also while that waits for others to stop.
    """
    there = {one.name for one in every if one.state != "asleep"}
    future = {one.name for one in every if one.state not in ("asleep", "stopping")}
    first: set[str] = set()  # those that have their turn before
    leaving: set[str] = set()
    starts: list[str] = []
    for one in wanted:
        movable = [other for other in every if other.name in future - first and other.on_demand]
        gone = _making_way(one, movable, frozenset(future), fits, now)
        if gone is None:
            continue  # for those that are to start first
        leaving.update(other.name for other in movable if other.name in gone and other.makes_way(one.oldest, now))
        future.difference_update(gone)
        future.add(one.name)
        first.add(one.name)
        if not one.policy.rivals & there and fits(frozenset({*there, one.name})) is not False:
            starts.append(one.name)
            there.add(one.name)
    return Turns(tuple(starts), frozenset(leaving))


def hopeless(one: Served, every: Iterable[Served], fits: Fits) -> Why | None:
    """Return why a profile that sleeps cannot run as things are, None where it can."""
    if not one.on_demand:
        return turned_away.not_running(one.name)
    pinned = {other.name for other in every if other.state != "asleep" and not other.on_demand}
    if rivals := one.policy.rivals & pinned:
        return turned_away.rival_runs(one.name, min(rivals))
    if fits(frozenset({*pinned, one.name})) is False:
        return turned_away.no_memory(one.name, ", ".join(sorted(pinned)))
    return None


def _making_way(
    one: Served, movable: list[Served], future: frozenset[str], fits: Fits, now: float
) -> frozenset[str] | None:
    """Return which of `movable` have to go before a profile starts, some perhaps once they served older requests.

    Who can go now goes first, then who is idle, then who was used least recently. None: what cannot be moved, because
    it has its turn before, is in the way.
    """
    ranked = sorted(movable, key=lambda other: (not other.makes_way(one.oldest, now), not other.idle, other.last_use))
    names = [other.name for other in ranked]
    rivals = one.policy.rivals & future
    if not rivals <= {*names}:
        return None
    gone = victims(one.name, future - rivals, [name for name in names if name not in rivals], fits)
    return None if gone is None else rivals.union(gone)
