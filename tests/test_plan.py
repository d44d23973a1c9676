"""Plans as text: desired against ledger against what is there."""

from __future__ import annotations

import itertools
import sys

import pytest
import worlds
from syrupy.assertion import SnapshotAssertion
from worlds import DAY, GIB, NOW, artifact, case, owned, profile, wanted

from lmctl import plan
from lmctl.ledger import Memory
from lmctl.reconcile import make_plan
from lmctl.record import replace
from lmctl.resource import Case, References, Scope, Stray
from lmctl.spec import Lock, Machine, Process, Settings, Wanted, program_id

CODE = artifact("code")
WEIGHTS = ("missing", "never hashed", "touched", "verified", "not locked")
PROGRAMS = ("absent", "as declared", "other ctx", "stopped", "older process", "edited", "crashed")
LEDGER = ("kept", "lost")
START = ("always", "manual", "held")


def world(weights: str, program: str, ledger: str, start: str) -> Case:
    """Build the case of one combination out of what an apply would have left behind."""
    declared = profile("code", start="manual" if start == "manual" else "always")
    whole = case(declared, artifacts=(CODE,), here=(CODE,), rows=(owned(CODE),))
    before = profile("code", start=declared.start, settings=Settings(ctx=4096)) if program == "other ctx" else declared
    state = {"stopped": "STOPPED", "crashed": "EXITED", "absent": None}.get(program, "RUNNING")
    if state:
        old = replace(whole, declaration=replace(whole.declaration, profiles=(before,)))
        old = worlds.applied(old, {"code": state}, hashes={"code": "0" * 64} if program == "older process" else None)
        whole = replace(whole, world=old.world)
    return _with_ledger(_with_weights(_with_program(whole, program), weights), ledger, start)


def _with_program(case: Case, program: str) -> Case:
    daemon = case.world.daemon
    if program == "edited":
        daemon = replace(daemon, edited=(f"program:{program_id('code')}",))
    if program == "crashed":
        process = replace(daemon.processes[program_id("code")], exit_status=75)
        daemon = replace(daemon, processes={program_id("code"): process})
    return replace(case, world=replace(case.world, daemon=daemon))


def _with_weights(case: Case, weights: str) -> Case:
    seen = {"missing": None, "touched": worlds.signature(CODE, mtime=2)}.get(weights, worlds.signature(CODE))
    rows = {} if weights in {"missing", "never hashed"} else case.world.owned
    lock = Lock() if weights == "not locked" else case.lock
    found = {CODE.id: worlds.found(CODE, seen)} if lock.artifacts else {}
    return replace(case, lock=lock, world=replace(case.world, found=found, owned=rows))


def _with_ledger(case: Case, ledger: str, start: str) -> Case:
    memory = case.world.memory if ledger == "kept" else Memory()
    if start == "held":
        memory = replace(memory, holds={"code": "stopped"})
    return replace(case, world=replace(case.world, memory=memory))


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("start", START)
def test_plan_of_every_combination_reads_as_recorded(weights: str, start: str, snapshot: SnapshotAssertion):
    lines = []
    for program, ledger in itertools.product(PROGRAMS, LEDGER):
        text = plan.text(make_plan(world(weights, program, ledger, start)))
        lines.append(f"## program {program}, ledger {ledger}\n{text}")
    assert "\n".join(lines) == snapshot


def test_planning_touches_nothing_outside_and_repeats_to_the_byte():
    events: list[str] = []
    watching = True

    def hook(event: str, _args: tuple[object, ...]) -> None:
        if watching and event.partition(".")[0] in {"open", "socket", "subprocess", "os", "sqlite3", "time"}:
            events.append(event)

    first_case, second_case = (world("missing", "other ctx", "kept", "always") for _ in range(2))
    make_plan(first_case)  # imports are done
    sys.addaudithook(hook)
    first, second = make_plan(first_case), make_plan(second_case)
    watching = False
    assert events == []
    assert plan.text(first) == plan.text(second)
    assert plan.to_json(first) == plan.to_json(second)


def test_a_change_says_what_a_person_changed():
    changes = make_plan(world("verified", "other ctx", "kept", "always")).changes
    assert [(c.verb, c.cause[0].told(c.verb)) for c in changes] == [("restart", "ctx: 4096 → 8192")]


def test_without_a_ledger_the_flags_tell_what_changed():
    changes = make_plan(world("verified", "other ctx", "lost", "always")).changes
    assert [c.told("restart") for c in changes[0].cause] == ["--ctx-size: 4096 → 8192"]


def test_a_program_needs_the_weights_that_are_fetched_for_it():
    first, second = make_plan(world("missing", "absent", "kept", "always")).changes
    assert (first.stage, second.stage) == ("fetch", "serve")
    assert second.needs == (first.id,)
    assert first.download == 4 * GIB


def test_memory_that_is_not_known_is_not_called_zero():
    code, chat = profile("code"), profile("chat")
    text = plan.text(make_plan(case(code, chat)))
    assert "Memory: not known for 2 running together; 60.0 GiB may be used.\n" in text
    assert "  chat: not known before it is locked\n" in text and "0 B of" not in text and ": 0 B" not in text
    text = plan.text(make_plan(case(code, chat, artifacts=(CODE,), here=(CODE,), rows=(owned(CODE),))))
    assert "Memory: at least 5.0 GiB of 60.0 GiB for 2 running together: not known whether it fits.\n" in text
    assert "  code: 5.0 GiB\n  chat: not known before it is locked\n" in text


def test_the_size_of_a_download_is_not_known_before_the_lock_and_nothing_is_fetched_for_a_local_file():
    local = Wanted("path=w.gguf", None, None, "", "local")
    here, there = profile("here", weights=local), profile("there")
    assert "; 0 B to download, 0 B to free." in plan.text(make_plan(case(here)))
    assert "; not yet known how much to download, 0 B to free." in plan.text(make_plan(case(here, there)))
    text = plan.text(make_plan(case(profile("code"), there, artifacts=(CODE,))))
    assert "; at least 4.0 GiB to download, 0 B to free." in text


def test_an_artifact_without_a_quant_ends_without_a_colon():
    whole = Wanted("org/code@main:", "org/code", "main", "", "gguf")
    assert "+ create  lock:org/code@main  (asked for by: code)\n" in plan.text(
        make_plan(case(profile("code", weights=whole)))
    )


def test_what_an_interrupted_download_left_is_not_counted_again_and_the_plan_stays_the_same():
    whole = world("missing", "absent", "kept", "always")
    begun = replace(whole, world=replace(whole.world, received={CODE.files[0].sha256: 3 * GIB}))
    planned = make_plan(begun)
    assert (planned.changes[0].download, plan.summary(planned.changes)["download"]) == (GIB, GIB)
    assert "↓ 1.0 GiB (3.0 GiB are here already)\n" in plan.text(planned)
    assert planned.fingerprint == make_plan(whole).fingerprint, "a saved plan outlives an interrupted apply"


def test_the_rest_of_a_download_is_not_called_undeclared():
    stray = Stray(f"/own/partial/{CODE.files[0].sha256}", GIB, 1.0)
    text = plan.text(make_plan(case(profile("code"), artifacts=(CODE,), strays=(stray,))))
    assert "that nothing declares" not in text


def test_weights_that_wait_for_a_start_are_no_change_and_no_failure():
    waiting = profile("code", start="manual", fetch="start")
    planned = make_plan(case(waiting, artifacts=(CODE,)))
    assert planned.empty
    unlocked = make_plan(case(waiting))
    assert unlocked.empty
    assert unlocked.notes == ("1 profile not locked (lmctl lock): code",)


def test_naming_a_waiting_profile_fetches_it():
    waiting = profile("code", start="manual", fetch="start")
    planned = make_plan(case(waiting, artifacts=(CODE,), scope=Scope(names=frozenset({"code"}))))
    assert [change.verb for change in planned.changes] == ["create", "create"]


def test_I89_a_lock_entry_nobody_asks_for_is_never_deleted_by_a_plan():
    other = artifact("other")
    code = profile("code")
    whole = case(code, artifacts=(CODE, other), here=(CODE,), rows=(owned(CODE),))
    assert all("other" not in change.address for change in make_plan(whole).changes)


def test_F32_a_renamed_profile_is_removed_and_added_and_its_weights_are_used_again():
    before = worlds.applied(case(profile("old", weights=wanted("code")), artifacts=(CODE,), here=(CODE,),
                                 rows=(owned(CODE),)), {"old": "RUNNING"})  # fmt: skip
    renamed = replace(before.declaration, profiles=(profile("new", weights=wanted("code")),))
    planned = make_plan(replace(before, declaration=renamed))
    assert [(c.verb, c.address) for c in planned.changes] == [("create", "program:new"), ("delete", "program:old")]
    assert plan.summary(planned.changes)["download"] == 0


@pytest.mark.parametrize(
    ("row", "world", "why"),
    [
        pytest.param({"kind": "adopted"}, {}, None, id="adopted-is-not-listed"),
        pytest.param({"protect": True}, {}, "protected", id="protected"),
        pytest.param({}, {"there": frozenset({str(worlds.blob(CODE))})},
                     "changed since lmctl brought it", id="touched"),
        pytest.param({}, {"references": References(None)},
                     "another declaration on this machine cannot be read", id="lost"),
        pytest.param({}, {"references": References(frozenset({artifact("old").files[0].sha256}))},
                     "another declaration refers to it", id="shared"),
        pytest.param({"unreferenced_since": NOW - 6 * DAY}, {},
                     "unreferenced, goes in 1d (lmctl prune --now)", id="waits"),
        pytest.param({"unreferenced_since": None}, {}, "unreferenced, goes in 7d (lmctl prune --now)", id="just-now"),
    ],
)  # fmt: skip
def test_what_keeps_a_file_is_said(row: dict, world: dict, why: str | None):
    old = artifact("old")
    rows = (owned(CODE), owned(old, **{"unreferenced_since": NOW - 8 * DAY, **row}))
    planned = make_plan(case(profile("code"), artifacts=(CODE,), here=(CODE,), rows=rows, **world))
    assert [kept.why for kept in planned.kept] == ([why] if why else [])
    assert all(change.stage != "prune" for change in planned.changes)


def test_more_than_the_limit_goes_only_when_somebody_said_yes():
    old = artifact("old")
    rows = (owned(CODE), owned(old, unreferenced_since=NOW - 8 * DAY))
    for approved, limit, goes in ((False, 4 * GIB - 1, 0), (True, 4 * GIB - 1, 1), (False, 4 * GIB, 1)):
        found = case(profile("code"), artifacts=(CODE,), here=(CODE,), rows=rows, scope=Scope(approved=approved))
        declared = replace(found.declaration, machine=Machine(prune_max_bytes=limit))
        planned = make_plan(replace(found, declaration=declared))
        assert [change.stage for change in planned.changes].count("prune") == goes
        assert any("prune.max_bytes is" in kept.why for kept in planned.kept) is not bool(goes)


def test_an_unreferenced_file_goes_after_the_waiting_time_or_at_once_when_told():
    old = artifact("old")
    for since, scope in ((NOW - 8 * DAY, Scope()), (NOW - 1, Scope(waive_wait=True))):
        rows = (owned(CODE), owned(old, unreferenced_since=since))
        planned = make_plan(case(profile("code"), artifacts=(CODE,), here=(CODE,), rows=rows, scope=scope))
        pruned = [change for change in planned.changes if change.stage == "prune"]
        assert [(change.free, change.destroys) for change in pruned] == [(4 * GIB, True)]


@pytest.mark.parametrize(
    "scope", [Scope(names=frozenset({"code"}), waive_wait=True), Scope(exclude=frozenset({"x"}), waive_wait=True)]
)
def test_a_run_that_leaves_profiles_out_prunes_nothing(scope: Scope):
    rows = (owned(CODE), owned(artifact("old"), unreferenced_since=1.0))
    planned = make_plan(case(profile("code"), artifacts=(CODE,), here=(CODE,), rows=rows, scope=scope))
    assert all(change.stage != "prune" for change in planned.changes)
    assert [kept.why for kept in planned.kept] == ["this run names or leaves out profiles"]


def test_F61_without_profiles_or_without_a_lock_everything_is_kept():
    rows = (owned(CODE), owned(artifact("old"), unreferenced_since=1.0))
    for declared in (case(rows=rows), case(profile("code"), rows=rows)):
        planned = make_plan(declared)
        assert all(change.stage != "prune" for change in planned.changes)
        assert {kept.why for kept in planned.kept} <= {
            "nothing is declared: that never means remove everything",
            "declared",
        }


def test_what_runs_together_is_held_against_memory():
    big = artifact("big", size=50 * GIB)
    rows = (owned(CODE), owned(big))
    planned = make_plan(case(profile("code"), profile("big"), artifacts=(CODE, big), here=(CODE, big), rows=rows))
    assert planned.memory.fits is True
    huge = artifact("huge", size=70 * GIB)
    planned = make_plan(case(profile("huge"), artifacts=(huge,), here=(huge,), rows=(owned(huge),)))
    assert planned.memory.fits is False
    assert [problem.code for problem in planned.warnings] == ["W-MEMORY"]


def test_a_saved_plan_is_refused_once_the_world_moved():
    whole = world("verified", "other ctx", "kept", "always")
    saved = plan.to_json(make_plan(whole))
    plan.matches(make_plan(whole), saved)
    daemon = whole.world.daemon
    stopped = {name: Process(name, "STOPPED") for name in daemon.processes}
    moved = replace(whole, world=replace(whole.world, daemon=replace(daemon, processes=stopped)))
    with pytest.raises(plan.LmctlError, match="changed since the plan was saved"):
        plan.matches(make_plan(moved), saved)
