"""State that is lost while models run, and what a killed lmctl leaves: found, told, and ended in the right order."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest
from e2e_tools import ask, daemons, listening, profile, until

SILENT = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


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


@pytest.mark.parametrize("lose", ["state", "everything"])
def test_F66_apply_ends_a_daemon_whose_state_folder_was_deleted_and_starts_its_models_anew(machine, served, lose):
    (old,), engine = daemons(machine), machine.profiles()["hello"]["pid"]
    shutil.rmtree(machine.state() if lose == "state" else machine.state().parent)
    said = f"supervisord (pid {old}) lost its state folder"
    assert said in machine.run("status").out
    row = machine.profiles()["hello"]
    assert (row["state"], row["pid"]) == ("orphaned", engine)
    assert f"note: {said}: apply ends it" in machine.run("plan").out
    assert ask(served, "hi"), "looking stops nothing"
    ran = machine.run("apply")
    assert f"{said}: ending it and its programs" in ran.err
    assert ask(served, "hi")
    (new,), row = daemons(machine), machine.profiles()["hello"]
    assert (new != old, row["pid"] != engine, row["state"]) == (True, True, "healthy")
    assert "Nothing to do" in machine.run("apply").out
    machine.run("down")
    assert machine.processes() == []


def test_F66_down_ends_a_daemon_whose_state_folder_was_deleted(machine, served):
    (old,) = daemons(machine)
    shutil.rmtree(machine.state())
    ran = machine.run("down")
    assert f"supervisord (pid {old}) lost its state folder and was found" in ran.out
    assert (listening(served), machine.processes()) == (None, [])
    assert "is not running" in machine.run("down").out


def test_F66_what_runs_without_its_state_goes_on_when_nothing_can_be_started_in_its_place(machine, served):
    before = daemons(machine)
    shutil.rmtree(machine.state())
    (machine.folder / "hello.gguf").rename(machine.folder / "away.gguf")
    machine.run("apply", code=65)
    assert (ask(served, "hi") != "", daemons(machine)) == (True, before)


def test_F66_a_run_about_some_profiles_never_ends_the_others_of_a_daemon_that_lost_its_state(machine, port, served):
    machine.declare(
        profile("hello", path="hello.gguf", port=served)
        + profile("more", path="hello.gguf", port=(more := port()), start="manual")
    )
    machine.run("apply")
    before = daemons(machine)
    shutil.rmtree(machine.state())
    for words in (("apply", "more"), ("start", "more"), ("apply", "--exclude", "hello")):
        ran = machine.run(*words, code=None)
        assert (ran.code in (3, 9), "lmctl apply" in ran.err, "lost its state folder" in ran.err) == (True, True, True)
    assert "lost its state folder" in machine.run("stop", "more", code=9).err
    assert (daemons(machine), listening(more)) == (before, None)
    assert ask(served, "hi")
    machine.run("apply")
    machine.run("start", "more")
    assert ask(more, "hi") and ask(served, "hi")


def test_F66_a_daemon_of_another_declaration_or_home_is_never_ended(machine, port, served):
    other = machine.home / "other"
    other.mkdir()
    (other / "hello.gguf").write_bytes((machine.folder / "hello.gguf").read_bytes())
    text = profile("hello", path="hello.gguf", port=(theirs := port()))
    (other / "localmodels.toml").write_text(f'version = 1\nname = "other"\n{text}')
    machine.run("-C", str(other), "apply")
    before = set(daemons(machine))
    shutil.rmtree(machine.state("other"))
    machine.run("down")
    machine.run("apply")
    assert ask(theirs, "hi")
    assert len(before & set(daemons(machine))) == 1
    machine.environ["XDG_STATE_HOME"] = str(machine.home / "elsewhere")
    machine.run("-C", str(other), "down")
    assert ask(theirs, "hi")
    del machine.environ["XDG_STATE_HOME"]
    machine.run("-C", str(other), "down")
    assert listening(theirs) is None
    assert ask(served, "hi")


def test_F68_apply_brings_what_outlived_its_supervisord_under_a_new_one(machine, port, served):
    machine.declare(
        profile("hello", path="hello.gguf", port=served)
        + profile("more", path="hello.gguf", port=(more := port()), start="manual")
        + profile("quiet", path="hello.gguf", port=(quiet := port()), start="manual")
    )
    machine.run("apply")
    machine.run("start", "more")
    (daemon,), rows = daemons(machine), machine.profiles()
    orphans = {name: rows[name]["pid"] for name in ("hello", "more")}
    os.kill(daemon, signal.SIGKILL)
    until(lambda: daemon not in daemons(machine))
    assert ask(served, "hi") and ask(more, "hi")
    planned = machine.run("plan", "--json").data["changes"]
    assert [(c["verb"], c["address"]) for c in planned] == [("restart", "program:hello"), ("restart", "program:more")]
    with subprocess.Popen([sys.executable, "-m", "http.server", "0"], cwd=machine.home, **SILENT) as other:
        ran = machine.run("apply")
        assert other.poll() is None
        other.terminate()
    assert all(f"process {pid} outlived its supervisord" in ran.err for pid in orphans.values())
    assert ask(served, "hi") and ask(more, "hi")
    assert listening(quiet) is None
    after = machine.profiles()
    assert {after[name]["state"] for name in orphans} == {"healthy"}
    assert not {after[name]["pid"] for name in orphans} & set(orphans.values())
    assert len(daemons(machine)) == 1
    assert "Nothing to do" in machine.run("apply").out


def test_F68_what_was_removed_from_the_file_and_outlived_its_supervisord_ends_too(machine, port, served):
    machine.declare(
        profile("hello", path="hello.gguf", port=served) + profile("gone", path="hello.gguf", port=(gone := port()))
    )
    machine.run("apply")
    os.kill(daemons(machine)[0], signal.SIGKILL)
    until(lambda: daemons(machine) == [])
    machine.declare(profile("hello", path="hello.gguf", port=served))
    machine.run("apply")
    assert (listening(gone), len(daemons(machine))) == (None, 1)
    assert ask(served, "hi")


def test_F68_nothing_that_outlived_its_supervisord_stops_for_what_cannot_be_started_again(machine, port, served):
    machine.hello("Another one.", "other.gguf")
    text = profile("hello", path="hello.gguf", port=served) + profile("other", path="other.gguf", port=(more := port()))
    machine.declare(text)
    machine.run("apply")
    os.kill(daemons(machine)[0], signal.SIGKILL)
    until(lambda: daemons(machine) == [])
    with (machine.folder / "other.gguf").open("ab") as file:
        file.write(b"\0")
    ran = machine.run("apply", code=None)
    assert ran.code in (3, 6, 9, 66)
    assert "programs of an earlier supervisord still run: other" in ran.err
    assert ask(served, "hi") == "Hello from here." and ask(more, "hi") == "Another one."
    assert "still run: other" in machine.run("apply", "hello", code=None).err
    assert ask(served, "hi") and ask(more, "hi")


def test_F68_starting_one_in_the_place_of_another_that_outlived_its_supervisord(machine, port):
    machine.hello("First.", "one.gguf")
    machine.hello("Second.", "two.gguf")
    number = port()
    machine.declare(
        profile("one", path="one.gguf", port=number) + profile("two", path="two.gguf", port=number, start="manual")
    )
    machine.run("apply")
    machine.run("start", "two")
    os.kill(daemons(machine)[0], signal.SIGKILL)
    until(lambda: daemons(machine) == [])
    machine.run("apply")
    assert ask(number, "hi") == "Second.", "apply changes no places"
    os.kill(daemons(machine)[0], signal.SIGKILL)
    until(lambda: daemons(machine) == [])
    machine.run("start", "one")
    assert ask(number, "hi") == "First."


def test_F66_uninstall_ends_a_daemon_whose_state_was_deleted(machine, served):
    shutil.rmtree(machine.state().parent)
    machine.run("uninstall", "--yes")
    assert (listening(served), machine.processes()) == (None, [])
    assert not machine.state().parent.exists()
