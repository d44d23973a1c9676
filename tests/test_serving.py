"""When to give up on a program that was started, and what stands in its way before."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import worlds
from worlds import artifact, case, owned, profile

from lmctl import desired, serving
from lmctl.errors import LmctlError, Problem
from lmctl.front import Front
from lmctl.host import Daemon, Listener
from lmctl.ledger import Ledger
from lmctl.plan import Change
from lmctl.reconcile import make_plan
from lmctl.record import replace
from lmctl.resource import Run
from lmctl.spec import Health, Process, program_id

CODE = artifact("code")
ID = program_id("code")
BROKEN = LmctlError("E-ENGINE", "llama-server does not know --no-kv-unified", fix="install a newer one")


class Supervisor:
    """Shows programs in the states it is told, one after the other; the last one stays."""

    def __init__(self, folder: Path, *states: Process) -> None:
        self.folder, self.states, self.calls = folder, list(states), list[str]()

    def observe(self) -> Daemon:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return Daemon(99, {ID: state}, {})

    def log(self, program: str) -> Path:
        return self.folder / "log"

    def ending(self, program: str) -> str:
        return "terminated by SIGKILL"

    @contextmanager
    def drained(self, profiles: frozenset[str], seconds: float) -> Iterator[None]:
        if profiles:
            self.calls.append(f"drain {', '.join(sorted(profiles))} {seconds:g}")
        yield
        if profiles:
            self.calls.append("let go")

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.calls.append(name)


@pytest.fixture
def carry(tmp_path):
    """Carry out the creation of one program on a machine of stand-ins; return its outcome and the supervisor."""

    def run(
        *states: Process,
        health=("healthy",),
        timeout=60.0,
        check=None,
        listener=None,
        unlocked=nullcontext,
        own=None,
        front=worlds.DIRECT,
        **world,
    ):
        whole = case(
            own or profile("code", start_timeout=timeout),
            artifacts=(CODE,),
            here=(CODE,),
            rows=(owned(CODE),),
            **world,
        )
        whole = replace(whole, declaration=replace(whole.declaration, front=front))
        answers = [] if callable(health) else list(health)

        def probe(*_: object) -> Health:
            if callable(health):
                return health()
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            return answer if isinstance(answer, Health) else Health(answer)

        def checked(*_: object) -> None:
            if check:
                raise check

        supervisor = Supervisor(tmp_path, *(states or (RUNNING,)))
        root = lambda pid, roots: pid if pid in roots else None  # noqa: E731
        processes = SimpleNamespace(probe=probe, listener=lambda port: listener, root=root)
        engines = SimpleNamespace(check=checked)
        host = SimpleNamespace(
            supervisor=supervisor, processes=processes, engines=engines, desk=supervisor, now=lambda: 1.0
        )
        (change,) = (change for change in make_plan(whole).changes if change.address == "program:code")
        asked = desired.programs(whole).ready
        ledger = Ledger(tmp_path / "ledger.db")
        silent: Any = lambda _: None  # noqa: E731
        parts = Run(host, ledger, 1, silent, threading.Event(), silent, unlocked=unlocked)  # type: ignore[arg-type]
        (outcome,) = serving.carry_out({"code": change}, asked, {}, whole, parts)
        return outcome.error, supervisor

    return run


RUNNING = Process(ID, "RUNNING", pid=4000)


def test_a_program_that_answers_is_done(carry):
    error, supervisor = carry(health=("down", "loading", "healthy"))
    assert error is None
    assert supervisor.calls == ["release", "write", "reload", "write", "start"]


def test_F30_what_a_running_program_is_asked_ends_before_it_is_replaced(carry):
    error, supervisor = carry(daemon=Daemon(99, {ID: RUNNING}, {}), front=Front())
    assert error is None
    writes = ["make_keys", "release", "write", "reload", "write", "start"]
    assert supervisor.calls == ["drain code 30", *writes, "let go", "caught_up"]


@pytest.mark.parametrize(("why", "key"), [("/health answers 404", True), ("nothing listens on 127.0.0.1:1", False)])
def test_a_command_whose_address_may_be_wrong_is_told_the_key(carry, why, key):
    own = profile("code", start_timeout=0.0, weights=None, mmproj=None, command=("./serve", "{port}"))
    error, _ = carry(
        health=(Health("down", why),), own=replace(own, backend="command"), engines={"command": worlds.ENGINE}
    )
    assert error.code == "E-UNHEALTHY"
    assert ("or correct `health`, which is /health" in str(error)) is key
    assert ("or raise start_timeout" in str(error)) is not key


def test_a_program_that_is_still_loading_when_its_time_is_over_is_unhealthy(carry):
    error, _ = carry(health=(Health("loading", "503\x1b"),), timeout=0.0)
    assert error.code == "E-UNHEALTHY"
    assert "code is not healthy after 0 s (loading: 503\\x1b)" in str(error) and "start_timeout" in str(error)


def test_F77_another_program_s_answer_is_never_health(carry):
    error, _ = carry(health=(Health("wrong", "another model answers"),), timeout=0.0)
    assert error.code == "E-UNHEALTHY"
    assert "another model answers" in str(error)


def test_F75_a_crash_loop_ends_the_wait_with_how_it_ended_and_its_last_words(carry, tmp_path):
    (tmp_path / "log").write_text("loading\nerror: out of \x1b[31mmemory\nlmctl: 5 starts in 10 minutes\n")
    error, _ = carry(RUNNING, Process(ID, "EXITED", exit_status=75), health=("down",))
    assert str(error) == (
        "error[E-CRASHLOOP]: code crashed again and again (terminated by SIGKILL) — read `lmctl logs code`\n"
        "  | loading\n"
        "  | error: out of \\x1b[31mmemory"
    )


def test_a_program_that_cannot_be_spawned_ends_the_wait(carry):
    error, _ = carry(Process(ID, "FATAL", spawn_error="no such\nfile"), health=("down",))
    assert error.code == "E-ENGINE"
    assert "no such\\x0afile" in str(error)


HELD = Daemon(99, {ID: Process(ID, "STOPPED")}, {}, held=frozenset({ID}))


@pytest.mark.parametrize(
    ("seen", "code", "said"),
    [
        pytest.param(HELD, "E-UNHEALTHY", "code was stopped before it was healthy — run `lmctl start code`", id="stop"),
        pytest.param(Daemon(99, {}, {}), "E-UNHEALTHY", "code was stopped before it was", id="undeclared"),
        pytest.param(Daemon(None, {}, {}), "E-SUPERVISOR", "supervisord was stopped before code was", id="down"),
    ],
)
def test_who_stops_a_program_that_is_awaited_ends_the_wait(carry, monkeypatch, seen, code, said):
    shown = [Daemon(99, {ID: RUNNING}, {}), seen]
    monkeypatch.setattr(Supervisor, "observe", lambda self: shown.pop(0) if len(shown) > 1 else shown[0])
    error, _ = carry(health=("loading",))
    assert (error.code, said in str(error)) == (code, True)


def test_a_daemon_that_gives_no_answer_once_is_asked_again(carry, monkeypatch):
    shown = [Daemon(99, {}, {}, problem="supervisord cannot be asked: no answer"), Daemon(99, {ID: RUNNING}, {})]
    monkeypatch.setattr(Supervisor, "observe", lambda self: shown.pop(0) if len(shown) > 1 else shown[0])
    error, _ = carry()
    assert error is None


@pytest.mark.parametrize(("about", "said"), [(ID, "no such program"), ("", "no answer")], ids=["one", "supervisord"])
def test_a_program_that_supervisord_does_not_start_is_not_waited_for(carry, monkeypatch, about, said):
    def refuse(*_: str) -> None:
        raise LmctlError.of([Problem("E-SUPERVISOR", said, change=about), Problem("E-SUPERVISOR", "other", change="x")])

    monkeypatch.setattr(Supervisor, "start", refuse, raising=False)
    error, _ = carry(health=("down",))
    assert said in str(error) and (about or error.problems[0].change == "")


def test_F29_an_absent_daemon_starts_nothing_by_itself_that_is_started_a_few_at_a_time(carry, monkeypatch):
    written: list[bool] = []
    monkeypatch.setattr(Supervisor, "write", lambda _, specs: written.extend(s.autostart for s in specs), raising=False)
    error, _ = carry()
    assert (error, written) == (None, [False, True]), "once it is there, the file is as it has to be at the next login"


def test_others_may_stop_programs_while_one_is_awaited(carry):
    states: list[bool] = []

    @contextmanager
    def unlocked():
        states.append(True)
        yield
        states.append(False)

    error, supervisor = carry(unlocked=unlocked)
    assert (error, states, supervisor.calls[-1]) == (None, [True, False], "start")


def test_the_moment_between_two_starts_is_waited_out(carry):
    error, _ = carry(Process(ID, "EXITED", exit_status=1), Process(ID, "BACKOFF"), RUNNING, health=("healthy",))
    assert error is None


def test_F80_an_engine_that_cannot_run_is_refused_before_anything_happens(carry):
    error, supervisor = carry(check=BROKEN)
    assert error is BROKEN
    assert supervisor.calls == []


@pytest.mark.parametrize(
    ("listener", "orphans", "said"),
    [
        (Listener(77, "nc -l\x1b"), {}, "is taken by pid 77 (nc -l\\x1b)"),
        (Listener(None, ""), {}, "is taken by another user's process"),
        (Listener(77, "llama-server"), {ID: 77}, "which outlived a supervisord of lmctl"),
    ],
    ids=["F74-other", "F74-other-user", "F68-orphan"],
)
def test_a_taken_port_is_named_with_its_holder_before_anything_happens(carry, listener, orphans, said):
    error, supervisor = carry(listener=listener, daemon=Daemon(None, {}, {}, orphans=orphans))
    assert error.code == "E-PORT"
    assert said in str(error)
    assert supervisor.calls == []


def test_a_port_that_our_own_program_holds_is_free(carry):
    error, _ = carry(listener=Listener(4000, "llama-server"), daemon=Daemon(99, {ID: RUNNING}, {}))
    assert error is None


def test_without_a_log_there_are_no_last_words(carry):
    error, _ = carry(Process(ID, "EXITED", exit_status=75), health=("down",))
    assert str(error).endswith("read `lmctl logs code`")


def test_files_that_belong_to_no_program_are_written_again_without_a_start(tmp_path):
    for pid, calls in ((99, ["write", "reload"]), (None, ["write"])):
        supervisor = Supervisor(tmp_path, RUNNING)
        seen = replace(supervisor.observe(), pid=pid)
        supervisor.observe = lambda seen=seen: seen  # type: ignore[method-assign]
        parts: Any = SimpleNamespace(host=SimpleNamespace(supervisor=supervisor))
        change = Change("serve", "update", "supervisord:files", ())
        assert serving.rewrite(change, parts).error is None
        assert supervisor.calls == calls


def test_a_plan_shows_files_of_no_program_as_one_change_that_restarts_nothing():
    ready = worlds.applied(
        case(profile("code"), artifacts=(CODE,), here=(CODE,), rows=(owned(CODE),)), {"code": "RUNNING"}
    )
    daemon = replace(ready.world.daemon, edited=("launch", "supervisord", "include"))
    (change,) = make_plan(replace(ready, world=replace(ready.world, daemon=daemon))).changes
    assert (change.verb, change.address, len(change.cause)) == ("update", "supervisord:files", 3)


@pytest.mark.parametrize("needs", [0.3, 2.0, 8.0, 30.0])
def test_waiting_adds_at_most_a_twentieth_to_what_a_program_needs(carry, monkeypatch, needs):
    now, asked = [100.0], list[float]()

    def passes(_: threading.Event, seconds: float) -> bool:
        now[0] += seconds
        return False

    def health() -> Health:
        asked.append(now[0])
        return Health("healthy" if now[0] >= 100.0 + needs else "loading")

    monkeypatch.setattr(serving.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(threading.Event, "wait", passes)
    error, _ = carry(health=health)
    assert error is None
    assert now[0] - 100.0 <= needs * 1.05 + 0.011
    assert len(asked) < 150
