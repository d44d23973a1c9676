"""Weights that changed after they were verified are found and never started; what runs goes on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from e2e_tools import ask, listening, profile
from weights.hello import hello

REPO, FILE = "org/hello-GGUF", "hello-Q4_K_M.gguf"
DATA = hello("Hello from the Hub.") + bytes(4096)  # what follows the tensors is read by nobody but a hash


def flip(path: Path, *, seen: bool) -> None:
    """Flip the last byte; `seen`: its modification time tells."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")
    times = (before.st_atime_ns, before.st_mtime_ns + (10**9 if seen else 0))
    os.utime(path, ns=times)


@pytest.fixture
def served(machine, hub, port):
    """A Hub profile that runs: its port and its blob."""
    hub.add(REPO, {FILE: DATA})
    number = port()
    machine.declare(profile("hello", model=REPO, quant="Q4_K_M", port=number))
    machine.run("apply")
    (blob,) = (machine.home / ".cache/huggingface/hub").glob("models--*/blobs/*")
    return number, blob


def test_F56_a_touched_file_is_refused_and_the_running_server_stays(machine, served):
    number, blob = served
    pid = machine.profiles()["hello"]["pid"]
    flip(blob, seen=True)
    assert "error[E-HASH]" in machine.run("verify", code=6).err
    ran = machine.run("verify", "--deep", "--json", code=6)
    assert [file["state"] for file in ran.data["files"]] == ["corrupt"]
    assert "touched since it was verified" in machine.run("plan").out
    assert "error[E-HASH]" in machine.run("apply", code=6).err
    assert machine.profiles()["hello"]["pid"] == pid
    assert ask(number, "hi") == "Hello from the Hub."
    machine.run("down")
    machine.run("apply", code=6)
    assert listening(number) is None
    blob.unlink()
    machine.run("apply")
    assert ask(number, "hi") == "Hello from the Hub."


def test_F56_a_flip_that_no_stat_shows_is_found_by_reading(machine, served):
    _, blob = served
    flip(blob, seen=False)
    machine.run("verify")
    ran = machine.run("verify", "--deep", code=6)
    assert "error[E-HASH]" in ran.err
    assert "move it away" in ran.err


def test_F56_a_file_that_was_cut_is_fetched_again(machine, served):
    number, blob = served
    machine.run("down")
    os.truncate(blob, 1000)
    states = [file["state"] for file in machine.run("verify", "--json", code=None).data["files"]]
    assert states in (["missing"], ["broken"], ["modified"])
    machine.run("apply")
    assert blob.read_bytes() == DATA
    assert ask(number, "hi") == "Hello from the Hub."


def test_F56_a_file_that_was_only_touched_is_read_once_and_restarts_nothing(machine, hub, served):
    _, blob = served
    pid = machine.profiles()["hello"]["pid"]
    hub.requests.clear()
    blob.touch()
    machine.run("apply")
    assert machine.profiles()["hello"]["pid"] == pid
    assert hub.requests == []
    assert "Nothing to do" in machine.run("plan").out


def test_a_lost_cache_is_fetched_again_and_the_ledger_heals(machine, hub, served):
    number, blob = served
    machine.run("down")
    shutil.rmtree(machine.home / ".cache/huggingface")
    assert "create" in machine.run("plan").out
    machine.run("apply", "--locked")
    assert ask(number, "hi") == "Hello from the Hub."
    assert blob.read_bytes() == DATA


def test_a_name_that_the_cache_lost_is_given_back_and_restarts_nothing(machine, hub, served):
    _, blob = served
    (link,) = blob.parent.parent.glob("snapshots/*/*")
    pid = machine.profiles()["hello"]["pid"]
    link.unlink()
    hub.requests.clear()
    planned = machine.run("plan", "--json").data
    assert [(change["stage"], change["download"]) for change in planned["changes"]] == [("fetch", 0)]
    machine.run("apply")
    assert link.resolve() == blob
    assert machine.profiles()["hello"]["pid"] == pid
    assert hub.requests == []
    assert "Nothing to do" in machine.run("plan").out


def test_a_lost_ledger_restarts_nothing(machine, hub, served):
    number, _ = served
    pid = machine.profiles()["hello"]["pid"]
    for file in machine.state().glob("ledger.db*"):
        file.unlink()
    hub.requests.clear()
    machine.run("apply")
    assert machine.profiles()["hello"]["pid"] == pid
    assert [one for one in hub.asked("/resolve/") if one.method == "GET"] == []
    assert ask(number, "hi")


@pytest.mark.parametrize("longer", [False, True], ids=["same-size", "longer"])
def test_a_changed_local_file_is_told_by_plan_and_refused_under_locked_before_anything_happens(machine, port, longer):
    weights, number = machine.hello(), port()
    hello_profile = profile("hello", path="hello.gguf", port=number)
    machine.declare(hello_profile)
    machine.run("apply")
    pid = machine.profiles()["hello"]["pid"]
    machine.declare(hello_profile + profile("other", path="hello.gguf", port=port()))
    if longer:
        weights.write_bytes(weights.read_bytes() + bytes(16))
    else:
        flip(weights, seen=True)
    (told,) = (change for change in machine.run("plan", "--json").data["changes"] if change["stage"] == "fetch")
    assert told["verb"] == "update"
    assert [cause["field"] for cause in told["cause"]] == (["size"] if longer else ["sha256"])
    before = sorted(path.name for path in machine.state().rglob("*"))
    ran = machine.run("apply", "--locked", code=66)
    assert "error[E-LOCK-STALE]" in ran.err and "lmctl lock --upgrade" in ran.err
    assert sorted(path.name for path in machine.state().rglob("*")) == before, "no program was written"
    assert machine.profiles()["hello"]["pid"] == pid
    assert machine.profiles()["other"]["drift"] == "not applied"
    machine.run("lock", "--upgrade")
    machine.run("apply", "--locked")
    assert machine.profiles()["hello"]["pid"] != pid
    assert ask(number, "hi") == "Hello from here."


def test_a_local_file_that_was_only_touched_passes_under_locked(machine, port):
    weights = machine.hello()
    machine.declare(profile("hello", path="hello.gguf", port=port()))
    machine.run("lock")
    machine.run("apply", "--locked")
    pid = machine.profiles()["hello"]["pid"]
    weights.touch()
    ran = machine.run("apply", "--locked")
    assert "weights:path=hello.gguf" in ran.out
    assert machine.profiles()["hello"]["pid"] == pid
    assert "Nothing to do" in machine.run("apply", "--locked").out
