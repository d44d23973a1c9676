"""A real supervisord: started once, changed program by program, and gone without a trace."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from supervised import Supervised, tick, until

from lmctl import launch
from lmctl.errors import LmctlError
from lmctl.hosts import pids, supervisor_conf, supervisor_daemon, supervisor_rpc
from lmctl.record import replace
from lmctl.spec import program_id


def test_nothing_is_there_and_nothing_is_made_by_looking(stack: Supervised) -> None:
    daemon = stack.supervisor.observe()
    assert (daemon.pid, daemon.processes, daemon.specs, daemon.edited, daemon.problem) == (None, {}, {}, (), "")
    assert not stack.folder.exists()


def test_F65_an_absent_daemon_is_started_and_starts_what_starts_by_itself(stack: Supervised) -> None:
    stack.up(stack.spec("code"), stack.spec("chat", autostart=False))
    daemon = stack.supervisor.observe()
    assert daemon.pid and os.getsid(daemon.pid) == daemon.pid != os.getsid(0), "it would end with the terminal"
    assert stack.states() == {"code": "RUNNING", "chat": "STOPPED"}
    stack.supervisor.reload(frozenset())
    assert stack.supervisor.observe().pid == daemon.pid


def test_the_same_programs_again_write_nothing_and_restart_nothing(stack: Supervised) -> None:
    programs = [stack.spec("code"), stack.spec("chat")]
    stack.up(*programs)
    pid = stack.pid("code")
    before = {path: path.stat().st_mtime_ns for path in stack.folder.rglob("*.[jc]*")}
    assert stack.supervisor.write(programs[::-1]) is False
    stack.supervisor.reload(frozenset())
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert stack.pid("code") == pid


def test_what_is_written_is_read_back(stack: Supervised) -> None:
    programs = [stack.spec("code", stop=3.0), stack.spec("chät\n", "0", "--model", "ü", autostart=False)]
    stack.supervisor.write(programs)
    daemon = stack.supervisor.observe()
    assert daemon.specs == {spec.id: spec for spec in programs}
    assert daemon.edited == ()
    modes = {path.name: path.stat().st_mode & 0o777 for path in stack.folder.rglob("*")}
    assert modes.pop("launch") == 0o700
    assert set(modes.values()) == {0o600, 0o700}
    assert all(mode == 0o700 for name, mode in modes.items() if (stack.folder / name).is_dir())


def test_a_variable_reaches_the_program_that_names_it_alone_and_no_file(
    stack: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_KEY", "a-key-for-one")
    monkeypatch.setenv("OTHER_KEY", "a-key-for-nobody")
    stack.up(replace(stack.spec("front"), inherit=("CLOUD_KEY", "ABSENT_KEY")), stack.spec("code"))
    front, code = stack.pid("front"), stack.pid("code")
    assert pids.variable(front, "CLOUD_KEY") == "a-key-for-one"
    assert (pids.variable(code, "CLOUD_KEY"), pids.variable(front, "OTHER_KEY")) == (None, None)
    assert pids.variable(stack.supervisor.observe().pid or 0, "OTHER_KEY") is None
    written = [path.read_bytes() for path in stack.folder.rglob("*") if path.is_file()]
    assert written and not any(b"a-key-for" in content for content in written)


def test_a_changed_program_is_replaced_and_no_other_is_touched(stack: Supervised) -> None:
    programs = [stack.spec("code"), stack.spec("chat"), stack.spec("raw")]
    stack.up(*programs)
    before = {name: stack.pid(name) for name in ("code", "chat", "raw")}
    stack.up(stack.spec("code", version=2), *programs[1:], replace=("code",))
    assert stack.process("code").pid != before["code"]
    until(lambda: stack.process("code").hash == stack.mark + "2")  # a program that was just forked carries none yet
    assert (stack.pid("chat"), stack.pid("raw")) == (before["chat"], before["raw"])


def test_a_change_that_nobody_asked_to_apply_restarts_nothing(stack: Supervised) -> None:
    stack.up(stack.spec("code"))
    pid = stack.pid("code")
    stack.up(stack.spec("code", autostart=False, stop=33.0, version=2), stack.spec("chat"))
    daemon = stack.supervisor.observe()
    spec, process = daemon.specs[program_id("code")], daemon.processes[program_id("code")]
    assert (spec.autostart, spec.stop_timeout, spec.hash) == (False, 33.0, stack.mark + "2")
    assert (process.pid, process.hash) == (pid, stack.mark + "1"), "it still runs what it was started with"
    assert stack.states() == {"code": "RUNNING", "chat": "RUNNING"}


def test_a_program_that_is_gone_is_stopped_and_forgotten(stack: Supervised) -> None:
    stack.up(stack.spec("code"), stack.spec("chat"))
    pid = stack.pid("chat")
    stack.up(stack.spec("code"))
    assert stack.states() == {"code": "RUNNING"}
    assert pids.stat(pid) is None
    assert [path.stem for path in (stack.folder / "programs").iterdir()] == [program_id("code")]


def test_a_group_lost_between_remove_and_add_comes_back(stack: Supervised) -> None:
    stack.up(stack.spec("code"), stack.spec("chat"))
    stack.pid("chat")  # the stop below waits, which one that was just forked would draw out
    client, name = stack.supervisor._client, program_id("chat")
    client.tell("stopProcess", name)
    client.tell("removeProcessGroup", name)
    stack.supervisor.reload(frozenset())
    assert stack.states() == {"code": "RUNNING", "chat": "RUNNING"}


def test_another_python_changes_the_script_and_no_program(stack: Supervised) -> None:
    stack.up(stack.spec("code"))
    pid, conf = stack.pid("code"), (stack.folder / "supervisord.conf").read_bytes()
    (stack.folder / "launch").write_bytes(supervisor_conf.launcher("/old python/bin/python"))
    observed = stack.supervisor.observe()
    assert (observed.edited, observed.stranded) == ((), ("launch",))
    assert stack.supervisor.write([stack.spec("code")]) is True
    stack.supervisor.reload(frozenset())
    assert (stack.pid("code"), (stack.folder / "supervisord.conf").read_bytes()) == (pid, conf)
    assert sys.executable.encode() not in conf


def test_a_python_that_is_gone_ends_in_75_and_not_in_a_loop(stack: Supervised) -> None:
    stack.supervisor.write([stack.spec("code")])
    (stack.folder / "launch").write_bytes(supervisor_conf.launcher("/nowhere/python"))
    stack.supervisor.reload(frozenset())
    until(lambda: stack.process("code").exit_status == 75)
    assert b"run lmctl apply" in stack.output("code")


@pytest.mark.parametrize("name", ["with space", "100%", "[x] ;#'\"", "%(ENV_HOME)s", "ünï", "l" * 120], ids=ascii)
def test_F66_any_state_folder_works(home: Path, name: str) -> None:
    with Supervised(home / name) as stack:
        stack.up(stack.spec("code"))
        assert stack.pid("code") and stack.port("code")
        socket = supervisor_daemon.socket_path(stack.folder)
        assert len(os.fsencode(socket)) < 100
        assert (socket.stat().st_mode & 0o777, socket.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert not socket.exists()


def test_start_and_stop(stack: Supervised) -> None:
    stack.up(stack.spec("code", autostart=False))
    name = program_id("code")
    for _ in range(2):
        stack.supervisor.start(name)
    pid = stack.pid("code")
    for _ in range(2):
        stack.supervisor.stop(name)
    assert pids.stat(pid) is None
    process = stack.process("code")
    assert (process.state, process.pid, process.hash) == ("STOPPED", None, None)


def test_many_programs_are_started_and_stopped_together(stack: Supervised) -> None:
    names = [f"m{n}" for n in range(12)]
    stack.up(*(stack.spec(name, autostart=False) for name in names))
    stack.supervisor.start(*map(program_id, names))
    running = {stack.pid(name) for name in names}
    assert len(running) == len(names)
    stack.up()
    assert stack.states() == {} and not any(map(pids.stat, running))


def test_a_program_that_the_daemon_does_not_know_is_an_error(stack: Supervised) -> None:
    with pytest.raises(LmctlError, match="does not run"):
        stack.supervisor.start(program_id("code"))
    stack.up(stack.spec("code"))
    with pytest.raises(LmctlError, match="does not know"):
        stack.supervisor.start(program_id("chat"))
    stack.supervisor.stop(program_id("chat"))


def test_a_held_program_stays_stopped_when_the_daemon_starts_again(stack: Supervised) -> None:
    name = program_id("code")
    stack.up(stack.spec("code"))
    stack.supervisor.hold(name)
    stack.supervisor.stop(name)
    stack.supervisor.shutdown()
    stack.supervisor.reload(frozenset())
    until(lambda: stack.process("code").exit_status == 75)
    assert stack.supervisor.observe().held == {name}
    stack.supervisor.start(name)
    assert stack.pid("code") and stack.supervisor.observe().held == frozenset()


def test_F75_a_crashing_program_is_started_again_and_left_after_the_sixth_time(stack: Supervised) -> None:
    stack.up(stack.spec("code", "0", "--mode", "crash", autostart=False))
    name = program_id("code")
    path = str(stack.folder / "starts" / name)
    stack.supervisor._client.tell("startProcess", name)
    until(lambda: len(launch.read_starts(path)) >= 2)  # a first start, and one by supervisord itself
    launch.update(path, lambda records: [*records, *records[-1:] * (launch.LIMIT - len(records))])
    until(lambda: stack.process("code").exit_status == 75)
    tick()
    assert stack.process("code").state == "EXITED"
    assert b"5 starts within 10 minutes" in stack.output("code")
    stack.up(stack.spec("code", autostart=False, version=2), replace=("code",))
    stack.supervisor.start(name)
    assert stack.pid("code"), "a deliberate start begins a new count"


@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSEGV], ids=["F75-oom", "F75-segfault"])
def test_a_killed_program_is_started_again(stack: Supervised, sign: signal.Signals) -> None:
    stack.up(stack.spec("code"))
    pid = stack.pid("code")
    os.kill(pid, sign)
    until(lambda: stack.process("code").pid not in (pid, None))


def test_F75_a_program_that_exits_with_0_counts_like_any_other(stack: Supervised) -> None:
    spec = replace(stack.spec("code"), argv=("true",))
    stack.up(spec)
    until(lambda: launch.count(launch.read_starts(str(stack.folder / "starts" / spec.id)), launch.clock()) >= 2)


@pytest.mark.parametrize("mode", ["ignore_term", "fork_grandchild"], ids=["F78-ignores-term", "F78-grandchild"])
def test_stop_leaves_nobody_in_the_process_group(stack: Supervised, mode: str) -> None:
    stack.up(stack.spec("code", "0", "--mode", mode, stop=1.0))
    pid, port = stack.pid("code"), stack.port("code")
    assert pids.members([(pid, os.getsid(pid))])
    stack.supervisor.stop(program_id("code"))
    assert [found.pid for found in pids.every() if found.group == pid] == []
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))


def test_F78_shutdown_stops_stubborn_programs_side_by_side(stack: Supervised) -> None:
    names = ("a", "b", "c")
    stack.up(*(stack.spec(name, "0", "--mode", "ignore_term", stop=1.0) for name in names))
    groups = [stack.pid(name) for name in names]
    stack.supervisor.shutdown()
    assert [found.pid for found in pids.every() if found.group in groups] == []
    assert stack.supervisor.observe().pid is None


def test_F79_a_flood_of_output_is_capped(home: Path) -> None:
    cap = 300_000
    with Supervised(home / "state", log_max_bytes=cap) as stack:
        stack.up(stack.spec("code", "0", "--mode", "spew"))
        log = stack.supervisor.log(program_id("code"))
        until(lambda: log.with_name(log.name + ".2").exists())
        log.unlink(missing_ok=True)  # it may be rotated right now
        assert stack.process("code").running
        stack.supervisor.stop(program_id("code"))
        contents = [path.read_bytes() for path in log.parent.iterdir()]
        assert sum(map(len, contents)) <= cap * 1.5  # one read beyond, at most
        assert b"\x1b[2J\0\xff" in b"".join(contents)


def test_F71_a_supervisord_of_the_user_is_never_touched(stack: Supervised, home: Path) -> None:
    sock, conf = home / "supervisor.sock", home / "supervisord.conf"
    conf.write_text(
        f"[supervisord]\nnodaemon=true\n[unix_http_server]\nfile={sock}\n[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        "[program:theirs]\ncommand=sleep 600\n"
    )
    command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(conf)]
    with subprocess.Popen(command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as theirs:
        try:
            until(lambda: len(pids.tree(theirs.pid)) == 2)
            before = sorted(pids.tree(theirs.pid))
            stack.up(stack.spec("code"))
            assert stack.pid("code") not in before
            stack.supervisor.shutdown()
            assert sorted(pids.tree(theirs.pid)) == before and sock.exists()
        finally:
            theirs.terminate()


def test_F70_what_somebody_edited_is_named(stack: Supervised) -> None:
    stack.supervisor.write([stack.spec("code"), stack.spec("chat")])
    conf, chat = stack.folder / "supervisord.conf", stack.folder / "programs" / f"{program_id('chat')}.json"
    text = conf.read_text()
    conf.write_text(
        text.replace("startsecs=0", "startsecs=9", 1) + "\n[include]\nfiles=/etc/x.ini\n[program:mine]\ncommand=x\n"
    )
    chat.write_text("{}")
    edited = stack.supervisor.observe().edited
    assert {"include", "program:mine", f"programs/{chat.name}"} < set(edited)
    assert min(program_id("code"), program_id("chat")) in edited
    theirs = conf.read_text()
    assert stack.supervisor.write([stack.spec("code"), stack.spec("chat")]) is True
    assert (stack.supervisor.observe().edited, conf.read_text()) == ((), text)
    kept = conf.with_name("supervisord.conf.edited")
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == (theirs, 0o600)


def test_the_same_python_by_another_path_is_nobodys_edit(stack: Supervised, tmp_path: Path) -> None:
    stack.supervisor.write([stack.spec("code")])
    moved = tmp_path / "the same, moved"
    moved.symlink_to(Path(sys.executable).parent)
    launcher, login = stack.folder / "launch", stack.folder / "service"
    launcher.write_bytes(supervisor_conf.launcher(str(moved / "python")))
    login.write_bytes(supervisor_conf.login(stack.folder, str(moved / "python")))
    observed = stack.supervisor.observe()
    assert (observed.edited, observed.stranded) == ((), ())
    for script in (launcher, login):
        script.write_bytes(script.read_bytes() + b"rm -r /\n")
    assert stack.supervisor.observe().edited == ("launch", "service")
    launcher.write_bytes(b"\xff [ -x '")
    moved.unlink()
    login.write_bytes(supervisor_conf.login(stack.folder, str(moved / "python")))
    observed = stack.supervisor.observe()
    assert (observed.edited, observed.stranded) == (("launch",), ("service",))
    stack.supervisor.write([stack.spec("code")])
    assert not (stack.folder / "supervisord.conf.edited").exists()


def test_F70_what_was_edited_again_is_kept_beside_what_was_edited_before(stack: Supervised) -> None:
    conf = stack.folder / "supervisord.conf"
    stack.supervisor.write([stack.spec("code")])
    text = conf.read_text()
    for number in (1, 1, *range(2, 8)):  # the first edit comes twice
        conf.write_text(f"{text}\n[include]\nfiles=/etc/{number}.ini\n")
        stack.supervisor.write([stack.spec("code")])
    kept = sorted(conf.parent.glob("supervisord.conf.edited*"))
    assert [path.name.removeprefix("supervisord.conf.edited") for path in kept] == ["", ".1", ".2", ".3", ".4"]
    assert [path.read_text().split("/etc/")[1] for path in kept] == [f"{n}.ini\n" for n in (7, 6, 5, 4, 3)]


def test_F70_a_file_that_nobody_edited_is_kept_nowhere(stack: Supervised) -> None:
    for programs in (["code"], ["code", "chat"], ["chat"], []):
        stack.supervisor.write([stack.spec(name) for name in programs])
    assert not (stack.folder / "supervisord.conf.edited").exists()


def test_F70_a_program_that_somebody_added_to_our_daemon_goes_on(stack: Supervised) -> None:
    stack.up(stack.spec("code"))
    conf = stack.folder / "supervisord.conf"
    text = conf.read_text()
    section = f'\n[program:mine]\ncommand=sleep 600\nenvironment=LMCTL_HASH="{stack.mark}"\nautostart=true\n'
    conf.write_text(text + section)
    client = supervisor_rpc.Client(supervisor_rpc.Rpc(supervisor_daemon.socket_path(stack.folder)))
    client.reread()
    client.tell("addProcessGroup", "mine")
    until(lambda: stack.supervisor.observe().processes["mine"].pid)
    pid = stack.supervisor.observe().processes["mine"].pid
    stack.up(stack.spec("code", version=2), stack.spec("chat"), replace=("code",))
    assert conf.read_text().count("[program:") == 2
    assert stack.supervisor.observe().processes["mine"].pid == pid
    conf.write_text(conf.read_text() + section.replace("mine", "other"))
    stack.supervisor.reload(frozenset())
    assert "other" not in stack.supervisor.observe().processes


def test_logs_lie_in_the_state_folder_and_only_their_owner_reads_them(stack: Supervised) -> None:
    stack.up(stack.spec("code"))
    assert stack.port("code")
    log = stack.supervisor.log(program_id("code"))
    assert (log.parent.parent, log.stat().st_mode & 0o777) == (stack.folder, 0o600)
