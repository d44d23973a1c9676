"""What happens to the daemon's socket, pidfile, answers and configuration, and what lmctl makes of it."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from supervised import Supervised, until
from supervisor.options import UnhosedConfigParser
from xmlrpc_server import FakeSupervisord

from lmctl.errors import LmctlError
from lmctl.hosts import pids, supervisor_conf, supervisor_daemon
from lmctl.hosts.supervisor import LocalSupervisor
from lmctl.record import replace
from lmctl.spec import ProgramSpec, program_id

NAME = program_id("code")


@pytest.fixture
def stack(home: Path) -> Iterator[Supervised]:
    with Supervised(home / "state") as held:
        yield held


def daemons(stack: Supervised) -> list[int]:
    return [found.pid for found in pids.every() if supervisor_daemon.is_daemon(found.pid, stack.folder)]


def test_F66_a_stale_socket_is_no_daemon_and_is_replaced(stack: Supervised) -> None:
    stack.supervisor.write([stack.spec("code")])
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stack.folder / "s.sock"))
    assert stack.supervisor.observe().pid is None
    stack.supervisor.reload(frozenset())
    assert stack.pid("code")


@pytest.mark.parametrize("also", ["", "supervisord.pid"], ids=["F66-socket", "F66-socket-and-pidfile"])
def test_a_daemon_whose_socket_is_gone_is_found_and_never_doubled(stack: Supervised, also: str) -> None:
    stack.up(stack.spec("code"))
    program, daemon = stack.pid("code"), stack.supervisor.observe().pid
    (stack.folder / "s.sock").unlink()
    if also:
        (stack.folder / also).unlink()
    seen = stack.supervisor.observe()
    assert (seen.pid, seen.problem) == (daemon, "it runs, but its socket is gone")
    with pytest.raises(LmctlError, match=r"socket is gone — run `lmctl down`") as caught:
        stack.supervisor.reload(frozenset())
    assert (caught.value.exit_code, daemons(stack)) == (9, [daemon])
    assert pids.stat(program)
    stack.supervisor.shutdown()
    assert (daemons(stack), pids.stat(program)) == ([], None)
    stack.supervisor.reload(frozenset())
    assert stack.process("code").running


def test_F66_what_a_program_left_behind_ends_also_when_the_daemon_cannot_be_asked(stack: Supervised) -> None:
    stack.up(stack.spec("code", "0", "--mode", "fork_grandchild"))
    assert len(pids.tree(stack.pid("code"))) == 2
    (stack.folder / "s.sock").unlink()
    stack.supervisor.shutdown()
    assert stack.processes() == []


def test_F66_a_daemon_that_was_killed_is_started_again(stack: Supervised) -> None:
    stack.up(stack.spec("code"))
    stack.pid("code")
    first = stack.kill_daemon()
    stack.supervisor.stop(NAME)
    stack.supervisor.reload(frozenset())
    assert stack.supervisor.observe().pid not in (first, None)


def test_two_starts_at_once_make_one_daemon(stack: Supervised) -> None:
    stack.up(stack.spec("code"))
    daemon = stack.supervisor.observe().pid
    with pytest.raises(LmctlError, match="another supervisord"):
        supervisor_daemon.start(stack.folder, os.environ)
    assert daemons(stack) == [daemon]


def test_F67_a_pidfile_that_names_another_process_is_not_trusted(stack: Supervised) -> None:
    stack.supervisor.write([stack.spec("code")])
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            (stack.folder / "supervisord.pid").write_text(f"{other.pid}\n")
            assert stack.supervisor.observe().pid is None
            stack.supervisor.shutdown()
            assert other.poll() is None
            stack.supervisor.reload(frozenset())
            assert stack.supervisor.observe().pid not in (other.pid, None)
        finally:
            other.kill()


def test_F67_a_recorded_pid_that_now_is_another_process_is_not_killed(stack: Supervised) -> None:
    stack.supervisor.write([stack.spec("code")])
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as other:
        try:
            record = '{{"at":{},"pid":{},"hash":"{}"}}\n'.format(0.5, other.pid, stack.mark + "1")
            (stack.folder / "starts" / NAME).write_text(record)
            assert stack.supervisor.observe().orphans == {}
            stack.supervisor.shutdown()
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.parametrize("text", ["", "x", "-1", "99999999999999999999", "\0"], ids=ascii)
def test_F67_a_broken_pidfile_is_no_daemon(stack: Supervised, text: str) -> None:
    stack.supervisor.write([stack.spec("code")])
    (stack.folder / "supervisord.pid").write_text(text)
    assert stack.supervisor.observe().pid is None


def test_F66_a_socket_folder_in_tmp_that_others_can_open_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "s"
    shared.mkdir(mode=0o755)
    monkeypatch.setattr(supervisor_daemon, "_short_folder", lambda: shared)
    supervisor = LocalSupervisor(tmp_path / ("l" * 100), os.environ)
    supervisor.write([])
    with pytest.raises(LmctlError, match="only you can open"):
        supervisor.reload(frozenset())
    assert supervisor.observe().pid is None


INFO = {"name": NAME, "statename": "STOPPED", "pid": 0, "start": 0, "exitstatus": 0, "spawnerr": ""}


def answers(**changes: Any) -> Any:
    """Return how a well-behaved daemon with one stopped program answers, but for `changes`."""
    usual = {"getPID": 1, "getAllProcessInfo": [INFO], "getProcessInfo": INFO, "reloadConfig": [[[], [], []]]}
    table = {**usual, **changes}
    return lambda method, _: table.get(method, True)


def faked(home: Path) -> LocalSupervisor:
    supervisor = LocalSupervisor(home / "f", os.environ, timeout=0.2)
    supervisor.write([ProgramSpec(NAME, "code", ("true",), {}, "/", "abc", "127.0.0.1:1")])
    return supervisor


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        pytest.param(answers(getPID=None), "no answer (timed out)", id="F69-hangs"),
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
    supervisor = faked(home)
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
    supervisor = LocalSupervisor(home / "f", os.environ, timeout=1.0)
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


@pytest.mark.parametrize("call", ["hold", "release", "reload"])
def test_F4_a_full_disk_is_told(stack: Supervised, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    stack.supervisor.write([stack.spec("code")])
    (stack.folder / "starts" / NAME).write_text('{"clear":true}\n')
    real = os.open

    def full(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT and str(path).startswith(str(stack.folder)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, flags, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        with pytest.raises(LmctlError) as caught:
            if call == "reload":
                stack.supervisor.reload(frozenset())
            else:
                getattr(stack.supervisor, call)(NAME)
    assert (caught.value.code, caught.value.exit_code) == ("E-SPACE", 8)


def test_F4_a_disk_that_gives_no_lock_starts_no_daemon(stack: Supervised) -> None:
    stack.supervisor.write([stack.spec("code")])
    (stack.folder / "supervisord.lock").mkdir()
    with pytest.raises(LmctlError) as caught:
        stack.supervisor.reload(frozenset())
    assert (caught.value.code, caught.value.exit_code) == ("E-IO", 8)
    (stack.folder / "supervisord.lock").rmdir()


def test_F69_still_running_once_is_overcome(home: Path) -> None:
    supervisor, refusals, usual = faked(home), [Fault(91, "STILL_RUNNING")], answers()

    def answer(method: str, params: tuple[Any, ...]) -> Any:
        return refusals.pop() if method == "removeProcessGroup" and refusals else usual(method, params)

    with FakeSupervisord(home / "f" / "s.sock", answer) as fake:
        supervisor.reload(frozenset([NAME]))
    assert fake.asked.count("removeProcessGroup") == 2


ANY = st.text(st.characters() | st.sampled_from("\n\r%[];#=\"'\\, \0"), max_size=40)
SPECS = st.builds(
    ProgramSpec,
    id=st.uuids().map(lambda value: program_id(str(value))),
    profile=ANY,
    argv=st.lists(ANY, min_size=1, max_size=4).map(tuple),
    env=st.dictionaries(ANY, ANY, max_size=3),
    cwd=ANY,
    hash=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    listen=ANY,
    key_file=st.none() | ANY,
    autostart=st.booleans(),
    stop_timeout=st.floats(0.001, 86400),
)


@given(specs=st.lists(SPECS, max_size=4, unique_by=lambda spec: spec.id))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_F72_no_text_of_a_program_reaches_the_configuration(tmp_path: Path, specs: list[ProgramSpec]) -> None:
    blocks = supervisor_conf.sections(specs, "s.sock", 20 << 20)
    text = supervisor_conf.join(blocks)
    parser = UnhosedConfigParser()
    parser.read_string(text)
    fixed = {"supervisord", "unix_http_server", "rpcinterface:supervisor"}
    assert set(parser.sections()) == fixed | {f"program:{spec.id}" for spec in specs}
    plain = [replace(spec, profile="", argv=("",), env={}, cwd="", listen="", key_file=None) for spec in specs]
    assert text == supervisor_conf.join(supervisor_conf.sections(plain, "s.sock", 20 << 20))
    assert supervisor_conf.split(text) == (blocks, ())
    supervisor_conf.check(text, specs)
    for spec in specs:
        path = tmp_path / f"{spec.id}.json"
        path.write_bytes(supervisor_conf.program_file(spec))
        path.chmod(0o600)
        assert supervisor_conf.read_program(path) == replace(spec, autostart=False, stop_timeout=10.0)


@pytest.mark.parametrize(
    "changes",
    [{"id": "p-1\n[program:x]"}, {"id": "../x"}, {"id": ""}, {"hash": 'a"\ncommand=x'}, {"hash": "%(here)s"}],
    ids=ascii,
)
def test_F72_an_id_or_hash_that_lmctl_does_not_form_writes_nothing(stack: Supervised, changes: dict[str, str]) -> None:
    with pytest.raises(LmctlError, match="E-SUPERVISOR"):
        stack.supervisor.write([replace(stack.spec("code"), **changes)])  # type: ignore[arg-type]
    assert not stack.folder.exists()


@pytest.mark.parametrize(
    "broken",
    [
        lambda text: text + "\n[program:p-000000000000]\ncommand=x\n",
        lambda text: text.replace("autostart=true", "autostart=maybe"),
        lambda text: text.replace("autostart=true", "autostart=false"),
        lambda text: text.replace("command=./launch", "command=./other"),
        lambda text: text.replace("[supervisord]", "[other]"),
        lambda text: text.replace("LMCTL_HASH", "OTHER"),
        lambda text: "\n" + text.replace("=", "", 1),
        lambda text: text + "\n[include]\nfiles=x\n",
    ],
    ids=["section", "value", "meaning", "command", "head", "environment", "syntax", "include"],
)
def test_F72_a_configuration_that_says_something_else_replaces_nothing(
    stack: Supervised, monkeypatch: pytest.MonkeyPatch, broken: Any
) -> None:
    stack.supervisor.write([stack.spec("code")])
    before = {path: path.read_bytes() for path in stack.folder.rglob("*") if path.is_file()}
    join = supervisor_conf.join
    monkeypatch.setattr(supervisor_conf, "join", lambda blocks: broken(join(blocks)))
    with pytest.raises(LmctlError, match=r"the new supervisord.conf is not used"):
        stack.supervisor.write([stack.spec("code", version=2)])
    assert {path: path.read_bytes() for path in stack.folder.rglob("*") if path.is_file()} == before


_LOW = """
import os, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (60, int(sys.argv[2])))
from lmctl.errors import LmctlError
from lmctl.hosts.supervisor import LocalSupervisor
from lmctl.spec import ProgramSpec, program_id
supervisor = LocalSupervisor(Path(sys.argv[1]), os.environ)
names = ("a", "b", "c")
try:
    supervisor.write([ProgramSpec(program_id(n), n, ("true",), {}, "/", "abc", "127.0.0.1:1") for n in names])
    supervisor.reload(frozenset())
    print(len(supervisor.observe().processes), "programs")
    supervisor.shutdown()
except LmctlError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("hard", "says"),
    [
        pytest.param(78, "supervisord needs 79 open files and may have 78", id="F73-too-low"),
        pytest.param(79, "3 programs", id="F73-soft-limit-raised"),
    ],
)
def test_the_limit_of_open_files_is_checked_before_anything_is_written(home: Path, hard: int, says: str) -> None:
    command = [sys.executable, "-c", _LOW, str(home / "state"), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert says in done.stdout, done.stderr
    assert (home / "state").exists() is (hard == 79)


def test_a_daemon_that_cannot_start_says_why(stack: Supervised) -> None:
    stack.supervisor.write([stack.spec("code")])
    (stack.folder / "supervisord.conf").write_text("[supervisord]\nlogfile=/nowhere/x.log\n")
    with pytest.raises(LmctlError, match=r"does not start: Error: .*nowhere"):
        stack.supervisor.reload(frozenset())
    until(lambda: not supervisor_daemon.lives(stack.folder))
