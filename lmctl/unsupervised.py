"""What of this declaration runs without a supervisord that can be asked: named, and ended before a new one starts."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lmctl.errors import LmctlError, escape
from lmctl.host import Daemon
from lmctl.resource import Case, Run
from lmctl.spec import program_id


def pids(names: Iterable[str], case: Case) -> frozenset[int]:
    """Return the processes that `end` ends for the profiles `names`."""
    orphans = case.world.daemon.orphans
    return frozenset({*case.world.daemon.lost, *(orphans[one] for one in map(program_id, names) if one in orphans)})


def lost(daemon: Daemon) -> str:
    """Return what is to be said of daemons that lost their folder, empty when there is none."""
    return f"supervisord (pid {', '.join(map(str, daemon.lost))}) lost its state folder" if daemon.lost else ""


def note(daemon: Daemon) -> tuple[str, ...]:
    """Return the line that says what apply ends although no change names it."""
    what = f"{lost(daemon)}: apply ends it with its programs before it starts any"
    return (what,) if daemon.lost else ()


def obstacle(case: Case) -> LmctlError | None:
    """Return why a run about some profiles starts none: it would end the others of a daemon that lost its folder."""
    daemon = case.world.daemon
    if not daemon.lost or case.scope.whole:
        return None
    fix = "run `lmctl apply` for all profiles, or `lmctl down`"
    return LmctlError("E-SUPERVISOR", f"{lost(daemon)} and still runs", fix=fix)


def refuse_others(names: Collection[str], case: Case) -> None:
    """Raise E-SUPERVISOR when programs outlived their daemon that are none of `names`: no new one may start beside."""
    if case.world.daemon.lost:
        return  # all of them end with it
    daemon, ours = case.world.daemon, {program_id(name) for name in names}
    named = {name: daemon.specs[name].profile if name in daemon.specs else name for name in daemon.orphans}
    left = [f"{escape(named[name])} (pid {pid})" for name, pid in daemon.orphans.items() if name not in ours]
    if left:
        what = f"programs of an earlier supervisord still run: {', '.join(left)}"
        raise LmctlError("E-SUPERVISOR", what, fix="run `lmctl apply` for all profiles, or `lmctl down`")


def end(names: Iterable[str], case: Case, run: Run) -> None:
    """End the daemons that lost their folder, and the programs of `names` that outlived theirs. Raises E-SUPERVISOR."""
    daemon, supervisor = case.world.daemon, run.host.supervisor
    if daemon.lost:
        run.say(f"{lost(daemon)}: ending it and its programs")
        supervisor.shutdown()
        return
    for name in sorted(names):
        if pid := daemon.orphans.get(program_id(name)):
            run.say(f"stopping {name}: process {pid} outlived its supervisord")
            supervisor.stop(program_id(name))
