"""The facts of real folders, and what killed runs left in them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmctl.hosts.premises import LocalPremises
from lmctl.paths import Folders
from lmctl.spec import Machine


def premises(home: Path, mounts=(), **environ: str) -> LocalPremises:
    how = {"mounts": lambda: list(mounts)} if mounts else {}
    return LocalPremises(environ, Folders.of(environ, home), Machine(), **how)


def dead() -> int:
    """Return the pid of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_the_facts_of_a_folder(home):
    folder = home / "there"
    folder.mkdir(mode=0o700)
    ground = premises(home).ground(folder)
    assert (ground.exists, ground.folder, ground.ours, ground.writable, ground.mode) == (True, True, True, True, 0o700)
    assert ground.free > 0
    assert ground.device == folder.stat().st_dev
    assert not ground.folds_case


def test_a_folder_that_is_not_there_is_that_above(home):
    ground = premises(home).ground(home / "a/b/c")
    assert (ground.path, ground.there, ground.exists, ground.folder) == (home / "a/b/c", home, False, True)


def test_a_file_in_its_place_is_no_folder(home):
    (home / "file").touch()
    assert not premises(home).ground(home / "file").folder


def test_a_link_is_followed_to_the_file_system_that_counts(home):
    (home / "real").mkdir()
    (home / "link").symlink_to("real")
    mounts = [("/", "ext4", "rw"), (str((home / "real").resolve()), "nfs4", "rw,noexec")]
    ground = premises(home, mounts).ground(home / "link")
    assert (ground.kind, "noexec" in ground.options) == ("nfs4", True)
    assert premises(home, mounts).ground(home).kind == "ext4"


def test_the_mounts_of_this_machine_are_known(home):
    assert premises(home).ground(Path("/proc")).kind == "proc" or sys.platform == "darwin"


def test_what_others_may_open_is_found_and_taken_from_them(home):
    state = home / "state"
    (state / "logs").mkdir(parents=True, mode=0o700)
    state.chmod(0o700)
    (state / "logs/x.log").write_text("x")
    (state / "logs/x.log").chmod(0o644)
    (state / "launch").write_text("x")
    (state / "launch").chmod(0o755)
    (state / "away").symlink_to(home / "mine")
    (home / "mine").write_text("mine")
    (home / "mine").chmod(0o644)
    found = premises(home)
    assert sorted(found.loose(state)) == [state / "launch", state / "logs/x.log"]
    found.tighten(state)
    assert found.loose(state) == ()
    assert (state / "launch").stat().st_mode & 0o777 == 0o700
    assert (home / "mine").stat().st_mode & 0o777 == 0o644


def test_F63_temporary_files_of_killed_runs_alone_are_left_over(home):
    state = home / "state"
    (state / "programs").mkdir(parents=True)
    gone = dead()
    for pid in (gone, os.getpid()):
        (state / f".ledger.{pid}.tmp").touch()
        (state / f"programs/.p-1.json.{pid}.tmp").touch()
    found = premises(home)
    assert set(found.left(state)) == {state / f".ledger.{gone}.tmp", state / f"programs/.p-1.json.{gone}.tmp"}
    found.remove_left(state)
    assert found.left(state) == ()
    assert (state / f".ledger.{os.getpid()}.tmp").exists()
    (home / f".localmodels.lock.{gone}.tmp").touch()
    (home / f".notes.{gone}.tmp").touch()
    assert found.left(home, ["localmodels.lock"]) == (home / f".localmodels.lock.{gone}.tmp",)


def test_a_socket_is_stale_once_its_daemon_is_gone(stack, home):
    found = premises(home)
    stack.up(stack.spec("one"))
    assert found.stale_socket(stack.folder) is None
    found.remove_socket(stack.folder)
    assert stack.pid("one")
    stack.kill_daemon()
    assert found.stale_socket(stack.folder) == stack.folder / "s.sock"
    found.remove_socket(stack.folder)
    assert found.stale_socket(stack.folder) is None


def test_a_file_in_the_place_of_the_socket_is_left_alone(home):
    state = home / "state"
    state.mkdir(mode=0o700)
    (state / "s.sock").write_text("mine")
    premises(home).remove_socket(state)
    assert (state / "s.sock").read_text() == "mine"


@pytest.mark.parametrize(
    ("environ", "file", "token", "mode"),
    [
        ({"HF_TOKEN": "hf_x"}, None, "HF_TOKEN", None),
        ({}, "hf_x\n", "token", 0o644),
        ({}, None, "", None),
    ],
    ids=["variable", "file", "none"],
)
def test_where_the_token_comes_from(home, environ, file, token, mode):
    path = home / ".cache/huggingface/token"
    path.parent.mkdir(parents=True)
    if file is not None:
        path.write_text(file)
        path.chmod(0o644)
    hub = premises(home, **environ).hub()
    assert (Path(hub.token).name if hub.token else "", hub.mode) == (token, mode)
    assert "hf_x" not in repr(hub)


def test_files_needed_grow_with_the_programs(home):
    few, many = (premises(home).files(count)[0] for count in (1, 100))
    assert many > few > 0
