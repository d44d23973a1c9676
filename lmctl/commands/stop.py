"""`lmctl stop`: stop profiles and hold them, until they are started again."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

from lmctl import adhoc
from lmctl.acting import running, standing, writing
from lmctl.command import Context
from lmctl.errors import DISK, DONE, LmctlError, Problem
from lmctl.record import replace
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import program_id

_UNWRITTEN = {"E-SPACE", "E-IO", "E-PERM"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profiles", nargs="*", metavar="PROFILE")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Hold and stop each profile; one that nothing declares is gone afterwards.

    A disk on which no hold can be written keeps nobody from stopping; exit 8 then.
    """
    current, warnings = standing(context)
    current.refuse_foreign_name(ending=True)
    names = sorted(running(current, args.profiles))
    undeclared = adhoc.undeclared(current.folders, current.declaration)
    with writing(context, current, "lmctl stop", wait=True):
        unwritten: list[Problem] = []
        ran = _stop(current, names, unwritten)
    idle = "was not running" if unwritten else "was not running, and is held now"
    ends = {name: "was not running" if name in undeclared else idle for name in names} | dict.fromkeys(ran, "stopped")
    text = "".join(f"{name} {ends[name]}\n" for name in names)
    done = tuple(f"stopped: {name}" for name in names)
    warnings = (*warnings, *current.ledger.notices)
    code = DISK if unwritten else DONE
    return Result({"stopped": list(names)}, text, warnings, tuple(unwritten[:1]), code, done)


@contextmanager
def _noting(unwritten: list[Problem]) -> Iterator[None]:
    """Note what the disk refuses, and go on."""
    try:
        yield
    except LmctlError as error:
        if error.code not in _UNWRITTEN:
            raise
        until = "until then what was stopped may be started again"
        unwritten += [replace(problem, fix=f"{problem.fix}; {until}") for problem in error.problems]


def _stop(current: Session, names: list[str], unwritten: list[Problem]) -> set[str]:
    """Hold and stop `names`; return those that ran, and in `unwritten` why a hold could not be written."""
    supervisor, now = current.host.supervisor, current.host.now()
    before = supervisor.observe()
    alive = {*before.orphans, *before.unseen, *(p for p, process in before.processes.items() if process.running)}
    with _noting(unwritten), current.ledger.writing(now) as ledger:
        for name in names:
            ledger.hold(name, "stopped", now)
    for name in names:
        with _noting(unwritten):
            supervisor.hold(program_id(name))
    served = [name for name in names if program_id(name) in alive and current.declaration.front.enabled]
    with current.host.desk.drained(served, current.declaration.front.drain_timeout):
        for name in names:
            supervisor.stop(program_id(name))
    gone = current.forget(frozenset(names)) - adhoc.declared(current.declaration)
    ran = {name for name in names if program_id(name) in alive or before.lost}
    if not gone:
        return ran
    daemon = supervisor.observe()
    left = [spec for spec in daemon.specs.values() if spec.profile not in gone]
    supervisor.write(left)
    if daemon.pid is not None:  # a reload would start one, and all that starts by itself
        supervisor.reload(frozenset())
    if not left and current.declaration.name == adhoc.NAME:
        supervisor.shutdown()  # nothing stands in any more, and `down` is for what is declared
    with current.ledger.writing(now) as ledger:
        for name in gone:
            ledger.lift(name)
            ledger.applied(f"program:{name}", None, 0)
    return ran
