"""Commands beside an apply that takes long: none waits behind its download, and what was said last counts."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from e2e_tools import ask, listening, paused, profile, until
from fakes.llama_server import install, set_mode
from hub import MIB
from weights.hello import hello

REPO, FILE = "org/far-GGUF", "far-Q4_K_M.gguf"


def partial(home: Path) -> int:
    """Return how many bytes on disk the partial files hold."""
    files = (home / ".cache/huggingface/lmctl/partial").glob("*")
    return sum(file.stat().st_blocks * 512 for file in files if file.suffix != ".json")


@pytest.fixture
def downloading(machine, hub, port):
    """An apply in the middle of a download, with `here` running and `other` stopped; it goes on once `go` is called."""
    data = hello("From far away.")
    hub.add(REPO, {FILE: data + bytes(24 * MIB - len(data))})
    machine.hello()
    machine.declare(
        profile("here", path="hello.gguf", port=port())
        + profile("other", path="hello.gguf", port=port(), start="manual")
        + profile("far", model=REPO, quant="Q4_K_M", port=port())
    )
    machine.run("apply", "here")
    machine.run("lock")
    hub.fault(REPO, FILE, where="get", rate=0.5 * MIB)
    process = machine.start("apply")
    until(lambda: partial(machine.home) > MIB or process.poll() is not None)

    def go() -> tuple[int, str, str]:
        assert process.poll() is None, process.communicate()
        hub.heal()
        hub.hang_up()
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    yield go
    process.kill()
    process.communicate()


def address(machine, name: str) -> int:
    return int(machine.profiles()[name]["url"].rpartition(":")[2])


def test_a_program_is_stopped_and_another_started_while_an_apply_downloads(machine, downloading):
    machine.run("stop", "here")
    assert listening(address(machine, "here")) is None
    machine.run("start", "other")
    assert ask(address(machine, "other"), "hi") == "Hello from here."
    assert "E-BUSY" in machine.run("apply", code=5).err
    assert "E-BUSY" in machine.run("lock", "--upgrade", code=5).err
    code, out, err = downloading()
    assert code == 0, out + err
    states = {name: row["state"] for name, row in machine.profiles().items()}
    assert states == {"here": "held", "other": "healthy", "far": "healthy"}


def test_what_is_stopped_while_it_is_downloaded_is_not_started(machine, downloading):
    machine.run("stop", "far")
    code, out, err = downloading()
    assert code == 0, out + err
    assert "warning[W-HELD]: far was stopped meanwhile — `lmctl start far` starts it" in err
    assert "program:far  (not started)" in out
    assert {name: row["state"] for name, row in machine.profiles().items()}["far"] == "held"
    machine.run("start", "far")
    assert ask(address(machine, "far"), "hi") == "From far away."


def test_what_is_taken_down_while_an_apply_downloads_stays_down(machine, downloading):
    machine.run("down")
    code, out, err = downloading()
    assert code == 3, out + err
    assert "error[E-SUPERVISOR]: supervisord was stopped meanwhile — run `lmctl apply` to start it again" in err
    assert machine.processes() == []


def test_down_before_an_apply_started_anything_says_what_is_under_way(machine, hub, port):
    hub.add(REPO, {FILE: hello("From far away.")})
    hub.fault(REPO, FILE, stall=1000, where="get")
    machine.declare(profile("far", model=REPO, quant="Q4_K_M", port=port()))
    process = machine.start("apply")
    until(lambda: hub.asked(FILE, "GET") or process.poll() is not None)
    said = machine.run("down").out
    assert (
        f"supervisord is not running, but another lmctl is at work and may start it: pid {process.pid}, `lmctl" in said
    )
    process.terminate()
    process.communicate(timeout=60)


def test_what_is_uninstalled_before_a_start_downloads_does_not_come_back(machine, hub, port):
    hub.add(REPO, {FILE: hello("From far away.")})
    machine.declare(profile("far", model=REPO, quant="Q4_K_M", port=port(), fetch="start", start="manual"))
    machine.run("lock")
    with paused(machine, "lmctl.resources.weights._missing_after_hashing", "start", "far") as go_on:
        machine.run("uninstall", "--yes")
        ran = go_on()
    assert ran.code == 8, ran
    assert f"{machine.state()} was removed meanwhile" in ran.err
    assert not machine.state().exists()
    assert list((machine.home / ".cache/huggingface/hub").glob("models--*/blobs/*")) == [], "nobody would own it"


@pytest.fixture
def loading(machine, port, tmp_path):
    """An apply that waits for an engine which never ends to load; the process."""
    machine.environ["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    set_mode(install(tmp_path), "slow_load")
    machine.hello()
    machine.declare(profile("slow", path="hello.gguf", port=(number := port())))
    process = machine.start("apply")
    until(lambda: listening(number) or process.poll() is not None)
    assert process.poll() is None, process.communicate()
    yield process
    process.kill()
    process.communicate()


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def test_F76_a_program_that_loads_without_end_can_be_stopped(machine, loading):
    assert machine.profiles()["slow"]["state"] == "starting"
    machine.run("stop", "slow")
    code, err = ended(loading)
    assert code == 3
    assert "error[E-UNHEALTHY]: slow was stopped before it was healthy — run `lmctl start slow`" in err
    assert machine.profiles()["slow"]["state"] == "held"


def test_F12_an_apply_beside_one_that_waits_for_health_does_not_say_that_all_is_done(machine, loading, tmp_path):
    assert "E-BUSY" in machine.run("apply", code=5).err
    waiting = machine.start("start", "slow")
    until(lambda: (machine.state() / "lock").read_text().count("lmctl start") or waiting.poll() is not None)
    set_mode(tmp_path / "llama-server", None)
    for process in (loading, waiting):
        code, err = ended(process)
        assert code == 0, err
    assert machine.profiles()["slow"]["state"] == "healthy"
