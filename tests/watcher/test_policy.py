"""What may be applied while nobody looks: never a prune, never against a hold, nothing unlocked under `safe`."""

from __future__ import annotations

import pytest
from worlds import artifact, case, owned, profile, wanted

from lmctl.front import Front
from lmctl.ledger import Memory
from lmctl.reconcile import make_plan
from lmctl.record import replace
from lmctl.resource import Case
from lmctl.spec import ProgramSpec
from lmctl.watcher.policy import decide


def served(case: Case, **daemon: object) -> Case:
    """Return the case with a supervisord that runs."""
    world = replace(case.world, daemon=replace(case.world.daemon, **{"pid": 7, **daemon}))
    return replace(case, world=world)


@pytest.fixture
def world() -> Case:
    """Two profiles whose weights are locked and there, and a third that is not locked."""
    locked = (artifact("chat"), artifact("code"))
    names = ("chat", "code", "new")
    return case(*map(profile, names), artifacts=locked, here=locked, rows=tuple(map(owned, locked)))


def planned(world: Case, mode: str = "safe") -> list[str]:
    decision = decide(world, mode, served=True)
    return [change.address for change in make_plan(replace(world, scope=decision.scope)).changes]


def remembering(world: Case, **memory: object) -> Case:
    known: Memory = replace(world.world.memory, **memory)
    return replace(world, world=replace(world.world, memory=known))


def test_nothing_is_ever_pruned(world):
    assert not any(decide(world, mode, served=True).scope.prune for mode in ("safe", "all", "never"))


def test_what_is_not_locked_is_only_told_under_safe(world):
    decision = decide(served(world), "safe", served=True)
    assert decision.scope.left == {"new", "watch"}
    assert [problem.what for problem in decision.waits] == ["not locked: new"]
    assert not any(address.startswith("lock:") for address in planned(world))
    assert f"lock:{wanted('new').id}" in planned(world, "all")
    assert decide(served(world), "all", served=True).waits == ()


@pytest.mark.parametrize("mode", ["safe", "all"])
def test_what_a_person_stopped_stays_stopped_also_when_it_is_edited(world, mode):
    held = remembering(world, holds={"code": "stopped"})
    assert "program:code" in planned(world, mode)
    assert "program:code" not in planned(held, mode)
    assert "program:chat" in planned(held, mode)


def test_what_is_declared_no_more_goes_though_something_is_left_alone(world):
    decision = decide(remembering(world, holds={"code": "stopped"}), "safe", served=True)
    assert decision.scope.whole


def test_a_rollback_holds_everything(world):
    rolled_back = served(remembering(world, in_force=3, rolled_back=frozenset(["chat"])))
    stays = decide(rolled_back, "safe", served=True).stays
    assert stays is not None
    assert (stays.code, stays.what) == ("W-HELD", "the rollback to generation 3 holds")


def test_never_means_that_everything_is_only_told(world):
    stays = decide(served(world), "never", served=True).stays
    assert stays is not None
    assert planned(world, "never")


def test_what_somebody_ended_stays_ended_and_what_never_ran_is_started(world):
    assert decide(world, "safe", served=False).stays is None
    ended = decide(world, "safe", served=True).stays
    assert ended is not None
    assert "lmctl down" in ended.what
    assert decide(served(world), "safe", served=True).stays is None


def test_programs_that_outlived_a_killed_supervisord_are_taken_back(world):
    orphaned = served(world, pid=None, orphans={"p-000000000000": 4711})
    assert decide(orphaned, "safe", served=True).stays is None


def test_what_was_killed_with_its_supervisord_was_not_ended_by_anybody(world):
    assert decide(served(world, pid=None, killed=True), "safe", served=True).stays is None


def test_nothing_is_applied_while_supervisord_cannot_be_asked(world):
    stays = decide(served(world, problem="it does not answer"), "safe", served=True).stays
    assert stays is not None
    assert stays.code == "E-SUPERVISOR"


@pytest.mark.parametrize(
    ("declared", "supervised", "said"),
    [
        (True, False, ["the watcher is to run under supervision"]),
        (False, True, ["the watcher is to end"]),
        (True, True, []),
        (False, False, []),
    ],
)
def test_the_watcher_leaves_its_own_program_alone_and_says_so(world, declared, supervised, said):
    spec = ProgramSpec("watch", "watch", ("lmctl",), {}, ".", "h", "", autostart=True)
    now = served(world, specs={"watch": spec} if supervised else {})
    now = replace(now, declaration=replace(now.declaration, watched=declared))
    assert [one.what for one in decide(now, "all", served=True).waits] == said
    assert "program:watch" not in planned(now, "all")


def test_a_watcher_that_outlived_its_supervisord_begins_nothing(world):
    stays = decide(served(world, pid=None, orphans={"watch": 4}), "safe", served=True).stays
    assert stays is not None and stays.code == "E-SUPERVISOR"
    assert decide(served(world, pid=None, orphans={"p-1": 4}), "safe", served=True).stays is None


def test_a_gateway_that_a_person_stopped_stays_stopped(world):
    fronted = replace(world, declaration=replace(world.declaration, front=Front()))
    assert "program:gateway" in planned(fronted)
    assert "program:gateway" not in planned(remembering(fronted, holds={"gateway": "stopped"}))
