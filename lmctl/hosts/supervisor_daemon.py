"""The supervisord process itself: whether it lives, who it is, starting it once, and ending what it leaves behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

from lmctl import launch, local_sockets
from lmctl.errors import LmctlError, escape
from lmctl.hosts import pids
from lmctl.paths import disk_error, make_private
from lmctl.record import record

_START_TIMEOUT = 30.0
_ROOMY = 4096  # open files: room for 800 programs without a restart of the daemon
ARGUMENTS = ("-P", "-m", "supervisor.supervisord", "-c", "supervisord.conf")  # of Python; a daemon keeps them
FOLDER = "LMCTL_STATE"  # in a daemon's environment: the folder that it was started for


def socket_path(folder: Path) -> Path:
    """Return where the daemon of a state folder listens."""
    return local_sockets.path(folder, "s")


def socket_text(folder: Path) -> str:
    """Return the same as supervisord.conf names it: relative when it lies in the folder."""
    path = socket_path(folder)
    return path.name if path.parent == folder else str(path)


def trusted_socket(folder: Path) -> bool:
    """Return whether the folder that the socket lies in can hold nobody else's socket."""
    return local_sockets.trusted(socket_path(folder))


def prepare_socket(folder: Path) -> None:
    """Make the socket's folder. Raises E-SUPERVISOR when it is not ours alone: anybody can make folders in /tmp."""
    parent = socket_path(folder).parent
    try:
        parent.mkdir(mode=0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise disk_error(parent, error) from error
    if not trusted_socket(folder):
        raise LmctlError(
            "E-SUPERVISOR",
            f"{escape(str(parent))} is not a folder that only you can open",
            fix=f"remove it, or chmod 700 {escape(str(parent))}",
        )


def remove_socket(folder: Path) -> None:
    """Remove the socket that a daemon left. Raises E-PERM or E-IO."""
    try:
        socket_path(folder).unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(socket_path(folder), error) from error


def lives(folder: Path) -> bool:
    """Return whether a daemon that lmctl started lives: it holds the lock it was started with, whatever is deleted."""
    try:
        descriptor = os.open(folder / "supervisord.lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def pid(folder: Path) -> int | None:
    """Return the daemon's pid when that can be proven: its file may name a process that has nothing to do with it."""
    with contextlib.suppress(OSError, ValueError):
        number = int((folder / "supervisord.pid").read_bytes()[:20])
        if is_daemon(number, folder):
            return number
    if not lives(folder):
        return None
    return next((found.pid for found in pids.every() if is_daemon(found.pid, folder)), None)


def was_killed(folder: Path) -> bool:
    """Return whether the last daemon, which is gone, was not told to end: then it removes its pid file."""
    return os.path.lexists(folder / "supervisord.pid")


def forget(folder: Path) -> None:
    """Remove what a daemon leaves that had to be killed, or was: it is wanted no more."""
    with contextlib.suppress(OSError):
        (folder / "supervisord.pid").unlink()


def is_daemon(number: int, folder: Path) -> bool:
    """Return whether a process is a supervisord that works in this folder."""
    return is_supervisord(number) and pids.runs_in(number, folder)


def is_supervisord(number: int) -> bool:
    """Return whether a process is a supervisord as lmctl starts one, for whatever folder: no other word will do.

    A reader of its log, or an editor of its configuration, works in the same folder and names it as well.
    """
    return pids.command(number)[1:] == ARGUMENTS


def start(folder: Path, environ: Mapping[str, str], named: Collection[str] = ()) -> None:
    """Start the daemon, detached from this terminal; never makes a second one.

    Raises E-SUPERVISOR, and E-SPACE, E-PERM or E-IO from the disk.
    `environ` is this process's; the daemon gets the part that engines may see, and the `named` variables, which the
    launcher passes on to the program that asks for them.
    """
    prepare_socket(folder)
    lock = folder / "supervisord.lock"
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise disk_error(lock, error) from error
    try:
        if not wait(lambda: _locked(descriptor), 2.0):
            raise LmctlError(
                "E-SUPERVISOR", "another supervisord of this declaration runs already", fix="run `lmctl down`"
            )
        remove_socket(folder)
        _raise_limit()
        _spawn(folder, launch.inherited(environ, named), descriptor)
    finally:
        os.close(descriptor)  # the daemon has its own copy, and the lock lasts as long as that


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _spawn(folder: Path, environ: Mapping[str, str], descriptor: int) -> None:
    import subprocess  # a plan starts nothing

    try:
        done = subprocess.run(
            [sys.executable, *ARGUMENTS],
            cwd=folder,
            env={**environ, FOLDER: os.path.realpath(folder)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=(descriptor,),
            start_new_session=True,
            umask=0o077,
            timeout=_START_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise _not_started(folder, str(error)) from error
    if done.returncode:
        lines = (done.stderr or done.stdout).decode("utf-8", "replace").splitlines()
        said = [line for line in lines if line.startswith("Error:")] or lines[-1:]
        raise _not_started(folder, said[0] if said else f"exit status {done.returncode}")


def _not_started(folder: Path, why: str) -> LmctlError:
    return LmctlError("E-SUPERVISOR", f"supervisord does not start: {escape(why)}", fix=see(folder))


def see(folder: Path) -> str:
    """Return the advice to read what a daemon of this folder had to say."""
    return f"see {escape(str(folder / 'supervisord.log'), 300)}"


def check_limit(need: int) -> None:
    """Raise E-SUPERVISOR when this user may not open the `need` files that the daemon needs."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (resource.RLIM_INFINITY, -1) and need > hard:
        raise LmctlError(
            "E-SUPERVISOR",
            f"supervisord needs {need} open files and may have {hard}",
            fix="raise the limit (ulimit -Hn), or declare fewer profiles",
        )


def _raise_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ROOMY if hard in (resource.RLIM_INFINITY, -1) else min(hard, _ROOMY)
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def end(number: int, timeout: float) -> bool:
    """End a daemon whose identity was proven: SIGTERM, after `timeout` seconds SIGKILL; True when it is gone."""
    for sign, seconds in ((signal.SIGTERM, timeout), (signal.SIGKILL, 5.0)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, sign)
        if wait(lambda: pids.stat(number) is None, seconds):
            return True
    return False


@record
class Group:
    """The process group of one program; the session tells it from a later one with the same number."""

    id: int
    session: int

    @classmethod
    def of(cls, leader: int) -> Group | None:
        """Return the group that `leader` leads, as every program that supervisord starts does."""
        found = pids.stat(leader)
        return cls(leader, found.session) if found and found.group == leader else None


def end_groups(groups: Iterable[Group], timeout: float = 0.0) -> dict[Group, list[int]]:
    """End process groups side by side: SIGTERM when there is a `timeout`, then SIGKILL; return who outlives even that.

    `timeout` in seconds is for all of them together.
    """
    left = _members(groups)
    for sign, seconds in ((signal.SIGTERM, timeout), (signal.SIGKILL, 5.0)):
        if left and seconds:
            for group in left:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group.id, sign)
            left = _empty(left, seconds)
    return left


def _empty(groups: Iterable[Group], seconds: float) -> dict[Group, list[int]]:
    """Wait until process groups are empty; return those that are not after `seconds`."""
    wait(lambda: not _members(groups), seconds)
    return _members(groups)


def _members(groups: Iterable[Group]) -> dict[Group, list[int]]:
    """Return the pids of each process group that is not empty; looks at every process once."""
    named = {(group.id, group.session): group for group in groups}
    return {named[key]: found for key, found in pids.members(named.keys()).items()}


def orphan(records: list[launch.Record]) -> int | None:
    """Return the pid that was last started for a program, if it is still that process.

    It is when it started just before the launcher wrote its record and, where that can be read, carries the hash.
    """
    record = launch.last_start(records) or {}
    number, at = record.get("pid"), record.get("at")
    if not isinstance(number, int) or not isinstance(at, float):
        return None
    found = pids.stat(number)
    if found is None or found.group != number:
        return None
    if found.started is not None and not at - 60 < found.started <= at + 0.1:
        return None
    carried = pids.variable(number, "LMCTL_HASH")
    return number if carried == record.get("hash") or (carried is None and found.started is not None) else None


def wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Return True as soon as `condition` holds, False when it did not within `seconds`."""
    deadline, step = time.monotonic() + seconds, 0.01
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(step)
        step = min(step * 1.5, 0.2)
    return True


def folders(folder: Path) -> None:
    """Make the state folder and those inside it."""
    for part in (folder, *(folder / name for name in ("programs", "logs", "starts"))):
        make_private(part)
