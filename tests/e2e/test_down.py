"""What runs is ended from anywhere: by the name of its declaration, after a list of all that are known here."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from e2e_tools import ask, listening, profile, until


@pytest.fixture
def elsewhere(machine) -> Path:
    folder = machine.home / "elsewhere"
    folder.mkdir()
    return folder


def second(machine, port) -> int:
    """Run another declaration, `other`; its port."""
    folder = machine.home / "other"
    folder.mkdir()
    shutil.copy2(machine.folder / "hello.gguf", folder / "hello.gguf")
    text = profile("hello", path="hello.gguf", port=(number := port()))
    (folder / "localmodels.toml").write_text(f'version = 1\nname = "other"\n{text}')
    machine.run("-C", str(folder), "apply")
    return number


def test_a_declaration_is_ended_by_its_name_from_any_folder(machine, port, served, elsewhere):
    other = second(machine, port)
    assert machine.run("down", "team", cwd=elsewhere).out == "every program and supervisord stopped\n"
    assert listening(served) is None
    assert ask(other, "hi"), "the other one goes on"
    assert machine.run("down", "team", cwd=elsewhere).out == "supervisord is not running\n"
    assert machine.run("down", "other", "--json").data == {"stopped": True}
    assert machine.processes() == []


def test_outside_of_a_declaration_all_are_listed_and_none_is_ended(machine, port, served, elsewhere):
    other = second(machine, port)
    machine.run("down")
    ran = machine.run("down", cwd=elsewhere, code=65)
    rows = [line.split() for line in ran.out.splitlines()]
    pid = machine.run("-C", str(machine.home / "other"), "status", "--json").data["supervisord"]
    assert rows == [
        ["DECLARATION", "SUPERVISORD", "FOLDER", "TO", "END", "IT"],
        ["other", "pid", str(pid), str(machine.home / "other"), "lmctl", "down", "other"],
        ["team", "not", "running", str(machine.folder), "-"],
    ]
    assert "error[E-FILE]: there is no localmodels.toml in" in ran.err
    assert "name one of these: `lmctl down NAME`" in ran.err
    listed = machine.run("down", "--json", cwd=elsewhere, code=65).data
    assert (listed["stopped"], [one["runs"] for one in listed["declarations"]]) == (False, [True, False])
    assert ask(other, "hi")


def test_what_was_killed_or_lost_its_state_is_listed_and_ended_by_name(machine, port, served, elsewhere):
    other, there = second(machine, port), str(machine.home / "other")
    number = machine.run("status", "--json").data["supervisord"]
    killed = machine.run("-C", there, "status", "--json").data["supervisord"]
    os.kill(killed, signal.SIGKILL)
    until(lambda: killed not in [process.pid for process in machine.processes()])
    shutil.rmtree(machine.state())
    out = machine.run("down", cwd=elsewhere, code=65).out
    assert "killed, 1 of its programs run" in out
    assert f"pid {number}, lost its state folder" in out
    (machine.state().parent / "declarations/team.json").unlink()
    machine.run("down", "team", cwd=elsewhere)
    machine.run("down", "other", cwd=elsewhere)
    assert (listening(served), listening(other), machine.processes()) == (None, None, [])


@pytest.mark.parametrize("spoil", ["gone", "broken"])
def test_a_declaration_whose_record_tells_nothing_is_ended_by_name(machine, served, elsewhere, spoil):
    record = machine.state().parent / "declarations/team.json"
    text = record.read_text()
    record.unlink() if spoil == "gone" else record.write_text("{")
    machine.run("down", "team", cwd=elsewhere)
    assert machine.processes() == []
    record.write_text(text)


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        ("taem", "E-USAGE", "there is no declaration 'taem' on this machine — did you mean `team`?"),
        ("nobody", "E-USAGE", "there is no declaration 'nobody' on this machine — known: team"),
        ("hello", "E-USAGE", "on this machine — to stop the profile: `lmctl stop hello`"),
        ("../team", "E-NAME", "'../team' is no name"),
        ("declarations", "E-NAME", "'declarations' is reserved"),
    ],
)
def test_a_name_that_is_none_ends_nothing(machine, served, name, code, says):
    ran = machine.run("down", name, code=64 if code == "E-USAGE" else 65)
    assert f"error[{code}]" in ran.err and says in ran.err
    assert ask(served, "hi")


def test_where_nothing_is_known_it_is_refused_as_ever(machine, elsewhere):
    ran = machine.run("down", cwd=elsewhere, code=65)
    assert (ran.out, "run `lmctl init`" in ran.err) == ("", True)
    assert not (machine.home / ".local").exists()


def test_beside_what_nothing_declares_the_others_that_run_are_named(machine, port, served, elsewhere):
    machine.hello("Loose.", "loose.gguf")
    machine.run("start", "--model", str(machine.folder / "loose.gguf"), "--port", str(loose := port()), cwd=elsewhere)
    out = machine.run("down", cwd=elsewhere).out
    assert out.startswith("every program and supervisord stopped\n") and "lmctl down team" in out
    assert listening(loose) is None
    assert ask(served, "hi")


@pytest.mark.parametrize("there", ["moved", "copied"])
def test_a_folder_that_moved_or_is_a_copy_is_told_how_to_end_what_runs(machine, served, there):
    folder = machine.home / "there"
    shutil.copytree(machine.folder, folder) if there == "copied" else machine.folder.rename(folder)
    for words in (["down"], ["stop", "hello"]):
        refused = machine.run(*words, code=4, cwd=folder).err
        assert "error[E-NAME-TAKEN]" in refused and "--take" not in refused
        assert "`lmctl down team` ends what runs of it, from any folder" in refused
    assert ask(served, "hi")
    machine.run("down", "team", cwd=folder)
    assert machine.processes() == []


@pytest.mark.parametrize(
    ("spoilt", "error", "code"),
    [('[profiles.own]\nbackend = "command"\ncommand = ["touch", "x"]\n', "E-TRUST", 4), ("what\n", "E-TOML", 65)],
)
def test_a_moved_folder_that_cannot_be_judged_is_told_how_to_end_what_runs(machine, served, spoilt, error, code):
    folder = machine.home / "moved"
    machine.folder.rename(folder)
    with (folder / "localmodels.toml").open("a") as file:
        file.write(spoilt)
    for words in (["status"], ["stop", "hello"]):
        refused = machine.run(*words, code=code, cwd=folder).err
        assert f"error[{error}]" in refused and "`lmctl down team` ends what runs of it" in refused
    ran = machine.run("down", code=code, cwd=folder)
    assert f"error[{error}]" in ran.err and "name one of these: `lmctl down NAME`" in ran.err
    assert "lmctl trust" not in ran.err and "lmctl down team" in ran.out
    assert ask(served, "hi")
    machine.run("down", "team", cwd=folder)
    assert "lmctl down team" not in machine.run("status", code=code, cwd=folder).err, "nothing runs any more"
    assert machine.run("down", code=code, cwd=folder).out == ""


def test_beside_the_users_own_declaration_the_others_that_run_are_named(machine, served, elsewhere):
    config = machine.home / ".config/lmctl"
    config.mkdir(parents=True)
    own = config / "localmodels.toml"
    own.write_text('version = 1\nname = "mine"\n')
    ran = machine.run("down", cwd=elsewhere, code=65)
    assert f"error[E-EMPTY]: {own}: no profiles" in ran.err and "lmctl down team" in ran.out
    assert f"error[E-EMPTY]: {own}: no profiles" in machine.run("plan", cwd=elsewhere, code=65).err
    assert "error[E-EMPTY]: localmodels.toml: no profiles" in machine.run("plan", cwd=config, code=65).err
    shutil.copy2(machine.folder / "hello.gguf", config)
    own.write_text('version = 1\nname = "mine"\n[profiles.hello]\npath = "hello.gguf"\nstart = "manual"\n')
    machine.run("apply", cwd=elsewhere)
    machine.run("down", cwd=elsewhere)
    ran = machine.run("down", cwd=elsewhere)
    assert ran.out.startswith("supervisord is not running\n") and "lmctl down team" in ran.out
    assert ask(served, "hi")


def test_a_broken_record_keeps_nobody_from_ending_what_runs_in_its_own_folder(machine, served):
    record = machine.state().parent / "declarations/team.json"
    text = record.read_text()
    record.write_text(text[:9])
    assert machine.run("down").out == "every program and supervisord stopped\n"
    assert machine.processes() == []
    record.write_text(text)


def test_what_nothing_declares_and_what_does_not_run_is_not_held(machine, port, elsewhere):
    machine.hello("Loose.", "loose.gguf")
    machine.run("start", "--model", str(machine.folder / "loose.gguf"), "--port", str(port()), cwd=elsewhere)
    machine.run("down", cwd=elsewhere)
    assert machine.run("stop", "loose", cwd=elsewhere).out == "loose was not running\n"
    assert "E-USAGE" in machine.run("stop", "loose", cwd=elsewhere, code=64).err
