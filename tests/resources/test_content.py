"""What goes when the last stage of an apply is carried out: the rules count now, not when it was planned."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import worlds
from worlds import artifact, case, owned, profile

from lmctl.record import replace
from lmctl.resource import References, Run, Scope, Stray
from lmctl.resources import content

CODE, OLD = artifact("code"), artifact("old")
ROW = owned(OLD)
GOING = case(
    profile("code"),
    artifacts=(CODE,),
    rows=(ROW,),
    scope=Scope(waive_wait=True),
    strays=(Stray(f"/own/partial/{'a' * 64}", 5, worlds.DAY),),
)


def test_a_rule_that_keeps_it_since_it_was_planned_counts_and_nothing_is_touched():
    planned = tuple(content.changes(GOING))
    assert [change.address for change in planned] == [f"content:{ROW.path}", f"partial:/own/partial/{'a' * 64}"]
    nobody: Any = None  # the ledger is told nothing, and there is no cache to remove from
    host: Any = SimpleNamespace(processes=SimpleNamespace(holders=lambda paths: dict.fromkeys(paths, ())))
    run = Run(host, nobody, 1, nobody, threading.Event(), nobody)
    for others, why in (
        (frozenset({ROW.sha256, "a" * 64}), ("another declaration refers to it", "a download that is declared")),
        (None, ("another declaration on this machine cannot be read",) * 2),
    ):
        world = replace(GOING.world, references=References(others))
        outcomes = list(content.apply(planned, replace(GOING, world=world), run))
        assert [outcome.error.code if outcome.error else None for outcome in outcomes] == ["E-PRUNE"] * 2
        told = [str(outcome.error) for outcome in outcomes]
        assert all(f"stays: {reason}" in line for reason, line in zip(why, told, strict=True)), told
