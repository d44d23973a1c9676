"""What is declared, what was last applied and what is there, compared. Pure: no clock, no probe, no write."""

from __future__ import annotations

from lmctl.classes import CLASSES
from lmctl.drift import contents, programs
from lmctl.drift.records import Drift, Seen
from lmctl.record import replace
from lmctl.resource import Case


def compare(case: Case, seen: Seen) -> tuple[Drift, ...]:
    """Return every drift, by address. What a person stopped, or never asked to run, is none.

    The case covers everything that is declared. Where that cannot be known (`Seen.declared`), what was applied stands
    for it, and what nothing declares is not looked for.
    """
    found = [*programs.of_supervisor(case), *programs.of_programs(case, seen)]
    if seen.declared:
        found += [*contents.of_locks(case), *contents.of_weights(case), *contents.of_leftovers(case)]
    else:
        found += contents.of_owned(case)
    if case.world.memory.problem is not None:
        found = [_untold(drift) for drift in found]
    return tuple(sorted(found, key=lambda drift: (drift.address, CLASSES.index(drift.kind))))


def _untold(drift: Drift) -> Drift:
    """Without a ledger nobody knows who moved."""
    return replace(drift, moved=None) if all(row.applied is None for row in drift.fields) else drift
