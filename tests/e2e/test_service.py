"""supervisord comes up at login by a unit of lmctl's own; nobody else's unit or supervisord is touched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_tools import ask, listening, profile, until

LINUX = sys.platform.startswith("linux")
pytestmark = pytest.mark.skipif(not LINUX, reason="the agent of launchd is held by tests/test_units.py")


@pytest.fixture
def applied(machine, port):
    """A local profile that was applied; its port is `machine.port`."""
    machine.hello("Hello again.")
    machine.port = port()
    machine.declare(profile("hello", path="hello.gguf", port=machine.port))
    machine.run("apply")
    return machine


def unit(machine) -> Path:
    return machine.home / ".config/systemd/user/lmctl-team.service"


def log_in(machine) -> subprocess.CompletedProcess[str]:
    """Do what systemd does with the unit: run its command in the environment of a login, from the home."""
    (line,) = (line for line in unit(machine).read_text().splitlines() if line.startswith("ExecStart="))
    environ = {"HOME": str(machine.home), "PATH": "/usr/bin:/bin", "TMPDIR": str(machine.home)}
    argv = ["/bin/sh", "-c", line.removeprefix("ExecStart=")]
    return subprocess.run(argv, cwd=machine.home, env=environ, capture_output=True, text=True, timeout=120)


def test_after_a_login_what_was_applied_answers_again(applied):
    ran = applied.run("service", "install")
    assert f"supervisord of team starts at login, by {unit(applied)}." in ran.out
    assert "loginctl enable-linger" in ran.out
    applied.run("down")
    done = log_in(applied)
    assert (done.returncode, done.stderr) == (0, "")
    until(lambda: applied.profiles()["hello"]["state"] == "healthy", 120)
    assert ask(applied.port, "hi") == "Hello again."
    assert log_in(applied).stdout == "supervisord of team runs already\n"


def test_a_broken_declaration_keeps_nothing_from_starting(applied):
    applied.run("service", "install")
    applied.run("down")
    (applied.folder / "localmodels.toml").write_text("version = [")
    assert log_in(applied).returncode == 0
    assert applied.profiles()["hello"]["state"] != "stopped"


def test_what_was_stopped_by_hand_stays_stopped(applied):
    applied.run("stop", "hello")
    applied.run("service", "install")
    applied.run("down")
    assert log_in(applied).returncode == 0
    assert applied.profiles()["hello"]["state"] == "held"
    assert listening(applied.port) is None


OWN = """
[profiles.own]
backend = "command"
command = ["{}", "-m", "http.server", "--bind", "127.0.0.1", "{{port}}"]
health = "/"
port = {}
"""


def test_what_is_not_trusted_any_more_runs_on_and_starts_no_more(machine, port):
    number = port()
    file = machine.declare(OWN.format(sys.executable, number))
    machine.run("trust", "--yes")
    machine.run("apply")
    machine.run("service", "install")
    ran = machine.run("trust", "--revoke", "--json").data
    assert (ran["revoked"], ran["held"]) == (["team"], ["own"])
    assert listening(number)
    machine.run("down")
    assert log_in(machine).returncode == 0
    assert machine.profiles()["own"]["state"] == "held"
    assert listening(number) is None
    file.write_text(file.read_text().replace("--bind", "-b"))  # trust in another program is none in that one
    machine.run("trust", "--yes")
    machine.run("down")
    assert log_in(machine).returncode == 0
    assert (machine.profiles()["own"]["state"], listening(number)) == ("held", None)
    assert "W-HELD" not in machine.run("apply").err
    assert (machine.profiles()["own"]["state"], bool(listening(number))) == ("healthy", True)


def test_trust_that_comes_back_lets_what_runs_on_be_started_again(machine, port):
    number = port()
    machine.declare(OWN.format(sys.executable, number))
    machine.run("trust", "--yes")
    machine.run("apply")
    machine.run("trust", "--revoke")
    machine.run("trust", "--yes")
    pid = machine.profiles()["own"]["pid"]
    assert "~ update  program:own  (trust: revoked → given again)" in machine.run("plan").out
    machine.run("apply")
    assert machine.profiles()["own"]["pid"] == pid
    assert "Nothing to do" in machine.run("plan").out
    os.kill(pid, signal.SIGKILL)
    until(lambda: machine.profiles()["own"]["state"] == "healthy")


def test_what_was_stopped_before_its_trust_went_stays_stopped_when_that_comes_back(machine, port):
    machine.declare(OWN.format(sys.executable, port()))
    machine.run("trust", "--yes")
    machine.run("apply")
    machine.run("trust", "--revoke")
    machine.run("stop", "own")
    machine.run("trust", "--yes")
    assert "W-HELD" in machine.run("apply").err
    assert machine.profiles()["own"]["state"] == "held"
    machine.run("start", "own")
    assert machine.profiles()["own"]["state"] == "healthy"


def test_install_twice_changes_nothing_and_uninstall_leaves_no_trace(applied):
    before = {path for path in applied.home.rglob("*") if path.name in ("service", "lmctl-team.service")}
    applied.run("service", "install")
    state = unit(applied).stat().st_mtime_ns
    applied.run("service", "install")
    assert unit(applied).stat().st_mtime_ns == state
    shown = applied.run("service", "status", "--json").data
    assert (shown["state"], shown["enabled"], shown["script"]) == ("ours", True, True)
    daemon = applied.run("status", "--json").data["supervisord"]
    applied.run("service", "uninstall")
    assert applied.run("status", "--json").data["supervisord"] == daemon  # what runs goes on
    assert ask(applied.port, "hi")
    assert {path for path in applied.home.rglob("*") if path.name in ("service", "lmctl-team.service")} == before
    assert "There was no unit" in applied.run("service", "uninstall").out
    assert applied.run("service", "status", "--json").data["state"] == "absent"


def test_a_unit_of_somebody_else_is_left_alone(applied):
    unit(applied).parent.mkdir(parents=True)
    unit(applied).write_text("[Service]\nExecStart=/usr/bin/mine\n")
    for action in ("install", "uninstall"):
        assert applied.run("service", action, code=4).err.startswith("error[E-")
    assert "is not lmctl's" in applied.run("service", "status").out
    applied.run("uninstall", "--yes")
    assert unit(applied).read_text() == "[Service]\nExecStart=/usr/bin/mine\n"


def test_nothing_applied_is_nothing_to_start(machine, port):
    machine.hello()
    machine.declare(profile("hello", path="hello.gguf", port=port()))
    assert "error[E-STATE]" in machine.run("service", "install", code=8).err
    assert "error[E-STATE]" in machine.run("service", "start", "--name", "nobody", code=8).err


def test_the_script_follows_a_new_python_as_the_launcher_does(applied):
    applied.run("service", "install")
    script = applied.state() / "service"
    there = script.read_bytes()
    script.write_bytes(there.replace(sys.executable.encode(), b"/opt/python-that-is-gone"))
    applied.run("down")
    assert log_in(applied).returncode == 75
    assert "service: names a Python that is gone → as lmctl writes it" in applied.run("plan").out
    applied.run("apply")
    assert script.read_bytes() == there


def test_uninstall_of_lmctl_takes_the_unit_along(applied):
    applied.run("service", "install")
    shown = applied.run("uninstall", "--dry-run").out
    assert f"- remove {unit(applied)}  starts it at login" in shown
    applied.run("uninstall", "--yes")
    assert not [path for path in (applied.home / ".config").rglob("*") if not path.is_dir()]


def test_a_supervisord_of_one_s_own_is_not_touched(applied, tmp_path):
    conf = tmp_path / "supervisord.conf"
    conf.write_text(
        f"[supervisord]\nnodaemon=true\nlogfile={tmp_path}/log\npidfile={tmp_path}/pid\n"
        f"[unix_http_server]\nfile={tmp_path}/s.sock\n[program:mine]\ncommand=/bin/sleep 1000\n"
    )
    line = [sys.executable, "-m", "supervisor.supervisord", "-c", str(conf)]
    mine = subprocess.Popen(line, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        applied.run("service", "install")
        applied.run("down")
        log_in(applied)
        applied.run("uninstall", "--yes")
        assert mine.poll() is None
        os.kill(mine.pid, 0)
    finally:
        mine.send_signal(signal.SIGTERM)
        mine.wait(timeout=30)


def test_doctor_tells_of_the_unit(applied):
    def told() -> list[str]:
        found = applied.run("doctor", "--json").data["findings"]
        return [one["state"] for one in found if one["check"] == "service of team"]

    assert told() == []
    applied.run("service", "install")
    assert told() == ["ok"]
    (applied.state() / "service").unlink()
    assert told() == ["warn"]
