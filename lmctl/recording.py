"""What the ledger learns before an apply does anything: what it is about, what it was made of, and whose word holds."""

from __future__ import annotations

import hashlib
import json

from lmctl import generations, lockfile, meanwhile, plan, snapshots
from lmctl.generations import Generation
from lmctl.plan import Plan
from lmctl.resource import Case
from lmctl.resources import content, program
from lmctl.session import Session
from lmctl.spec import program_id


def lock_hash(case: Case) -> str:
    """Return the sha256 of the lock in its one written form."""
    return hashlib.sha256(lockfile.render(case.lock).encode()).hexdigest()


def nothing(case: Case) -> bool:
    """Whether a run without changes has nothing to write down either."""
    quiet = content.marks(case).empty and not program.lifted(case) and not _ends_rollback(case)
    return quiet and case.world.memory.problem is None


def begin(session: Session, begun: Case, case: Case, planned: Plan, restores: int | None) -> int | None:
    """Write down what is about to happen; return its generation, None for a plan without changes.

    A run that `restores` a generation is a rollback: it keeps what is declared from being applied until a person does
    that, which ends it. What somebody stopped since the run had `begun` stays stopped. Raises E-STATE, E-SPACE, E-PERM
    or E-IO, and nothing is written then.
    """
    now = session.host.now()
    with snapshots.keeping(session.state) as keep, session.ledger.writing(now) as ledger:
        if restores is not None:
            ledger.roll_back(restores, program.named(planned.changes), now)
        else:
            learned = content.marks(case)
            ledger.unreferenced(learned.unreferenced)
            ledger.protect(learned.protect)
            if _ends_rollback(case):
                ledger.resume(filter(case.scope.covers, case.world.memory.rolled_back))
        for name in {*program.lifted(case)} - meanwhile.stopped(begun, case):
            session.host.supervisor.release(program_id(name))
            ledger.lift(name)
        if planned.empty:
            return None
        number = max(snapshots.numbers(session.state), default=0) + 1  # a lost ledger's numbers go on
        text = json.dumps(plan.to_json(planned), sort_keys=True)
        new = Generation(number, now, case.declaration.hash, lock_hash(case), text, "interrupted", restores)
        number = generations.opened(ledger, new)
        lock = lockfile.render(case.lock).encode()
        keep(number, {**case.declaration.sources, snapshots.LOCK: lock})
    return number


def _ends_rollback(case: Case) -> bool:
    """Whether a run about these profiles ends what is left of a rollback; pruning alone does not.

    Starting what it did not touch does not either, and one that found nothing to change touched nothing.
    """
    memory = case.world.memory
    if case.scope.only is not None or (memory.in_force is None and not memory.rolled_back):
        return False
    return any(map(case.scope.covers, memory.rolled_back)) or not (memory.rolled_back or case.scope.run)
