"""Applies that are cut short, crowded or kept waiting: the lock is free again, and the next one converges."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess

import pytest
from e2e_tools import listening, on_terminal, profile, until
from fakes.llama_server import install, set_mode
from weights.hello import hello


@pytest.fixture
def engine(machine, tmp_path):
    """A stand-in engine first on PATH."""
    machine.environ["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    return install(tmp_path)


@pytest.fixture
def loading(machine, engine, port):
    """A profile whose engine loads until its mode is lifted; its port."""
    set_mode(engine, "slow_load")
    machine.hello()
    number = port()
    machine.declare(profile("slow", path="hello.gguf", port=number))
    return number


def started(machine, number: int, *words: str) -> subprocess.Popen[str]:
    """Start lmctl and wait until the engine on port `number` listens, not healthy yet."""
    process = machine.start(*words)
    until(lambda: listening(number) or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    return process


@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGTERM, 143, id="F06-term"),
        pytest.param(signal.SIGINT, 130, id="F07-int"),
        pytest.param(signal.SIGHUP, 143, id="F09-hup"),
    ],
)
def test_an_interrupted_apply_says_what_it_did_and_the_next_one_converges(machine, engine, loading, number, code):
    process = started(machine, loading, "apply")
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    assert "finishing what is under way" in err
    assert "program:slow  (interrupted)" in out
    assert "Interrupted: 2 of 3 changes done." in out
    assert "error[E-INTERRUPTED]: slow was started and is not healthy yet — see `lmctl status`" in err
    set_mode(engine, None)
    machine.run("apply")
    assert machine.profiles()["slow"]["state"] == "healthy"
    assert "Nothing to do" in machine.run("plan").out


def test_F06_a_terminated_apply_ends_what_it_is_in_begins_nothing_else_and_holds_no_lock(machine, engine, hub, port):
    hub.add("org/far-GGUF", {"far-Q4_K_M.gguf": hello("From afar.")})
    machine.hello()
    near = port()
    machine.declare(
        profile("near", path="hello.gguf", port=near)
        + profile("far", model="org/far-GGUF", quant="Q4_K_M", port=port())
    )
    machine.run("lock")
    hub.fault("org/far-GGUF", where="get", stall=100_000)
    hub.requests.clear()
    process = machine.start("apply")
    until(lambda: hub.asked("far-Q4_K_M.gguf", "GET") or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 143, out + err
    assert [line.split("(")[-1] for line in out.splitlines() if line.startswith("·")] == [
        "interrupted)",
        "not started)",
        "not started)",
    ], out
    assert "Interrupted: 1 of 4 changes done." in out and "far-Q4_K_M.gguf is not finished — run it again" in err
    for name in ("lock", "apply.lock"):
        with (machine.state() / name).open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises while somebody holds it
    assert listening(near) is None
    hub.heal()
    machine.run("apply")
    assert {row["state"] for row in machine.profiles().values()} == {"healthy"}


def test_F07_a_second_interrupt_ends_it_at_once(machine, engine, loading):
    process = started(machine, loading, "apply")
    process.send_signal(signal.SIGINT)
    while "finishing what is under way" not in process.stderr.readline():  # two at once would arrive as one
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, out + err
    assert "Traceback" not in err
    set_mode(engine, None)
    machine.run("apply")
    assert machine.profiles()["slow"]["state"] == "healthy"


def test_F09_a_closed_terminal_ends_the_apply_and_not_the_model(machine, engine, loading):
    process, ours = on_terminal(machine, "apply")
    until(lambda: listening(loading) or process.poll() is not None)
    assert process.poll() is None
    os.close(ours)
    assert process.wait(120) == 143
    assert listening(loading)
    set_mode(engine, None)
    until(lambda: machine.profiles()["slow"]["state"] == "healthy")
    machine.run("apply")


def test_F09_a_terminal_that_is_closed_under_a_command_that_only_looks_ends_it_with_143(machine, engine, loading):
    process, ours = on_terminal(machine, "logs", "-f", "slow")
    said = b""
    while b"has no log" not in said:
        said += os.read(ours, 4096)
    os.close(ours)
    assert process.wait(120) == 143


def test_a_run_that_nohup_shields_is_not_ended_by_a_hangup(machine, engine, loading):
    process = machine.start("apply", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    until(lambda: listening(loading) or process.poll() is not None)
    process.send_signal(signal.SIGHUP)
    set_mode(engine, None)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, out + err


def test_F12_of_two_applies_one_waits_or_gives_up(machine, engine, loading):
    first = started(machine, loading, "apply")
    machine.declare(profile("slow", path="hello.gguf", port=loading, ctx=1024))
    ran = machine.run("apply", code=5)
    assert "error[E-BUSY]" in ran.err
    assert f"pid {first.pid}, `lmctl apply`, since " in ran.err
    machine.run("status", code=None)
    machine.run("plan")
    waiting = machine.start("apply", "--wait")
    set_mode(engine, None)
    for process in (first, waiting):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, out + err
    assert machine.profiles()["slow"]["state"] == "healthy"


def test_F02_a_killed_apply_leaves_no_lock_and_the_next_one_converges(machine, engine, loading):
    process = started(machine, loading, "apply")
    process.kill()
    process.communicate()
    pid = next(one.pid for one in machine.processes() if "--model" in one.cmdline())
    set_mode(engine, None)
    machine.run("apply")
    row = machine.profiles()["slow"]
    assert (row["state"], row["pid"]) == ("healthy", pid)


def test_F14_a_lock_file_is_never_followed_where_it_leads(machine, engine, loading):
    set_mode(engine, None)
    machine.run("apply")
    lock = machine.state() / "lock"
    lock.unlink(missing_ok=True)
    precious = machine.home / "precious"
    precious.write_text("mine")
    lock.symlink_to(precious)
    machine.declare(profile("slow", path="hello.gguf", port=loading, ctx=1024))
    ran = machine.run("apply", code=8)
    assert "error[E-" in ran.err
    assert precious.read_text() == "mine"


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        pytest.param("wrong_model", "E-UNHEALTHY", id="F77-wrong-model"),
        pytest.param("hang", "E-UNHEALTHY", id="F76-hang"),
    ],
)
def test_an_engine_that_never_gets_healthy_is_told_after_its_time(machine, engine, port, mode, says):
    machine.hello()
    number, other = port(), port()
    set_mode(engine, mode, "bad")
    machine.declare(
        profile("bad", path="hello.gguf", port=number, start_timeout="2s")
        + profile("good", path="hello.gguf", port=other)
    )
    ran = machine.run("apply", code=3)
    assert f"error[{says}]: bad is not healthy after " in ran.err
    states = {name: row["state"] for name, row in machine.profiles().items()}
    assert states["good"] == "healthy"
    assert states["bad"] == "unhealthy"
    assert "bad (unhealthy" in machine.run("status", "bad", code=9).out
    machine.run("status", "good")


def test_F75_a_crash_loop_ends_by_itself_and_a_later_apply_starts_it_again(machine, engine, port):
    machine.hello()
    set_mode(engine, "segv", "bad")
    machine.declare("".join(profile(name, path="hello.gguf", port=port()) for name in ("bad", "good")))
    ran = machine.run("apply", code=3)
    assert "error[E-CRASHLOOP]: bad crashed again and again (terminated by SIGSEGV) — read `lmctl logs bad`" in ran.err
    assert "  | main: loading model '" in ran.err
    shown = machine.run("status", "bad", code=9).out
    assert "it crashed again and again (terminated by SIGSEGV)" in shown and "  | main: loading model '" in shown
    states = {name: row["state"] for name, row in machine.profiles().items()}
    assert states == {"bad": "crash-loop", "good": "healthy"}
    assert "stopped after crashing" in machine.run("plan").out
    set_mode(engine, None, "bad")
    machine.run("apply")
    assert machine.profiles()["bad"]["state"] == "healthy"
