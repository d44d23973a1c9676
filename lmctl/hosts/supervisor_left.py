"""What outlives its supervisor: programs whose daemon was killed, and processes that left their program's group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from lmctl import launch
from lmctl.errors import Problem
from lmctl.hosts import pids, supervisor_conf, supervisor_daemon
from lmctl.hosts.supervisor_daemon import Group
from lmctl.hosts.supervisor_files import Files


def alive(folder: Path) -> dict[str, int]:
    """Return the pids of programs as the launcher recorded them, those that live, whoever started them."""
    found = {path.name: _orphan(path) for path in sorted((folder / "starts").glob("*"))}
    return {name: pid for name, pid in found.items() if pid is not None}


def groups(found: Mapping[str, int]) -> dict[str, Group]:
    """Return the process groups that `found` lead."""
    led = {name: Group.of(pid) for name, pid in found.items()}
    return {name: group for name, group in led.items() if group is not None}


def _orphan(starts: Path) -> int | None:
    return supervisor_daemon.orphan(launch.read_starts(str(starts)))


def escaped(files: Files, name: str) -> Problem | None:
    """Return a problem when what a stopped program started still holds its port, from outside its process group.

    It carries the program's hash in its environment and nobody supervises it. It is named and not killed: it left on
    purpose, and only what is in the group is lmctl's to end.
    """
    from lmctl.hosts import sockets  # a plan stops nothing

    digest = (launch.last_start(launch.read_starts(str(files.starts(name)))) or {}).get("hash")
    try:
        listen = supervisor_conf.read_program(files.program(name)).listen
        _, pid = sockets.owner(int(listen.rpartition(":")[2]))
    except (OSError, ValueError):
        return None
    if pid is None or digest is None or pids.variable(pid, "LMCTL_HASH") != digest:
        return None
    if any(map(_supervises, _above(pid))):
        return None  # the same program of another declaration
    what = f"process {pid} left the group of the program that started it, and still listens on {listen}"
    return Problem("E-SUPERVISOR", what, fix=f"end it: kill {pid}", change=name)


def _above(pid: int) -> Iterator[int]:
    """Yield the parents of a process, nearest first."""
    found = pids.stat(pid)
    while found is not None and found.parent > 1:
        yield found.parent
        found = pids.stat(found.parent)


def _supervises(pid: int) -> bool:
    return any("supervisord" in part for part in pids.command(pid)[:5])
