"""Daemons that lost their state folder: deleted, emptied or moved away while they ran. Found by what they are."""

from __future__ import annotations

import os
from pathlib import Path

from lmctl.hosts import pids, supervisor_daemon
from lmctl.hosts.supervisor_daemon import Group
from lmctl.hosts.supervisor_rpc import failure

_PATIENCE, _REST = 60.0, 10.0  # seconds for a daemon with its programs to end, then for who is left of these


def lost(folder: Path) -> tuple[int, ...]:
    """Return the pids of daemons that were started for a state folder, where its files tell of none.

    Looks at every process of this user: such a daemon leads its session, and its environment names the folder.
    """
    return tuple(number for number in pids.own() if _is_lost(number, os.path.realpath(folder)))


def seen(folder: Path) -> tuple[int, ...]:
    """Return the same for those who only look: where processes are slow to read, not unless the folder is bare."""
    return lost(folder) if pids.LINUX or not (folder / "supervisord.lock").exists() else ()


def _is_lost(number: int, folder: str) -> bool:
    if not supervisor_daemon.is_supervisord(number) or pids.variable(number, supervisor_daemon.FOLDER) != folder:
        return False
    found = pids.stat(number)
    return found is not None and found.session == number and pids.shares_files(number)


def refuse(folder: Path) -> None:
    """Raise E-SUPERVISOR where a lost daemon runs: its programs hold their ports, and it starts them again."""
    if found := lost(folder):
        shown = ", ".join(map(str, found))
        raise failure(f"a supervisord of this declaration lost its state folder and still runs (pid {shown})")


def end(folder: Path) -> None:
    """End lost daemons, then who is left of their programs. Raises E-SUPERVISOR for what outlives even that.

    The programs are in the session that their daemon leads, and nobody else is. How long each may take to stop was
    lost with the folder.
    """
    for number in lost(folder):
        supervisor_daemon.end(number, _PATIENCE)
        groups = {Group(each.group, each.session) for each in pids.every() if each.session == number}
        for left in supervisor_daemon.end_groups(groups, _REST).values():
            raise failure(f"process {left[0]} of a lost supervisord does not end", fix="end it by hand")
