"""What a program is, in one word, and why."""

from __future__ import annotations

import pytest
import worlds
from worlds import NOW, artifact, case, owned, profile

from lmctl import condition
from lmctl.condition import Condition
from lmctl.host import Daemon
from lmctl.ledger import Applied
from lmctl.reconcile import make_plan
from lmctl.record import replace
from lmctl.spec import Health, Probe, Process, ProgramSpec, program_id

CODE = artifact("code")
ID = program_id("code")
READY = case(profile("code", start_timeout=90.0), artifacts=(CODE,), here=(CODE,), rows=(owned(CODE),))
APPLIED = worlds.applied(READY, {"code": "RUNNING"})
SILENT = Health("down", "/health does not answer within 3 s")


def seen(process: Process | None = None, health: Health = SILENT, *, base=APPLIED, memory=(), **daemon) -> Condition:
    """Return what `code` is when it shows itself so."""
    changed = replace(base.world.daemon, processes={ID: process} if process else {}, **daemon)
    world = replace(base.world, daemon=changed, memory=replace(base.world.memory, **dict(memory)))
    return condition.of("code", replace(base, world=world), lambda listen, probe, pid: health)


def running(age: float, starts: int = 1) -> Process:
    return Process(ID, "RUNNING", pid=4000, started=NOW - age, starts=starts)


def test_what_answers_is_healthy_however_long_it_took():
    assert seen(running(1e6), Health("healthy")) == Condition("healthy", pid=4000)


@pytest.mark.parametrize(
    "health", [SILENT, Health("loading", "the model is being loaded")], ids=["F76-hang", "F76-503"]
)
def test_what_does_not_answer_yet_is_starting_until_its_time_is_over(health):
    assert seen(running(89.0), health) == Condition("starting", health.why, 4000)
    late = seen(running(150.0), health)
    assert (late.state, late.why, late.since) == ("unhealthy", f"{health.why}, 2m 30s after its start", None)


def test_F76_one_that_was_never_healthy_is_late_since_its_time_was_over():
    assert seen(running(150.0), memory={"unconfirmed": frozenset({"code"})}.items()).since == NOW - 150.0 + 90.0


def test_F76_its_time_depends_on_its_weights_where_none_is_declared():
    plain = worlds.applied(
        case(profile("code"), artifacts=(CODE,), here=(CODE,), rows=(owned(CODE),)), {"code": "RUNNING"}
    )
    assert seen(running(79.0), base=plain).state == "starting"  # 60 s, and 5 s for each of 4 GiB
    assert seen(running(81.0), base=plain).state == "unhealthy"


def test_F77_another_program_on_its_port_is_no_start():
    assert seen(running(1.0), Health("wrong", "port 1 is held by pid 7 (nc\x1b)")) == Condition(
        "unhealthy", "port 1 is held by pid 7 (nc\\x1b)", 4000
    )


def test_F75_a_program_that_keeps_ending_is_told_while_it_is_started_again():
    assert seen(running(1.0, starts=3)).why == f"{SILENT.why}; it was started 3 times within 10 minutes"
    assert seen(Process(ID, "EXITED", exit_status=1)).state == "starting"
    assert seen(Process(ID, "EXITED", exit_status=75)).state == "crash-loop"


def test_a_stopped_program_is_held_where_somebody_stopped_it():
    stopped = Process(ID, "STOPPED")
    assert seen(stopped) == Condition("stopped")
    assert seen(stopped, memory={"holds": {"code": "stopped"}}.items()) == Condition("held")
    assert seen(Process(ID, "EXITED", exit_status=75), held=frozenset({ID})) == Condition("held")
    assert condition.of("code", READY, lambda *_: SILENT) == Condition("stopped")


def test_what_cannot_be_spawned_says_so():
    assert seen(Process(ID, "FATAL", spawn_error="no such\nfile")).why == "it cannot be started: no such\\x0afile"


def test_F68_what_outlived_its_daemon_is_orphaned_and_the_way_out_is_named():
    orphan = seen(pid=None, orphans={ID: 77})
    assert (orphan.state, orphan.pid) == ("orphaned", 77)
    assert "`lmctl apply` ends it and starts it anew, `lmctl down` ends it" in orphan.why


def test_F68_a_plan_names_the_orphan_as_the_cause():
    daemon = replace(APPLIED.world.daemon, pid=None, processes={}, orphans={ID: 77})
    planned = make_plan(replace(APPLIED, world=replace(APPLIED.world, daemon=daemon)))
    assert [change.cause[0].before for change in planned.changes] == ["orphaned (pid 77)"]


def test_F66_what_runs_under_a_daemon_that_cannot_be_asked_is_asked_itself():
    lost = {"problem": "supervisord runs, but its socket is gone", "unseen": {ID: 77}}
    assert seen(None, Health("healthy"), **lost) == Condition("healthy", pid=77)
    assert seen(None, SILENT, **lost) == Condition("unhealthy", SILENT.why, 77)
    daemon = replace(APPLIED.world.daemon, processes={}, **lost)
    planned = make_plan(replace(APPLIED, world=replace(APPLIED.world, daemon=daemon)))
    assert planned.changes[0].cause[0].before == "not seen (supervisord runs, but its socket is gone)"


@pytest.mark.parametrize(
    ("argv", "fields", "expected"),
    [
        (("/usr/bin/serve", "8080"), {"health": "/ready"}, Probe(health="/ready")),
        (("/usr/bin/serve", "8080"), {}, Probe(health="/health")),
        (("llama-server", "--model", "/m.gguf", "--alias", "code"), {}, Probe(models="/v1/models", expect="code")),
    ],
    ids=["command", "command-by-default", "llama.cpp"],
)
def test_a_program_that_nothing_declares_any_more_is_asked_as_it_was_when_it_was_started(argv, fields, expected):
    spec = ProgramSpec(ID, "code", argv, {}, "/", "h", "127.0.0.1:8080")
    asked: list[Probe] = []

    def ask(listen: str, probe: Probe, pid: int) -> Health:
        asked.append(probe)
        return Health("healthy")

    undeclared = case(daemon=Daemon(99, {ID: running(1.0)}, {ID: spec}))
    memory = replace(undeclared.world.memory, applied={"program:code": Applied(fields, "h")})
    world = replace(undeclared.world, memory=memory)
    assert condition.of("code", replace(undeclared, world=world), ask).state == "healthy"
    assert asked == [expected]


def test_what_lost_its_file_is_shown_with_its_process_and_planned_anew():
    daemon = replace(APPLIED.world.daemon, specs={}, processes={ID: running(1.0)}, fileless=frozenset({ID}))
    whole = replace(APPLIED, world=replace(APPLIED.world, daemon=daemon))
    found = condition.of("code", whole, lambda *_: Health("healthy"))
    assert (found.state, found.pid) == ("unhealthy", 4000)
    assert found.why == "lmctl's file of it is gone or damaged; `lmctl apply` writes it anew and restarts it"
    (change,) = make_plan(whole).changes
    assert (change.verb, change.cause[0].before) == ("restart", "gone or damaged")


def test_a_damaged_file_of_what_runs_and_nothing_declares_is_no_change_that_an_apply_would_repeat():
    other = "p-0123456789ab"
    daemon = replace(APPLIED.world.daemon, edited=(f"programs/{other}.json", other), fileless=frozenset({other}))
    assert make_plan(replace(APPLIED, world=replace(APPLIED.world, daemon=daemon))).empty
