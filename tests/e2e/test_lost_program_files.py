"""A running model whose program file is lost or damaged: seen, left alone by others, repaired by an apply."""

from __future__ import annotations

import shutil

import pytest
from e2e_tools import ask, listening, outcomes, profile

from lmctl.spec import program_id


def garbage(file):
    file.write_text("garbage\n")


def removed(file):
    file.unlink()


def all_removed(file):
    shutil.rmtree(file.parent)


@pytest.fixture
def two(machine, port):
    """Two profiles that run; the port of each."""
    machine.hello()
    ports = {name: port() for name in ("small", "two")}
    machine.declare("".join(profile(name, path="hello.gguf", port=number) for name, number in ports.items()))
    machine.run("apply")
    return ports


@pytest.mark.parametrize("way", [garbage, removed])
def test_a_restart_of_another_leaves_running_what_lost_its_file(machine, two, way):
    before = {name: row["pid"] for name, row in machine.profiles().items()}
    way(machine.state() / f"programs/{program_id('small')}.json")
    machine.run("restart", "two")
    rows = machine.profiles()
    assert (rows["small"]["pid"], rows["small"]["state"]) == (before["small"], "unhealthy")
    assert rows["two"]["pid"] != before["two"]
    assert ask(two["small"], "hi") == "Hello from here."
    planned = machine.run("plan", "--json").data["changes"]
    assert [(change["verb"], change["address"]) for change in planned] == [("restart", "program:small")]
    done = machine.run("apply", "--json").data
    assert outcomes(done) == {"program:small": "done"}
    after = machine.profiles()
    assert (after["two"]["pid"], after["small"]["state"]) == (rows["two"]["pid"], "healthy")
    assert "Nothing to do" in machine.run("plan").out


def test_what_lost_its_file_is_shown_as_what_it_is_and_ended_by_down(machine, two):
    pid = machine.profiles()["small"]["pid"]
    all_removed(machine.state() / f"programs/{program_id('small')}.json")
    row = machine.profiles()["small"]
    assert (row["pid"], row["state"], row["drift"]) == (pid, "unhealthy", "pending restart")
    assert row["why"] == "lmctl's file of it is gone or damaged; `lmctl apply` writes it anew and restarts it"
    machine.run("drift", code=None)
    machine.run("stop", "small")
    assert listening(two["small"]) is None
    assert ask(two["two"], "hi") == "Hello from here."
    machine.run("down")
    assert machine.processes() == []
