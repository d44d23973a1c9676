"""Drift of programs, class by class: what moved, who moved it, and what mends it."""

from __future__ import annotations

import itertools

import pytest
import test_plan
import worlds
from worlds import artifact, case, owned, profile

from lmctl.condition import Condition
from lmctl.drift.compare import compare
from lmctl.drift.records import Drift, Field, Seen
from lmctl.errors import LmctlError, Problem
from lmctl.ledger import Applied
from lmctl.reconcile import make_plan
from lmctl.record import replace
from lmctl.resource import Case
from lmctl.spec import Process, Settings, program_id

CODE = artifact("code")
ID = program_id("code")
HEALTHY = Seen({"code": Condition("healthy")})
UNKNOWN = Seen(declared=False)


def running(*, ctx: int = 8192, state: str = "RUNNING", hash: str | None = None, **how: object) -> Case:
    """Return a case as an apply left it, of a profile with `ctx`, whatever it declares now (8192)."""
    declared = profile("code", **how)
    before = profile("code", settings=Settings(ctx=ctx), **how)
    whole = case(before, artifacts=(CODE,), here=(CODE,), rows=(owned(CODE),))
    whole = worlds.applied(whole, {"code": state}, hashes={"code": hash} if hash else None)
    return replace(whole, declaration=replace(whole.declaration, profiles=(declared,)))


def daemon(case: Case, **fields: object) -> Case:
    return replace(case, world=replace(case.world, daemon=replace(case.world.daemon, **fields)))


def memory(case: Case, **fields: object) -> Case:
    return replace(case, world=replace(case.world, memory=replace(case.world.memory, **fields)))


def with_spec(case: Case, **fields: object) -> Case:
    """Change what the program's files say."""
    specs = case.world.daemon.specs
    return daemon(case, specs={**specs, ID: replace(specs[ID], **fields)})


def undeclared(case: Case) -> Case:
    """Return the case as it is looked at when the configuration cannot be read."""
    return replace(case, declaration=replace(case.declaration, profiles=(), variants=()))


def only(found: tuple[Drift, ...]) -> Drift:
    (drift,) = found
    return drift


def told(drift: Drift) -> tuple[str, str, str | None, str]:
    return drift.kind, drift.address, drift.moved, drift.mend


def test_what_is_as_declared_is_no_drift():
    assert compare(running(), HEALTHY) == ()


def test_missing_a_profile_that_was_never_applied():
    whole = case(profile("code"), artifacts=(CODE,), here=(CODE,), rows=(owned(CODE),))
    drift = only(compare(whole, Seen()))
    assert told(drift) == ("missing", "program:code", "file", "lmctl apply")
    assert drift.fields == (Field("program", "there", None, None),)


def test_missing_a_program_whose_files_are_gone():
    drift = only(compare(daemon(running(), specs={}, processes={}), Seen()))
    assert told(drift) == ("missing", "program:code", "world", "lmctl apply")


def test_modified_by_an_edit_that_was_not_applied():
    drift = only(compare(running(ctx=4096), HEALTHY))
    assert told(drift) == ("modified", "program:code", "file", "lmctl apply")
    assert drift.fields == (Field("ctx", 8192, 4096, 4096),)


@pytest.mark.parametrize("kept", [True, False], ids=["a-ledger", "a-lost-ledger"])
def test_modified_by_settings_that_restart_nothing(kept):
    whole = running()
    changed = replace(whole.declaration.profiles[0], start="manual", stop_timeout=5.0)
    whole = replace(whole, declaration=replace(whole.declaration, profiles=(changed,)))
    if not kept:
        whole = memory(whole, applied=None, problem=Problem("E-STATE", "gone"))
    drift = only(compare(whole, HEALTHY))
    assert told(drift) == ("modified", "program:code", "file" if kept else None, "lmctl apply")
    assert [(field.name, field.desired, field.observed) for field in drift.fields] == [
        ("start by itself", False, True),
        ("stop_timeout", 5.0, 10.0),
    ]


def test_modified_in_supervisords_file_by_hand():
    drift = only(compare(with_spec(running(), autostart=False, stop_timeout=99.0), HEALTHY))
    assert told(drift) == ("modified", "program:code", "world", "lmctl apply")
    assert drift.fields[1] == Field("stop_timeout", 10.0, 10.0, 99.0)
    drift = only(compare(daemon(running(), edited=(ID,)), HEALTHY))
    assert told(drift) == ("modified", "program:code", "world", "lmctl apply")


@pytest.mark.parametrize("kept", [True, False], ids=["same-hash", "other-hash"])
def test_modified_in_the_program_file_by_hand(kept):
    whole = running()
    argv = tuple("4096" if word == "8192" else word for word in whole.world.daemon.specs[ID].argv)
    edited = with_spec(whole, argv=argv) if kept else with_spec(whole, argv=argv, hash="0" * 64)
    seen = replace(edited.world.daemon.processes[ID], hash=edited.world.daemon.specs[ID].hash)
    edited = daemon(edited, processes={ID: seen})
    drift = only(compare(edited, HEALTHY))
    assert told(drift) == ("modified", "program:code", "world", "lmctl apply")
    assert drift.fields == (Field("--ctx-size", "8192", "8192", "4096"),)


def test_modified_by_both():
    whole = with_spec(running(ctx=4096), hash="0" * 64)
    whole = daemon(whole, processes={ID: replace(whole.world.daemon.processes[ID], hash="0" * 64)})
    drift = only(compare(whole, HEALTHY))
    assert told(drift) == ("modified", "program:code", "both", "lmctl apply")
    assert drift.fields == (Field("--ctx-size", "8192", None, "4096"),)


def test_who_moved_is_not_told_without_a_ledger():
    drift = only(compare(memory(running(ctx=4096), applied=None), HEALTHY))
    assert (drift.kind, drift.moved) == ("modified", None)
    whole = daemon(memory(running(), applied=None, problem=Problem("E-STATE", "gone")), specs={}, processes={})
    assert only(compare(whole, Seen())).moved is None


def test_values_that_look_like_secrets_are_never_part_of_a_drift():
    whole = running()
    spec = whole.world.daemon.specs[ID]
    argv = (*spec.argv, "--api-key", "s3cr3t", "--note", f"sk-{'x' * 20}")
    found = only(compare(with_spec(whole, argv=argv, env={"HF_TOKEN": "s3cr3t"}), HEALTHY))
    assert "s3cr3t" not in repr(found) and "sk-x" not in repr(found)
    assert {field.name for field in found.fields} == {"--api-key", "--note", "env.HF_TOKEN"}
    assert found.moved == "world"


def test_F70_files_of_supervisord_that_were_edited_belong_to_no_program():
    found = compare(daemon(running(), edited=("include", "program:mine", "launch")), HEALTHY)
    assert told(only(found)) == ("modified", "supervisord:files", "world", "lmctl apply")
    assert [field.name for field in only(found).fields] == ["include", "program:mine", "launch"]


def test_a_script_whose_python_is_gone_was_edited_by_nobody():
    found = only(compare(daemon(running(), stranded=("launch", "service")), HEALTHY))
    assert told(found) == ("modified", "supervisord:files", "world", "lmctl apply")
    assert {field.observed for field in found.fields} == {"names a Python that is gone"}


def test_F70_a_program_that_somebody_added_to_our_supervisord_is_a_collision():
    processes = {**running().world.daemon.processes, "mine": Process("mine", "RUNNING", pid=7)}
    drift = only(compare(daemon(running(), processes=processes), HEALTHY))
    assert told(drift) == ("collision_unmanaged", "supervisord:mine", "world", "lmctl down, then lmctl apply")


def test_orphan_owned_is_what_nothing_declares_any_more():
    whole = running()
    other = profile("other")
    drift = only(compare(replace(whole, declaration=replace(whole.declaration, profiles=(other,))), HEALTHY)[:1])
    assert (drift.kind, drift.address) == ("lock_outdated", "lock:org/other@main:Q4_K_M")
    drift = compare(replace(whole, declaration=replace(whole.declaration, profiles=(other,))), HEALTHY)[1]
    assert told(drift) == ("orphan_owned", "program:code", "file", "lmctl apply")


def test_orphan_owned_is_a_program_that_outlived_its_supervisord():
    whole = daemon(running(), pid=None, processes={}, orphans={ID: 4000})
    drift = only(compare(whole, Seen({"code": Condition("orphaned", pid=4000)})))
    assert told(drift) == ("orphan_owned", "program:code", "world", "lmctl apply")
    assert "4000" not in repr(drift)  # the next one has another process and is the same drift


def test_collision_unmanaged_is_a_port_that_a_stranger_took():
    whole = running(state="STOPPED")
    seen = Seen({"code": Condition("stopped")}, {"code": "nc"})
    found = {drift.kind: drift for drift in compare(whole, seen)}
    assert told(found["collision_unmanaged"])[1:3] == ("program:code", "world")
    assert found["collision_unmanaged"].fields == (Field("port", "code", "code", "nc"),)
    assert found.keys() == {"collision_unmanaged", "stopped"}


def test_pending_reload_is_what_supervisord_was_not_told_yet():
    drift = only(compare(daemon(running(), processes={}), Seen()))
    assert told(drift) == ("pending_reload", "program:code", "world", "lmctl apply")


def test_stale_process_runs_what_the_files_no_longer_say():
    drift = only(compare(running(hash="0" * 64), HEALTHY))
    assert told(drift) == ("stale_process", "program:code", "world", "lmctl apply")
    assert drift.fields[0].observed == "0" * 12


@pytest.mark.parametrize(
    ("fields", "condition", "now"),
    [
        ({}, Condition("stopped"), "not running"),
        ({}, Condition("crash-loop"), "stopped after crashing"),
        ({"pid": None, "processes": {}}, Condition("stopped"), "supervisord is not running"),
    ],
)
def test_stopped_is_what_should_run(fields, condition, now):
    drift = only(compare(daemon(running(state="STOPPED"), **fields), Seen({"code": condition})))
    assert told(drift) == ("stopped", "program:code", "world", "lmctl apply")
    assert drift.fields == (Field("process", "running", "running", now),)


def test_what_a_person_stopped_or_never_starts_by_itself_is_no_drift():
    seen = Seen({"code": Condition("held")})
    stopped = running(state="STOPPED")
    assert compare(memory(stopped, holds={"code": "stopped"}), seen) == ()
    assert compare(daemon(stopped, held=frozenset({ID})), seen) == ()
    assert compare(running(state="STOPPED", start="manual"), Seen({"code": Condition("stopped")})) == ()


def test_what_is_just_started_again_is_no_drift():
    assert compare(running(state="EXITED"), Seen({"code": Condition("starting")})) == ()


def test_unhealthy_is_what_runs_and_does_not_answer():
    drift = only(compare(running(), Seen({"code": Condition("unhealthy", "no answer, 9s after its start")})))
    assert told(drift) == ("unhealthy", "program:code", "world", "lmctl restart code")
    assert "9s" not in repr(drift)


def test_unverifiable_is_a_program_that_cannot_be_rendered():
    error = LmctlError("E-ENGINE", "llama-server is too old", fix="install a newer one")
    whole = running()
    drift = only(compare(replace(whole, world=replace(whole.world, engines={"llama.cpp": error})), HEALTHY))
    assert told(drift) == ("unverifiable", "program:code", "world", "install a newer one")
    assert drift.fields[0].observed == "llama-server is too old"


def test_unverifiable_is_a_supervisord_that_cannot_be_asked_and_nothing_is_said_of_processes():
    found = compare(daemon(running(ctx=4096), processes={}, problem="no answer"), Seen())
    assert [(drift.kind, drift.address) for drift in found] == [
        ("modified", "program:code"),
        ("unverifiable", "supervisord"),
    ]


def test_a_supervisord_without_its_folder_is_an_orphan():
    drift = only(compare(daemon(running(), lost=(7,)), HEALTHY))
    assert told(drift)[:2] == ("orphan_owned", "supervisord")


def test_without_a_configuration_what_was_applied_stands_for_it():
    whole = undeclared(running(state="STOPPED"))
    drift = only(compare(whole, replace(UNKNOWN, conditions={"code": Condition("stopped")})))
    assert told(drift) == ("stopped", "program:code", "world", "lmctl apply")
    edited = with_spec(whole, hash="0" * 64, autostart=False)
    drift = only(compare(edited, UNKNOWN))
    assert (drift.kind, drift.moved, drift.fields[0].observed) == ("modified", "world", "0" * 12)
    gone = only(compare(daemon(whole, specs={}, processes={}), UNKNOWN))
    assert (gone.kind, gone.moved) == ("missing", "world")
    assert compare(undeclared(running()), replace(UNKNOWN, conditions=HEALTHY.conditions)) == ()


def test_the_fingerprint_is_of_the_drift_and_not_of_the_moment():
    first, second = (only(compare(running(hash=hash), HEALTHY)) for hash in ("0" * 64, "1" * 64))
    again = daemon(running(hash="0" * 64), pid=12345)
    assert first.fingerprint == only(compare(again, HEALTHY)).fingerprint != second.fingerprint


GRID = list(itertools.product(test_plan.WEIGHTS, test_plan.PROGRAMS, test_plan.LEDGER, test_plan.START))


def _seen(whole: Case) -> Seen:
    def condition(process: Process) -> Condition:
        crashed = process.exit_status == 75
        return Condition("healthy" if process.running else "crash-loop" if crashed else "stopped")

    process = whole.world.daemon.processes.get(ID)
    return Seen({"code": condition(process)} if process else {})


@pytest.mark.parametrize(("weights", "program", "ledger", "start"), GRID)
def test_whatever_apply_would_change_is_a_drift_at_the_same_address(weights, program, ledger, start):
    whole = test_plan.world(weights, program, ledger, start)
    changes, found = make_plan(whole).changes, compare(whole, _seen(whole))
    assert {change.address for change in changes} <= {drift.address for drift in found}
    mended = {drift.address for drift in found if drift.mend == "lmctl apply"}
    assert mended <= {change.address for change in changes}


def test_an_applied_that_is_older_than_a_setting_counts_as_it_is():
    whole = running()
    old = {"program:code": Applied({"ctx": 8192}, whole.world.daemon.specs[ID].hash)}
    assert compare(memory(whole, applied=old), HEALTHY) == ()
    drift = only(compare(memory(with_spec(whole, stop_timeout=99.0), applied=old), HEALTHY))
    assert (drift.kind, drift.moved) == ("modified", "file")
