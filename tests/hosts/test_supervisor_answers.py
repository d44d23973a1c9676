"""Answers of a daemon that hangs, lies, refuses or was asked already, and what lmctl makes of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault

import pytest
from xmlrpc_server import FakeSupervisord

from lmctl.errors import LmctlError
from lmctl.hosts.supervisor import LocalSupervisor
from lmctl.record import replace
from lmctl.spec import ProgramSpec, program_id

NAME = program_id("code")
INFO = {"name": NAME, "statename": "STOPPED", "pid": 0, "start": 0, "exitstatus": 0, "spawnerr": ""}


def answers(**changes: Any) -> Any:
    """Return how a well-behaved daemon with one stopped program answers, but for `changes`."""
    usual = {"getPID": 1, "getAllProcessInfo": [INFO], "getProcessInfo": INFO, "reloadConfig": [[[], [], []]]}
    table = {**usual, **changes}
    return lambda method, _: table.get(method, True)


def faked(home: Path, timeout: float = 60.0) -> LocalSupervisor:
    supervisor = LocalSupervisor(home / "f", os.environ, timeout=timeout)
    supervisor.write([ProgramSpec(NAME, "code", ("true",), {}, "/", "abc", "127.0.0.1:1")])
    return supervisor


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        pytest.param(answers(getPID=b"<<garbage"), "not XML-RPC", id="F69-garbage"),
        pytest.param(answers(getPID=b"\xff" * 9), "not XML-RPC", id="F69-binary"),
        pytest.param(answers(getPID=500), "HTTP status 500", id="F69-500"),
        pytest.param(answers(getPID=b"<methodResponse><params></params></methodResponse>"), "XML-RPC", id="F69-empty"),
        pytest.param(answers(getPID=Fault(6, "SHUTDOWN_STATE")), "is shutting down", id="F69-shutdown-state"),
        pytest.param(answers(getPID="1"), "makes no sense", id="F69-wrong-type"),
        pytest.param(answers(getAllProcessInfo=[{"name": 1}]), "makes no sense", id="F69-wrong-info"),
    ],
)
def test_an_unusable_answer_is_told_in_one_line(home: Path, answer: Any, says: str) -> None:
    unusable(faked(home), home, answer, says)


def test_F69_no_answer_is_told_in_one_line(home: Path) -> None:
    unusable(faked(home, timeout=0.2), home, answers(getPID=None), "no answer (timed out)")


def unusable(supervisor: LocalSupervisor, home: Path, answer: Any, says: str) -> None:
    with FakeSupervisord(home / "f" / "s.sock", answer):
        assert says in supervisor.observe().problem
        with pytest.raises(LmctlError) as caught:
            supervisor.reload(frozenset())
        assert (caught.value.code, caught.value.exit_code, str(caught.value).count("\n")) == ("E-SUPERVISOR", 9, 0)
        assert says in str(caught.value)
        with pytest.raises(LmctlError):
            supervisor.shutdown()


def test_F69_a_call_that_got_no_answer_is_made_once_more(home: Path) -> None:
    supervisor, lost = faked(home), [b"<"]
    usual = answers()
    with FakeSupervisord(home / "f" / "s.sock", lambda method, _: lost.pop() if lost else usual(method, _)) as fake:
        assert supervisor.observe().pid == 1
    assert fake.asked.count("getPID") == 2


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"startProcess": Fault(60, "ALREADY_STARTED")}, id="F69-already-started"),
        pytest.param({"addProcessGroup": Fault(90, "ALREADY_ADDED")}, id="F69-already-added"),
        pytest.param({"removeProcessGroup": Fault(10, "BAD_NAME")}, id="F69-already-removed"),
        pytest.param({"getProcessInfo": Fault(10, "BAD_NAME")}, id="F69-never-there"),
    ],
)
def test_what_is_so_already_is_no_error(home: Path, changes: dict[str, Any]) -> None:
    supervisor = faked(home)
    with FakeSupervisord(home / "f" / "s.sock", answers(**changes)) as fake:
        supervisor.reload(frozenset([NAME]))
        supervisor.start(NAME)
        supervisor.stop(NAME)
    assert {"removeProcessGroup", "addProcessGroup", "startProcess"} <= set(fake.asked)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"removeProcessGroup": Fault(91, "STILL_RUNNING")}, id="F69-still-running"),
        pytest.param({"addProcessGroup": Fault(10, "BAD_NAME")}, id="F69-bad-name"),
        pytest.param({"reloadConfig": Fault(92, "CANT_REREAD: \x1b[2J")}, id="F69-cant-reread"),
    ],
)
def test_a_refusal_is_told_with_its_reason(home: Path, changes: dict[str, Any]) -> None:
    supervisor = faked(home)
    with FakeSupervisord(home / "f" / "s.sock", answers(**changes)), pytest.raises(LmctlError) as caught:
        supervisor.reload(frozenset([NAME]))
    assert caught.value.exit_code == 9 and "\x1b" not in str(caught.value)


OTHER = program_id("chat")
RUNS = {**INFO, "statename": "RUNNING", "pid": 999_999_990, "start": 1}  # a pid that no kernel gives


@pytest.mark.parametrize("method", ["removeProcessGroup", "addProcessGroup"])
def test_F69_what_fails_for_one_program_stops_no_other(home: Path, method: str) -> None:
    supervisor = LocalSupervisor(home / "f", os.environ, timeout=60.0)
    spec = ProgramSpec(NAME, "code", ("true",), {}, "/", "abc", "127.0.0.1:1", autostart=False)
    supervisor.write([spec, replace(spec, id=OTHER, profile="chat")])
    started, stopped = [], set()
    usual = answers(getAllProcessInfo=[RUNS, {**RUNS, "name": OTHER}])

    def answer(asked: str, params: tuple[Any, ...]) -> Any:
        if asked == "stopProcess":
            stopped.add(params[0])
        if asked == "startProcess":
            started.append(params[0])
        if asked == "getProcessInfo":
            return {**(INFO if params[0] in stopped else RUNS), "name": params[0]}
        return Fault(30, "FAILED") if asked == method and params[0] == NAME else usual(asked, params)

    with FakeSupervisord(home / "f" / "s.sock", answer), pytest.raises(LmctlError) as caught:
        supervisor.reload(frozenset([NAME, OTHER]))
    assert [problem.change for problem in caught.value.problems] == [NAME]
    assert started == [OTHER], "it ran before, and nobody else starts it"


def test_F29_many_programs_start_a_few_at_a_time_and_one_that_is_refused_keeps_no_other(home: Path) -> None:
    supervisor, names = faked(home), [f"p-{n:012x}" for n in range(20)]
    bad, calls = names[7], []

    def answer(asked: str, params: tuple[Any, ...]) -> Any:
        if asked == "getProcessInfo":
            return {**INFO, "name": params[0]}
        if asked == "startProcess":
            calls.append(params)
        return Fault(50, "SPAWN_ERROR") if params[:1] == (bad,) else True

    with FakeSupervisord(home / "f" / "s.sock", answer) as fake, pytest.raises(LmctlError) as caught:
        supervisor.start(*names)
    assert [problem.change for problem in caught.value.problems] == [bad]
    assert calls == [(name, False) for name in names]
    assert fake.talks == [20, 8, 8, 4], "a daemon that starts programs answers nobody meanwhile"


@pytest.mark.parametrize(
    "changed", [[], [[]], [[[], []]], [[1, 2, 3]], "x", 7, [["a", "b", "c"]], [[[1], [], []]], {"a": 1}, True], ids=repr
)
def test_F69_a_list_of_changes_that_is_none_is_told(home: Path, changed: Any) -> None:
    supervisor = faked(home)
    fake = FakeSupervisord(home / "f" / "s.sock", answers(reloadConfig=changed))
    with fake, pytest.raises(LmctlError, match="makes no sense") as caught:
        supervisor.reload(frozenset())
    assert caught.value.code == "E-SUPERVISOR"


@pytest.mark.parametrize("changes", [{"pid": -1}, {"start": 10**400}, {"pid": 1 << 70}], ids=["pid", "start", "huge"])
def test_F69_numbers_that_are_none_are_told(home: Path, changes: dict[str, int]) -> None:
    def array(value: str) -> str:
        return f"<value><array><data>{value}</data></array></value>"

    values = {key: f"<int>{v}</int>" if isinstance(v, int) else v for key, v in {**INFO, **changes}.items()}
    members = "".join(f"<member><name>{key}</name><value>{value}</value></member>" for key, value in values.items())
    both = array(array("<value><int>1</int></value>") + array(array(f"<value><struct>{members}</struct></value>")))
    body = f"<methodResponse><params><param>{both}</param></params></methodResponse>".encode()
    supervisor = faked(home)
    with FakeSupervisord(home / "f" / "s.sock", answers(getPID=body)):
        assert "makes no sense" in supervisor.observe().problem


def test_F69_still_running_once_is_overcome(home: Path) -> None:
    supervisor, refusals, usual = faked(home), [Fault(91, "STILL_RUNNING")], answers()

    def answer(method: str, params: tuple[Any, ...]) -> Any:
        return refusals.pop() if method == "removeProcessGroup" and refusals else usual(method, params)

    with FakeSupervisord(home / "f" / "s.sock", answer) as fake:
        supervisor.reload(frozenset([NAME]))
    assert fake.asked.count("removeProcessGroup") == 2
