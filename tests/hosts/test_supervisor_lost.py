"""A daemon whose state folder goes away while it runs: found by what it is, ended before another one starts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from kinds import OWN_FILES
from supervised import Supervised, until

from lmctl.errors import LmctlError
from lmctl.hosts import pids, supervisor_daemon, supervisor_lost
from lmctl.spec import program_id


def deleted(folder: Path) -> None:
    shutil.rmtree(folder)


def emptied(folder: Path) -> None:
    deleted(folder)
    folder.mkdir(mode=0o700)


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("trash"))


def restored(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("copy"), ignore=lambda *_: ["s.sock", "supervisord.pid"])
    deleted(folder)
    folder.with_name("copy").rename(folder)


WAYS = [deleted, emptied, moved, restored]
Lose = Callable[[Path], None]


@pytest.fixture
def lost(stack: Supervised, monkeypatch: pytest.MonkeyPatch) -> Callable[[Lose], tuple[int, int]]:
    """Lose the folder of a daemon with one program; the pids of both."""
    monkeypatch.setattr(supervisor_lost, "_REST", 1.0)  # its grandchild takes no SIGTERM, and would have 10 s

    def lose(way: Lose) -> tuple[int, int]:
        stack.up(stack.spec("code", "0", "--mode", "fork_grandchild"))
        program, daemon = stack.pid("code"), stack.supervisor.observe().pid
        assert daemon is not None
        way(stack.folder)
        return daemon, program

    return lose


@pytest.mark.parametrize("way", WAYS)
def test_a_daemon_that_lost_its_folder_is_found_and_never_doubled(stack: Supervised, lost, way: Lose) -> None:
    daemon, program = lost(way)
    seen = stack.supervisor.observe()
    assert (seen.pid, seen.lost, seen.processes) == (None, (daemon,), {})
    stack.supervisor.write([stack.spec("chat")])
    for act in (lambda: stack.supervisor.reload(frozenset()), lambda: stack.supervisor.stop(program_id("code"))):
        with pytest.raises(LmctlError, match=rf"lost its state folder and still runs \(pid {daemon}\) — run `lmctl do"):
            act()
    assert pids.stat(daemon) and pids.stat(program), "nothing ends that was not asked to"
    stack.supervisor.shutdown()
    assert stack.processes() == []
    assert stack.supervisor.observe().lost == ()
    stack.supervisor.reload(frozenset())
    assert stack.process("chat").running


def test_a_lost_daemon_that_does_not_end_is_killed_with_all_of_its_programs(
    stack: Supervised, lost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_lost, "_PATIENCE", 0.1)
    monkeypatch.setattr(supervisor_lost, "_REST", 0.1)
    daemon, program = lost(deleted)
    os.kill(daemon, signal.SIGSTOP)
    children = pids.tree(program)
    assert len(children) == 2
    stack.supervisor.shutdown()
    assert [pid for pid in (daemon, *children) if pids.stat(pid)] == []


def test_where_nothing_is_lost_nothing_is_found(stack: Supervised) -> None:
    assert supervisor_lost.lost(stack.folder) == ()
    stack.up(stack.spec("code"))
    assert stack.supervisor.observe().lost == ()
    stack.supervisor.shutdown()
    assert stack.supervisor.observe().lost == ()


def test_F71_only_what_is_provably_ours_is_lost(stack: Supervised, home: Path) -> None:
    """Another folder's daemon, and processes that look like one in all but one respect."""
    stack.supervisor.write([])
    marked = {**os.environ, supervisor_daemon.FOLDER: str(stack.folder)}
    (home / "fake/supervisor").mkdir(parents=True)
    (home / "fake/supervisor/__init__.py").touch()
    (home / "fake/supervisor/supervisord.py").write_text("import time; print(flush=True); time.sleep(600)")
    path = {"PYTHONPATH": str(home / "fake")}
    like = [sys.executable, *supervisor_daemon.ARGUMENTS]
    with Supervised(home / "other") as other:
        other.up(other.spec("code"))
        other.pid("code")
        shutil.rmtree(other.folder)
        assert len(other.supervisor.observe().lost) == 1
        look_alikes = [
            (like, {**os.environ, **path}, True),  # of another folder, or of the user's own
            (like, {**marked, **path}, False),  # a process that a daemon started
            ([*like, "supervisord"], {**marked, **path}, True),  # no supervisord of lmctl's
        ]
        processes = [
            subprocess.Popen(argv, env=environ, start_new_session=leads, stdout=subprocess.PIPE)
            for argv, environ, leads in look_alikes
        ]
        try:
            for process in processes:
                assert process.stdout is not None and process.stdout.readline() == b"\n"
            assert supervisor_lost.lost(stack.folder) == ()
            stack.supervisor.shutdown()
            assert [process.poll() for process in processes] == [None, None, None]
            assert len(other.supervisor.observe().lost) == 1
        finally:
            for process in processes:
                process.kill()
                process.wait()
                assert process.stdout is not None
                process.stdout.close()


@pytest.mark.needs("namespaces")
def test_what_sees_other_files_is_not_ours(tmp_path: Path) -> None:
    with subprocess.Popen([*OWN_FILES, "sleep", "600"]) as inside:
        until(lambda: pids.command(inside.pid)[:1] == ("sleep",))
        assert not pids.shares_files(inside.pid)
        inside.kill()
    assert pids.shares_files(os.getppid())
