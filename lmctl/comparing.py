"""What is not as declared, found by one look at the world. Executes nothing and reads no weights."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from lmctl import condition, desired
from lmctl.drift.compare import compare
from lmctl.drift.records import Drift, Seen
from lmctl.errors import LmctlError, Problem, escape
from lmctl.record import record, replace
from lmctl.resource import Case, Scope
from lmctl.session import Session
from lmctl.spec import Lock


@record
class Found:
    """What was compared. `problems` is why not everything could be."""

    case: Case
    drifts: tuple[Drift, ...]
    problems: tuple[Problem, ...]


def look(current: Session, problems: tuple[Problem, ...]) -> Found:
    """Look and compare; where configuration or lock cannot be read, what was applied stands for what is declared."""
    scope, lock = Scope(), None
    try:
        lock = current.lock()
    except LmctlError as error:
        problems = (*problems, *error.problems[:1])
        current = replace(current, declaration=replace(current.declaration, profiles=()))
    case = current.look(scope, Lock() if lock is None else lock)
    return Found(case, compare(case, _seen(case, current, declared=not problems)), problems)


def _seen(case: Case, current: Session, *, declared: bool) -> Seen:
    """Ask every program of ours how it is, and who listens where one should run and does not."""
    processes = current.host.processes
    names = sorted({spec.profile for spec in case.world.daemon.specs.values()})
    with ThreadPoolExecutor(max_workers=16) as pool:
        tries = {name: pool.submit(condition.of, name, case, processes.probe) for name in names}
        conditions = {name: each.result() for name, each in tries.items()}
    ready = desired.programs(case).ready if declared else {}
    alive = {name for name, found in conditions.items() if found.pid is not None}
    asked = {name: want.spec.listen for name, want in ready.items() if want.runs and want.spec.listen}
    down = {name: listen for name, listen in asked.items() if name not in alive}
    listeners = {name: _stranger(listen, case, current) for name, listen in down.items()}
    return Seen(conditions, {name: who for name, who in listeners.items() if who is not None}, declared)


def _stranger(listen: str, case: Case, current: Session) -> str | None:
    """Return the command of who listens on an address and is no program of this declaration's."""
    processes, daemon = current.host.processes, case.world.daemon
    listener = processes.listener(int(listen.rpartition(":")[2]))
    if listener is None:
        return None
    ours = {*daemon.orphans.values(), *daemon.unseen.values()}
    ours |= {process.pid for process in daemon.processes.values() if process.pid}
    if listener.pid and processes.root(listener.pid, ours) is not None:
        return None
    return escape(listener.command, 60) if listener.pid else "another user's process"
