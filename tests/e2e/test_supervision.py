"""Models under their supervisord: what kills, hides, forges or joins it, and a terminal that goes away."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from e2e_tools import ask, daemons, listening, on_terminal, profile, until

SUPERVISORD = Path(sys.executable).with_name("supervisord")


@contextmanager
def running(argv: list[str], **how: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run another program as long as the context lasts."""
    with subprocess.Popen(argv, **how) as process:
        try:
            yield process
        finally:
            process.terminate()


def test_an_engine_that_was_killed_comes_back_by_itself(machine, served):
    before = machine.profiles()["hello"]["pid"]
    os.kill(before, signal.SIGKILL)
    until(lambda: (row := machine.profiles()["hello"])["state"] == "healthy" and row["pid"] != before)
    assert ask(served, "hi")
    assert "Nothing to do" in machine.run("plan").out


def test_F66_a_socket_that_was_removed_never_leads_to_a_second_daemon(machine, served):
    (first,) = daemons(machine)
    (machine.state() / "s.sock").unlink()
    for words in (("status",), ("plan",), ("apply",)):
        machine.run(*words, code=None)
        assert len(daemons(machine)) == 1
    ran = machine.run("apply", code=None)
    if ran.code:
        assert (ran.code, "lmctl down" in ran.err) == (9, True), ran.err
        assert daemons(machine) == [first]
        assert ask(served, "hi")
        machine.run("down")
        machine.run("apply")
    assert len(daemons(machine)) == 1
    assert machine.profiles()["hello"]["state"] == "healthy"
    assert ask(served, "hi")


def test_F66_a_socket_that_nobody_answers_is_no_obstacle(machine, served):
    machine.run("down")
    machine.state().joinpath("s.sock").touch()
    assert "not running" in machine.run("status").out
    machine.run("apply")
    assert ask(served, "hi")


def test_F66_a_long_path_gets_its_socket_elsewhere(machine, port):
    machine.environ["XDG_STATE_HOME"] = str(machine.home / ("long" * 30))
    machine.hello()
    machine.declare(profile("hello", path="hello.gguf", port=(number := port())))
    machine.run("apply")
    assert ask(number, "hi")
    assert machine.profiles()["hello"]["state"] == "healthy"
    machine.run("down")
    assert listening(number) is None


def test_F67_the_pid_of_another_process_is_neither_trusted_nor_killed(machine, served):
    machine.run("down")
    with running(["sleep", "600"]) as other:
        (machine.state() / "supervisord.pid").write_text(f"{other.pid}\n")
        assert "not running" in machine.run("status").out
        machine.run("down")
        machine.run("apply")
        assert ask(served, "hi")
        machine.run("down")
        assert other.poll() is None


def test_F71_a_supervisord_of_the_user_is_never_talked_to(machine, served, tmp_path):
    log = tmp_path / "theirs.log"
    folder = machine.home / "theirs"
    folder.mkdir()
    (folder / "supervisord.conf").write_text(
        f"[unix_http_server]\nfile={folder}/supervisor.sock\n[supervisord]\nnodaemon=true\nloglevel=trace\n"
        f"logfile={log}\npidfile={folder}/pid\n"
        "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
        "[program:theirs]\ncommand=sleep 600\n"
    )
    command = [str(SUPERVISORD), "-c", str(folder / "supervisord.conf")]
    with running(command, env=machine.env(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as theirs:
        until(lambda: log.exists() and "entered RUNNING state" in log.read_text())
        (program,), before = psutil.Process(theirs.pid).children(), log.read_text()
        for words in (("apply",), ("restart", "hello"), ("status",), ("down",)):
            machine.run(*words)
        assert (theirs.poll(), program.is_running()) == (None, True)
        assert log.read_text() == before


def test_an_upgrade_of_lmctl_restarts_nothing(machine, served):
    pid = machine.profiles()["hello"]["pid"]
    launch = machine.state() / "launch"
    today = launch.read_text()
    launch.write_text(today.replace(sys.executable, "/opt/lmctl-0.0.9/bin/python"))
    shutil.rmtree(machine.home / ".cache/lmctl")
    planned = machine.run("plan", "--json").data
    assert [change for change in planned["changes"] if change["verb"] == "restart"] == []
    machine.run("apply")
    assert machine.profiles()["hello"]["pid"] == pid
    assert launch.read_text() == today
    os.kill(pid, signal.SIGKILL)
    until(lambda: (row := machine.profiles()["hello"])["state"] == "healthy" and row["pid"] != pid)


def test_F09_models_outlive_the_terminal_they_were_started_in(machine, port):
    machine.hello()
    machine.declare(profile("hello", path="hello.gguf", port=(number := port())))
    process, terminal = on_terminal(machine, "apply")
    said = b""
    while b"changes done" not in said:
        said += os.read(terminal, 4096)
    assert process.wait(120) == 0, said
    os.close(terminal)
    pid = machine.profiles()["hello"]["pid"]
    assert ask(number, "hi")
    assert psutil.Process(pid).terminal() is None
    assert psutil.Process(daemons(machine)[0]).terminal() is None
