"""Where the system has no /proc, as on macOS: the same promises, with what psutil knows of processes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from supervised import Supervised, until

from lmctl.errors import LmctlError
from lmctl.hosts import pids, sockets, supervisor_daemon
from lmctl.spec import program_id


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pids, "LINUX", False)
    monkeypatch.setattr(sockets, "listening", lambda port, table: pytest.fail("the kernel's tables are Linux's"))


def test_programs_start_are_seen_with_what_they_run_and_stop(stack: Supervised) -> None:
    stack.up(stack.spec("code"))
    pid = stack.pid("code")
    daemon = stack.supervisor.observe()
    process = daemon.processes[program_id("code")]
    assert (process.pid, process.hash, daemon.held) == (pid, f"{stack.mark}1", frozenset())
    assert supervisor_daemon.pid(stack.folder) == daemon.pid
    assert sockets.belongs("127.0.0.1", stack.port("code"), pid) is True
    assert sockets.owner(stack.port("code")) == (True, pid)
    stack.up(stack.spec("code", version=2), replace=("code",))
    assert stack.pid("code") != pid and pids.stat(pid) is None
    stack.supervisor.stop(program_id("code"))
    assert not stack.process("code").running


def test_F68_programs_that_outlive_a_killed_daemon_are_seen_and_end_when_asked_to(stack: Supervised) -> None:
    stack.up(stack.spec("code"))
    orphan = stack.pid("code")
    stack.kill_daemon()
    assert stack.supervisor.observe().orphans == {program_id("code"): orphan}
    stack.supervisor.shutdown()
    assert pids.stat(orphan) is None


def test_F66_a_daemon_whose_files_are_gone_is_found_by_what_it_is(stack: Supervised) -> None:
    stack.up(stack.spec("code"))
    number = stack.supervisor.observe().pid
    (stack.folder / "supervisord.pid").unlink()
    assert supervisor_daemon.pid(stack.folder) == number
    stack.supervisor.shutdown()
    assert number is not None
    until(lambda: pids.stat(number) is None)


def test_F66_a_daemon_whose_folder_is_gone_is_found_and_one_that_is_not_is_not_looked_for(stack: Supervised) -> None:
    stack.up(stack.spec("code"))
    number, lock = stack.supervisor.observe().pid, stack.folder / "supervisord.lock"
    shutil.rmtree(stack.folder)
    assert stack.supervisor.observe().lost == (number,)
    stack.supervisor.write([stack.spec("code")])
    lock.touch(mode=0o600)
    assert stack.supervisor.observe().lost == (), "to look at every process is slow here"
    with pytest.raises(LmctlError, match=rf"lost its state folder and still runs \(pid {number}\)"):
        stack.supervisor.reload(frozenset())
    stack.supervisor.shutdown()
    assert stack.processes() == []


def test_a_process_of_this_user_is_ours_and_sees_our_files() -> None:
    assert os.getpid() in set(pids.own())
    assert pids.shares_files(os.getpid())
    assert pids.runs_in(os.getpid(), Path.cwd())
