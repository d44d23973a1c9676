"""What is left of a plan when others stopped or started something while bytes were fetched."""

from __future__ import annotations

import pytest
import worlds
from worlds import NOW, artifact, case, owned, profile

from lmctl import meanwhile
from lmctl.host import Daemon
from lmctl.meanwhile import Sifted
from lmctl.plan import Change
from lmctl.reconcile import make_plan
from lmctl.record import replace
from lmctl.resource import Case, Scope
from lmctl.spec import Group, program_id

CODE, CHAT = artifact("code"), artifact("chat")
BEGUN = case(
    profile("code"), profile("chat"), artifacts=(CODE, CHAT), here=(CODE, CHAT), rows=(owned(CODE), owned(CHAT))
)
UP = replace(BEGUN, world=replace(BEGUN.world, daemon=Daemon(99, {}, {})))


def programs(seen: Case) -> tuple[Change, ...]:
    return tuple(change for change in make_plan(seen).changes if change.stage == "serve")


def held(seen: Case, since: float, *names: str) -> Case:
    memory = replace(seen.world.memory, holds=dict.fromkeys(names, "stopped"), held_since=dict.fromkeys(names, since))
    return replace(seen, world=replace(seen.world, memory=memory))


def left(begun: Case, now: Case) -> Sifted:
    return meanwhile.sift(programs(begun), begun, now, programs(now))


def names(changes: tuple[Change, ...]) -> list[str]:
    return [change.address for change in changes]


def test_where_nobody_was_at_work_all_is_still_to_be_done():
    assert left(UP, UP) == Sifted(ready=programs(UP))


def test_what_was_stopped_meanwhile_stays_stopped_even_where_it_was_named():
    named = replace(UP, scope=Scope(names=frozenset({"code", "chat"}), run=frozenset({"code", "chat"})))
    for begun in (UP, named):
        found = left(begun, held(begun, NOW, "code"))
        assert (names(found.ready), names(found.withheld)) == (["program:chat"], ["program:code"])
        assert [str(one) for one in found.warnings] == [
            "warning[W-HELD]: code was stopped meanwhile — `lmctl start code` starts it"
        ]


def test_a_hold_from_before_the_run_is_lifted_by_its_name_and_one_that_was_renewed_is_not():
    before = held(replace(UP, scope=Scope(names=frozenset({"code"}), run=frozenset({"code"}))), NOW, "code")
    assert names(left(before, before).ready) == ["program:code"]
    assert names(left(before, held(before, NOW + 1, "code")).withheld) == ["program:code"]


def test_what_somebody_started_meanwhile_is_done():
    now = worlds.applied(UP, {"code": "RUNNING", "chat": "RUNNING"})
    found = left(UP, now)
    assert (found.ready, names(found.done)) == ((), ["program:chat", "program:code"])


def written(seen: Case, name: str, hash: str) -> Case:
    """Return `seen` with a program as somebody else's run wrote it, running."""
    now = worlds.applied(seen, {name: "RUNNING"}, hashes={name: hash})
    specs = {program_id(name): replace(now.world.daemon.specs[program_id(name)], hash=hash)}
    return replace(now, world=replace(now.world, daemon=replace(now.world.daemon, specs=specs)))


def test_what_somebody_wrote_and_started_meanwhile_is_not_replaced():
    newer = written(UP, "code", "n" * 64)
    for begun in (UP, written(UP, "code", "o" * 64)):
        found = left(begun, newer)
        assert (names(found.ready), names(found.withheld)) == (["program:chat"], ["program:code"])
        assert [str(one) for one in found.warnings] == [
            "warning[W-HELD]: code was applied otherwise meanwhile — run `lmctl apply` again"
        ]
    gone = replace(UP, declaration=replace(UP.declaration, profiles=UP.declaration.profiles[1:]))
    begun, now = (replace(gone, world=written(UP, "code", hash).world) for hash in ("o" * 64, "n" * 64))
    assert names(left(begun, now).withheld) == ["program:code"], "nor is it removed"
    assert names(left(now, now).ready) == ["program:chat", "program:code"]


def test_what_nobody_planned_is_not_done_now():
    begun = replace(UP, scope=Scope(names=frozenset({"code"})))
    assert names(meanwhile.sift(programs(begun), begun, UP, programs(UP)).ready) == ["program:code"]


def test_what_gave_way_to_another_meanwhile_waits():
    rivals = replace(UP.declaration, groups=(Group("one", ("code", "chat")),))
    begun = replace(UP, declaration=rivals, scope=Scope(names=frozenset({"code"})))
    now = replace(worlds.applied(UP, {"chat": "RUNNING"}), declaration=rivals, scope=begun.scope)
    assert names(left(begun, now).withheld) == ["program:code"]


@pytest.mark.parametrize("orphans", [{}, {"p-1": 7}], ids=["down", "killed"])
def test_a_daemon_that_was_taken_down_meanwhile_is_not_started_again(orphans):
    found = left(UP, replace(BEGUN, world=replace(BEGUN.world, daemon=Daemon(None, {}, {}, orphans=orphans))))
    if orphans:
        assert found.error is None  # nobody asked for that
    else:
        assert found.error is not None and found.error.code == "E-SUPERVISOR"
        assert "stopped meanwhile" in str(found.error)
