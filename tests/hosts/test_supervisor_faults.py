"""What happens to the daemon's socket, pidfile and disk, and what lmctl makes of it."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from supervised import Supervised, until

from lmctl import local_sockets
from lmctl.errors import LmctlError
from lmctl.hosts import pids, supervisor_daemon
from lmctl.hosts.supervisor import LocalSupervisor
from lmctl.spec import program_id

NAME = program_id("code")


def daemons(stack: Supervised) -> list[int]:
    return [found.pid for found in pids.every() if supervisor_daemon.is_daemon(found.pid, stack.folder)]


def test_F66_a_stale_socket_is_no_daemon_and_is_replaced(stack: Supervised) -> None:
    stack.supervisor.write([stack.spec("code")])
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(stack.folder / "s.sock"))
    assert stack.supervisor.observe().pid is None
    stack.supervisor.reload(frozenset())
    assert stack.pid("code")


@pytest.mark.parametrize("also", ["", "supervisord.pid"], ids=["F66-socket", "F66-socket-and-pidfile"])
def test_a_daemon_whose_socket_is_gone_is_found_and_never_doubled(stack: Supervised, also: str) -> None:
    stack.up(stack.spec("code"))
    program, daemon = stack.pid("code"), stack.supervisor.observe().pid
    (stack.folder / "s.sock").unlink()
    if also:
        (stack.folder / also).unlink()
    seen = stack.supervisor.observe()
    assert (seen.pid, seen.problem) == (daemon, "supervisord runs, but its socket is gone")
    assert (seen.unseen, seen.orphans) == ({NAME: program}, {})
    with pytest.raises(LmctlError, match=r"socket is gone — run `lmctl down`") as caught:
        stack.supervisor.reload(frozenset())
    assert (caught.value.exit_code, daemons(stack)) == (9, [daemon])
    assert pids.stat(program)
    stack.supervisor.shutdown()
    assert (daemons(stack), pids.stat(program)) == ([], None)
    stack.supervisor.reload(frozenset())
    assert stack.process("code").running


def test_F66_what_a_program_left_behind_ends_also_when_the_daemon_cannot_be_asked(stack: Supervised) -> None:
    stack.up(stack.spec("code", "0", "--mode", "fork_grandchild"))
    assert len(pids.tree(stack.pid("code"))) == 2
    (stack.folder / "s.sock").unlink()
    stack.supervisor.shutdown()
    assert stack.processes() == []


def test_F66_a_daemon_that_was_killed_is_started_again(stack: Supervised) -> None:
    stack.up(stack.spec("code"))
    stack.pid("code")
    first = stack.kill_daemon()
    stack.supervisor.stop(NAME)
    stack.supervisor.reload(frozenset())
    assert stack.supervisor.observe().pid not in (first, None)


def test_two_starts_at_once_make_one_daemon(stack: Supervised) -> None:
    stack.up(stack.spec("code"))
    daemon = stack.supervisor.observe().pid
    with pytest.raises(LmctlError, match="another supervisord"):
        supervisor_daemon.start(stack.folder, os.environ)
    assert daemons(stack) == [daemon]


def test_F67_a_pidfile_that_names_another_process_is_not_trusted(stack: Supervised) -> None:
    stack.supervisor.write([stack.spec("code")])
    with subprocess.Popen(["sleep", "600"]) as other:
        try:
            (stack.folder / "supervisord.pid").write_text(f"{other.pid}\n")
            assert stack.supervisor.observe().pid is None
            stack.supervisor.shutdown()
            assert other.poll() is None
            stack.supervisor.reload(frozenset())
            assert stack.supervisor.observe().pid not in (other.pid, None)
        finally:
            other.kill()


def test_F67_who_reads_the_log_in_the_state_folder_is_not_taken_for_the_daemon(stack: Supervised) -> None:
    stack.up(stack.spec("code"))
    daemon, file = stack.supervisor.observe().pid, stack.folder / "supervisord.pid"
    wait = [sys.executable, "-c", "import time; time.sleep(600)", "supervisor.supervisord", "-c", "supervisord.conf"]
    for argv in (["tail", "-f", "supervisord.log"], wait):
        with subprocess.Popen(argv, cwd=stack.folder, stdout=subprocess.DEVNULL) as other:
            try:
                assert not supervisor_daemon.is_daemon(other.pid, stack.folder)
                file.write_text(f"{other.pid}\n")
                assert supervisor_daemon.pid(stack.folder) == daemon
            finally:
                other.kill()
    file.unlink()
    stack.supervisor.shutdown()
    assert daemon is not None and pids.stat(daemon) is None


def test_F67_a_recorded_pid_that_now_is_another_process_is_not_killed(stack: Supervised) -> None:
    stack.supervisor.write([stack.spec("code")])
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as other:
        try:
            record = '{{"at":{},"pid":{},"hash":"{}"}}\n'.format(0.5, other.pid, stack.mark + "1")
            (stack.folder / "starts" / NAME).write_text(record)
            assert stack.supervisor.observe().orphans == {}
            stack.supervisor.shutdown()
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.parametrize("text", ["", "x", "-1", "99999999999999999999", "\0"], ids=ascii)
def test_F67_a_broken_pidfile_is_no_daemon(stack: Supervised, text: str) -> None:
    stack.supervisor.write([stack.spec("code")])
    (stack.folder / "supervisord.pid").write_text(text)
    assert stack.supervisor.observe().pid is None


def test_F66_a_socket_folder_in_tmp_that_others_can_open_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "s"
    shared.mkdir(mode=0o755)
    monkeypatch.setattr(local_sockets, "short_folder", lambda: shared)
    supervisor = LocalSupervisor(tmp_path / ("l" * 100), os.environ)
    supervisor.write([])
    with pytest.raises(LmctlError, match="only you can open"):
        supervisor.reload(frozenset())
    assert supervisor.observe().pid is None


@pytest.mark.parametrize("call", ["hold", "release", "reload"])
def test_F4_a_full_disk_is_told(stack: Supervised, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    stack.supervisor.write([stack.spec("code")])
    (stack.folder / "starts" / NAME).write_text('{"clear":true}\n')
    real = os.open

    def full(path: Any, flags: int, *rest: Any, **named: Any) -> int:
        if flags & os.O_CREAT and str(path).startswith(str(stack.folder)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(path, flags, *rest, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        with pytest.raises(LmctlError) as caught:
            if call == "reload":
                stack.supervisor.reload(frozenset())
            else:
                getattr(stack.supervisor, call)(NAME)
    assert (caught.value.code, caught.value.exit_code) == ("E-SPACE", 8)


def test_F4_a_disk_that_gives_no_lock_starts_no_daemon(stack: Supervised) -> None:
    stack.supervisor.write([stack.spec("code")])
    (stack.folder / "supervisord.lock").mkdir()
    with pytest.raises(LmctlError) as caught:
        stack.supervisor.reload(frozenset())
    assert (caught.value.code, caught.value.exit_code) == ("E-IO", 8)
    (stack.folder / "supervisord.lock").rmdir()


_LOW = """
import os, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_NOFILE, (60, int(sys.argv[2])))
from lmctl import local_sockets
from lmctl.errors import LmctlError
from lmctl.hosts.supervisor import LocalSupervisor
from lmctl.spec import ProgramSpec, program_id
supervisor = LocalSupervisor(Path(sys.argv[1]), os.environ)
names = ("a", "b", "c")
try:
    supervisor.write([ProgramSpec(program_id(n), n, ("true",), {}, "/", "abc", "127.0.0.1:1") for n in names])
    supervisor.reload(frozenset())
    print(len(supervisor.observe().processes), "programs")
    supervisor.shutdown()
except LmctlError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("hard", "says"),
    [
        pytest.param(78, "supervisord needs 79 open files and may have 78", id="F73-too-low"),
        pytest.param(79, "3 programs", id="F73-soft-limit-raised"),
    ],
)
def test_the_limit_of_open_files_is_checked_before_anything_is_written(home: Path, hard: int, says: str) -> None:
    command = [sys.executable, "-c", _LOW, str(home / "state"), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert says in done.stdout, done.stderr
    assert (home / "state").exists() is (hard == 79)


def test_a_daemon_that_cannot_start_says_why(stack: Supervised) -> None:
    stack.supervisor.write([stack.spec("code")])
    (stack.folder / "supervisord.conf").write_text("[supervisord]\nlogfile=/nowhere/x.log\n")
    with pytest.raises(LmctlError, match=r"does not start: Error: .*nowhere"):
        stack.supervisor.reload(frozenset())
    until(lambda: not supervisor_daemon.lives(stack.folder))
