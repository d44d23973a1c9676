"""Observe, plan, take the writer's lock, observe again, apply, and say how each change ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

from lmctl import addresses, capacity, desired, generations, meanwhile, plan, recording
from lmctl.addresses import Asked
from lmctl.all_resources import KINDS
from lmctl.errors import DONE, PARTIAL, LmctlError, Problem
from lmctl.generations import Ending
from lmctl.host import OnProgress
from lmctl.memory import memory_verdict
from lmctl.mutex import PATIENCE, Held, exclusive
from lmctl.plan import Change, Plan
from lmctl.record import NOTHING, record, replace
from lmctl.resource import Case, Hashed, Outcome, Run, Scope
from lmctl.resources import artifact, program, weights
from lmctl.session import Session
from lmctl.spec import RESIDENT, Json, Profile
from lmctl.text import human_id

State = Literal["done", "failed", "blocked", "not started"]
# locks what the case lacks, writes the lock files and returns the error of each artifact that could not be locked
Resolve = Callable[[Case], Mapping[str, LmctlError]]


@record
class Ended:
    """How one change ended."""

    change: Change
    state: State
    error: LmctlError | None = None


@record
class Applied:
    """What an apply planned and how every change ended."""

    plan: Plan
    ended: tuple[Ended, ...] = ()
    already: bool = False  # some covered profile was right before
    serving: Mapping[str, Asked] = NOTHING  # where clients ask each profile that was started now
    notices: tuple[Problem, ...] = ()  # what became of a ledger that could not be used

    @property
    def exit_code(self) -> int:
        """Return 0; 3 when something succeeded or was right and something failed; else the first failure's own code."""
        errors = [ended.error for ended in self.ended if ended.error]
        if not errors:
            return DONE
        right = self.already or any(ended.state == "done" for ended in self.ended)
        return PARTIAL if right else errors[0].exit_code

    @property
    def problems(self) -> tuple[Problem, ...]:
        found = ((ended.change.id, p) for ended in self.ended if ended.error for p in ended.error.problems)
        return tuple(replace(problem, change=change) for change, problem in found)


@record
class Wish:
    """What apply was asked for beside its scope."""

    command: str  # as typed, for whoever waits for the lock
    wait: bool = False
    locked: bool = False
    take: bool = False
    require_fit: bool = False
    saved: Mapping[str, Json] | None = None
    restores: int | None = None  # the generation that a rollback goes back to


def make_plan(case: Case) -> Plan:
    """Return what would change, pure: the same case gives the same plan, to the byte."""
    locks = tuple(artifact.changes(case))
    found = [change for kind in KINDS.values() for change in kind.changes(case)]
    wanted = (change for change in (*locks, *found) if case.scope.only in (None, change.stage))
    changes = plan.ordered(wanted)
    kept = tuple(kept for kind in KINDS.values() for kept in kind.kept(case))
    memory, warnings = memory_verdict(case)
    notes = (*artifact.note(case), *weights.notes(case), *program.notes(case))
    warnings = (*case.declaration.warnings, *warnings, *program.held(case, changes), *_without_effect(case))
    return Plan(
        name=case.declaration.name,
        fingerprint=_fingerprint(case, changes),
        changes=changes,
        memory=memory,
        kept=kept,
        notes=notes,
        warnings=warnings,
        profiles=None if case.scope.names is None else tuple(sorted(case.scope.names)),
        exclude=tuple(sorted(case.scope.exclude)),
    )


def _without_effect(case: Case) -> tuple[Problem, ...]:
    """Return the one line that names every declared key whose feature has not landed."""
    if not case.declaration.inert:
        return ()
    return (Problem("W-NOEFFECT", "no effect yet: " + ", ".join(case.declaration.inert)),)


def _fingerprint(case: Case, changes: tuple[Change, ...]) -> str:
    """Cover configuration, lock and, for the touched addresses, what was observed there."""
    shown = [[c.verb, c.address, [[x.field, x.before, x.after] for x in c.cause], c.whole, c.free] for c in changes]
    processes = [[p.id, p.state, p.hash] for p in sorted(case.world.daemon.processes.values(), key=lambda p: p.id)]
    touched: Json = processes if any(change.stage == "serve" for change in changes) else []  # type: ignore[assignment]
    return plan.fingerprint(case.declaration.hash, recording.lock_hash(case), shown, touched)  # type: ignore[arg-type]


def _addresses(case: Case, profile: Profile) -> Iterator[str]:
    """Yield the address of all that a profile consists of."""
    yield program.address(profile.name)
    for wanted in profile.artifacts:
        yield artifact.address(wanted.id)
        if wanted.id in case.lock.artifacts:
            yield weights.address(case.lock.artifacts[wanted.id])


class Reconciler:
    """Applies plans for one session; `resolve` is the one thing that asks the Hub what is not locked."""

    def __init__(self, session: Session, resolve: Resolve, on_progress: OnProgress, say: Callable[[str], None]) -> None:
        self._session, self._resolve = session, resolve
        self._on_progress, self._say = on_progress, say

    def apply(self, scope: Scope, wish: Wish) -> Applied:
        """Make the machine what the plan for `scope` says; nothing to do writes nothing.

        Raises E-BUSY, E-STATE, E-NAME-TAKEN, E-LIMIT, E-LOCK-STALE, E-PLAN-STALE, E-MEMORY and E-PRUNE before anything
        changes.
        """
        self._session.ledger.refuse_newer()
        if not wish.take:
            self._session.refuse_foreign_name()
        case = self._session.look(scope)
        desired.refuse_rivals(case)
        capacity.refuse(case)
        planned = make_plan(case)
        if planned.empty and wish.saved is None and not wish.take and recording.nothing(case):
            return Applied(planned)
        with self._turn(wish) if not scope.run else nullcontext(), self._writer(wish) as held:
            return self._apply(scope, wish, held)

    def _turn(self, wish: Wish) -> AbstractContextManager[Held]:
        """One run about everything, or one that writes the lock files, at a time: from its beginning to its end."""
        return exclusive(self._session.turn, wish.command, wait=wish.wait, say=self._say, stop=self._session.host.stop)

    def _writer(self, wish: Wish) -> AbstractContextManager[Held]:
        """One writer at a time; it lets go while bytes are fetched or a program is awaited, so that others can stop."""
        stop = self._session.host.stop
        return exclusive(
            self._session.writer, wish.command, wait=wish.wait, patience=PATIENCE, say=self._say, stop=stop
        )

    def _apply(self, scope: Scope, wish: Wish, held: Held) -> Applied:
        case = begun = self._session.look(scope)
        planned = make_plan(case)
        if wish.saved is not None:
            plan.matches(planned, wish.saved)
        missing = [change for change in planned.changes if change.stage == "lock"]
        if missing and wish.locked:
            names = ", ".join(human_id(change.address).partition(":")[2] for change in missing)
            raise LmctlError("E-LOCK-STALE", f"the lock lacks {names}", fix="run `lmctl lock` and commit the lock file")
        if self._session.host.stop.is_set():
            raise KeyboardInterrupt  # nothing is begun: not even the lock is asked for
        with held.released() if wish.locked else nullcontext():
            hashed = self._hash_local(case) if wish.locked else NOTHING
        locked = self._lock(missing, case, wish, held)
        if missing and wish.saved is not None:
            if all(item.error is None for item in locked):
                self._say("the lock is written; plan again to see what follows from it")
            return Applied(planned, locked)
        if missing or wish.locked:
            case = self._session.look(scope)
            planned = make_plan(case)
            if wish.saved is not None:
                plan.matches(planned, wish.saved)  # others were at work: what was approved is done, or nothing
        self._refuse(planned, wish)
        self._session.tidy()
        self._session.register()
        generation = recording.begin(self._session, begun, case, planned, wish.restores)
        lost = case.world.memory.problem
        notices = tuple(self._session.ledger.notices) or ((lost,) if lost else ())
        if generation is None:
            return Applied(planned, locked, notices=notices)
        host, ledger = self._session.host, self._session.ledger
        run = Run(host, ledger, generation, self._on_progress, host.stop, self._say, hashed, held.released)
        return replace(self._carry_out(begun, case, planned, locked, held, run), notices=notices)

    def _lock(self, missing: list[Change], case: Case, wish: Wish, held: Held) -> tuple[Ended, ...]:
        if not missing:
            return ()
        with held.released(), self._turn(wish) if case.scope.run else nullcontext():
            errors = self._resolve(case)
        found = ((change, errors.get(change.address.partition(":")[2])) for change in missing)
        return tuple(Ended(change, "failed" if error else "done", error) for change, error in found)

    def _hash_local(self, case: Case) -> Hashed:
        """Read the local files that may not be the locked ones: a lock that is out of date is told before anything."""
        try:
            return weights.hash_local(case, self._session.host, self._on_progress)
        except LmctlError:
            if self._session.host.stop.is_set():
                raise KeyboardInterrupt from None
            raise

    def _refuse(self, planned: Plan, wish: Wish) -> None:
        if wish.require_fit and planned.memory.fits is not True:
            what = "the profiles that run together do not fit in memory, or it is not known whether they do"
            raise LmctlError("E-MEMORY", what, fix="see the table of `lmctl plan`, or apply without --require-fit")

    def _carry_out(
        self, begun: Case, case: Case, planned: Plan, locked: tuple[Ended, ...], held: Held, run: Run
    ) -> Applied:
        session, stop = self._session, run.stop
        ended = list(locked)
        for kind in KINDS.values():
            changes = tuple(change for change in planned.changes if change.stage == kind.STAGE)
            if not changes:
                continue
            held()
            if kind.STAGE == "serve" and not stop.is_set():
                planned, changes, settled = self._look_again(begun, case, planned, changes)
                ended += settled
            with held.released() if kind.STAGE == "fetch" else nullcontext():
                ended += self._stage(kind.apply, changes, case, run, ended)
            case = session.look(case.scope, case.lock)  # what was fetched is there, what was stopped is gone
        failed = any(item.state != "done" for item in ended)
        with session.ledger.writing(session.host.now()) as ledger:
            ending: Ending = "interrupted" if stop.is_set() else "partial"
            generations.closed(ledger, run.generation, ending if failed else "done")
        touched = {item.change.address for item in ended}
        decided = desired.programs(case).ready
        profiles = (want.profile for name, want in decided.items() if name not in RESIDENT)
        already = any(touched.isdisjoint(_addresses(case, profile)) for profile in profiles)
        return Applied(planned, tuple(ended), already, _serving(case, ended))

    def _look_again(
        self, begun: Case, case: Case, planned: Plan, changes: tuple[Change, ...]
    ) -> tuple[Plan, tuple[Change, ...], list[Ended]]:
        """Return plan, changes of programs that are still to be done, and how the others ended: others were at work."""
        fresh = make_plan(case)
        left = meanwhile.sift(changes, begun, case, fresh.changes)
        if error := left.error or capacity.problem(case):
            return planned, (), [Ended(change, "failed", error) for change in changes]
        settled = [Ended(change, "done") for change in left.done]
        settled += [Ended(change, "not started") for change in left.withheld]
        return replace(planned, notes=fresh.notes, warnings=(*planned.warnings, *left.warnings)), left.ready, settled

    def _stage(
        self,
        carry: Callable[[tuple[Change, ...], Case, Run], Iterable[Outcome]],
        changes: tuple[Change, ...],
        case: Case,
        run: Run,
        before: list[Ended],
    ) -> list[Ended]:
        """Carry out one kind's changes: what depends on a failure is blocked, after Ctrl-C nothing new starts."""
        if self._session.host.stop.is_set():
            return [Ended(change, "not started") for change in changes]
        failed = {ended.change.id for ended in before if ended.state != "done"}
        blocked = [change for change in changes if failed & {*change.needs}]
        ready = tuple(change for change in changes if change not in blocked)
        ended = [Ended(change, "blocked") for change in blocked]
        outcomes = carry(ready, case, run) if ready else ()
        return ended + [Ended(each.change, "failed" if each.error else "done", each.error) for each in outcomes]


def _serving(case: Case, ended: list[Ended]) -> Mapping[str, Asked]:
    """Return where clients ask the profiles that this run started, as far as they run."""
    done = {item.change.address for item in ended if item.state == "done" and item.change.stage == "serve"}
    processes, specs = case.world.daemon.processes, case.world.daemon.specs.values()
    return {
        spec.profile: addresses.asked(case, spec.profile, spec.listen)
        for spec in sorted(specs, key=lambda spec: spec.profile)
        if program.address(spec.profile) in done
        and spec.profile not in RESIDENT
        and spec.id in processes
        and processes[spec.id].running
        and spec.id not in case.world.daemon.held
    }
