"""Programs of ours without a supervisord that can be asked: what a plan makes of them, and what is refused."""

from __future__ import annotations

import pytest
import worlds
from worlds import artifact, case, owned, profile

from lmctl import desired, plan, unsupervised
from lmctl.errors import LmctlError
from lmctl.reconcile import make_plan
from lmctl.record import replace
from lmctl.resource import Case, Scope
from lmctl.spec import Group, Settings, program_id

CODE, CHAT = artifact("code"), artifact("chat")
SOME = Scope(names=frozenset({"code"}))


def killed(scope: Scope = worlds.EVERYTHING, start: str = "manual", **world: object) -> Case:
    """Two profiles that ran until their supervisord was killed; only `code` outlived it."""
    profiles = (profile("code", start=start), profile("chat", start="manual"))
    whole = case(*profiles, artifacts=(CODE, CHAT), here=(CODE, CHAT), rows=(owned(CODE), owned(CHAT)), scope=scope)
    ran = worlds.applied(whole, {})
    daemon = replace(ran.world.daemon, pid=None, processes={}, orphans={program_id("code"): 77})
    return replace(ran, world=replace(ran.world, daemon=daemon, **world))


def told(case: Case) -> list[str]:
    return [line for line in plan.text(make_plan(case)).splitlines() if "program:" in line]


@pytest.mark.parametrize("start", ["manual", "always"])
def test_F68_what_outlived_its_supervisord_is_restarted_however_it_was_started(start):
    assert told(killed(start=start)) == ["↻ restart program:code  (process: orphaned (pid 77) → supervised)"]


def test_F68_one_that_was_edited_meanwhile_is_restarted_with_its_edit():
    before = killed()
    edited = profile("code", start="manual", settings=Settings(ctx=4096))
    declared = replace(before.declaration, profiles=(edited, before.declaration.profiles[1]))
    assert told(replace(before, declaration=declared)) == ["↻ restart program:code  (ctx: 8192 → 4096)"]


def test_F68_one_that_is_held_is_left_to_down():
    memory = replace(killed().world.memory, holds={"code": "stopped"})
    assert told(killed(memory=memory)) == []


def test_F68_one_that_outlived_its_supervisord_keeps_its_place_in_a_group():
    before = killed()
    declaration = replace(before.declaration, groups=(Group("one", ("code", "chat")),))
    held = replace(before, declaration=declaration)
    chat = declaration.profile("chat")
    assert chat is not None and desired.running_rivals(held, chat) == ("code",)


def test_F68_a_run_that_would_leave_one_beside_a_new_supervisord_is_refused():
    unsupervised.refuse_others({"code", "chat"}, killed())
    with pytest.raises(LmctlError, match=r"still run: code \(pid 77\) — run `lmctl apply` for all") as caught:
        unsupervised.refuse_others({"chat"}, killed())
    assert caught.value.code == "E-SUPERVISOR"


def test_F66_a_lost_supervisord_is_a_note_and_stands_in_the_way_of_a_run_about_some():
    for scope, stands in ((worlds.EVERYTHING, False), (SOME, True)):
        before = killed(scope)
        lost = replace(before, world=replace(before.world, daemon=replace(before.world.daemon, lost=(5, 6))))
        assert "note: supervisord (pid 5, 6) lost its state folder: apply ends it" in plan.text(make_plan(lost))
        error = unsupervised.obstacle(lost)
        assert (error is not None) == stands
        assert unsupervised.pids(["code"], lost) == {5, 6, 77}
        unsupervised.refuse_others(set(), lost)  # they end with it
    assert unsupervised.obstacle(killed(SOME)) is None
    assert unsupervised.pids(["chat"], killed()) == frozenset()
