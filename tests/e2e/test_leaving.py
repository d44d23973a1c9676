"""State that is lost while models run, and what a killed lmctl leaves: found, told, and ended in the right order."""

from __future__ import annotations

import subprocess

import pytest
from e2e_tools import profile


@pytest.fixture
def served(machine, port):
    """A local profile that runs; its port."""
    machine.hello()
    number = port()
    machine.declare(profile("hello", path="hello.gguf", port=number))
    machine.run("apply")
    return number


def test_F1_the_next_apply_with_something_to_do_removes_what_killed_ones_left_half_written(machine, served):
    with subprocess.Popen(["true"]) as gone:
        pass
    state = machine.state()
    left = [state / f".launch.{gone.pid}.tmp", state / "programs" / f".p-000000000000.json.{gone.pid}.tmp"]
    left += [state.parent / f"declarations/.old.json.{gone.pid}.tmp"]
    left += [machine.folder / f".localmodels.lock.{gone.pid}.tmp"]
    theirs = machine.folder / f".notes.{gone.pid}.tmp"
    for path in (*left, theirs):
        path.write_text("half")
    machine.run("apply")
    assert all(path.exists() for path in left), "nothing to do touches nothing"
    machine.declare(profile("hello", path="hello.gguf", port=served, ctx=1024))
    machine.run("apply")
    assert [path for path in (*left, theirs) if path.exists()] == [theirs]
