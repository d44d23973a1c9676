"""What a daemon tells of its programs, in lmctl's terms."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from lmctl import launch
from lmctl.hosts import pids, supervisor_conf
from lmctl.hosts.supervisor_rpc import Info
from lmctl.spec import Process


def fileless(infos: Iterable[Info], known: Collection[str]) -> frozenset[str]:
    """Return the programs of lmctl's that run and are none of `known`, those whose file can be read."""
    running = (info["name"] for info in infos if info["pid"] and info["statename"] != "STOPPING")
    return frozenset(name for name in running if supervisor_conf.ours(name) and name not in known)


def ended(info: Info | None) -> bool:
    """Return whether a program stays as it is: one that exited by itself is started again within the second."""
    if info is None:
        return True
    if info["statename"] == "EXITED":
        return bool(info["exitstatus"] == launch.REFUSED)
    return info["statename"] in {"STOPPED", "FATAL", "UNKNOWN"}


def process(info: Info, starts: Sequence[launch.Record]) -> Process:
    """Return a program as the daemon tells of it; its hash is the one that the process was started with."""
    number = info["pid"] or None
    last = launch.last_start(starts)
    digest = last.get("hash") if last and number and last.get("pid") == number else None
    if number and not isinstance(digest, str):
        digest = pids.variable(number, "LMCTL_HASH")
    return Process(
        id=info["name"],
        state=info["statename"],
        pid=number,
        started=float(info["start"]) if number else None,
        exit_status=info["exitstatus"] if info["start"] and not number else None,
        hash=digest if isinstance(digest, str) else None,
        spawn_error=info["spawnerr"],
        starts=launch.count(starts, launch.clock()),
    )
