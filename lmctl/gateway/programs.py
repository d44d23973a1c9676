"""The engines of a declaration for the keeper: started as `lmctl start` does, but nothing is fetched or recorded."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from lmctl import capacity, condition, desired, generations, memory, obstacles, serving
from lmctl.desired import Desired
from lmctl.errors import LmctlError
from lmctl.gateway.demand import Fits, Policy, Seen
from lmctl.gateway.keeper import Held, Rivalled
from lmctl.host import Daemon, Progress
from lmctl.mutex import exclusive
from lmctl.plan import Change
from lmctl.resource import Case, Run, Scope, World
from lmctl.resources import program, weights
from lmctl.session import Session
from lmctl.spec import Lock, program_id

COMMAND = "lmctl gateway"
_AGAIN = ("EXITED", "BACKOFF")  # it ended by itself, and supervisord starts it again
_PATIENCE = 60.0  # seconds to wait for others who change programs: an apply that stops a large model
_AT_ONCE = 16  # programs that start or stop at the same time

T = TypeVar("T")


class SessionPrograms:
    """Implements `keeper.Programs`; `session` may be replaced at any time: what is under way goes on with its own."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._stop, self._turn = threading.Event(), threading.Lock()
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="programs")
        self._healthy: dict[str, int] = {}  # profile -> process that was seen healthy

    async def start(self, name: str) -> None:
        """Start a profile and return once it answers.

        Raises Held, Rivalled, E-LOCK and E-HASH for weights that are not here, E-BUSY, E-LIMIT, and as starting does.
        """
        await self._aside(lambda: self._start(name))

    async def stop(self, name: str) -> None:
        """Stop a profile, and hold nothing: a request may start it again. Raises E-SUPERVISOR, E-BUSY."""

        def work() -> None:
            session = self.session
            with self._writing(session):
                session.host.supervisor.stop(program_id(name))

        await self._aside(work)

    async def running(self, doubted: Collection[str] = ()) -> Mapping[str, Seen]:
        """Return the declared profiles that run; one is asked until it was healthy once, or is doubted."""
        for name in doubted:
            self._healthy.pop(name, None)
        return await self._aside(self._running)

    def rules(self, lock: Lock | None = None) -> tuple[Mapping[str, Policy], Fits]:
        """Return how every declared profile is served, and which of them fit together.

        Reads the lock where none is given; may block, and raise what reading it does.
        """
        session = self.session
        lock = session.lock() if lock is None else lock
        return policies(session), memory.fits(session.declaration, lock, session.host.hardware)

    def close(self) -> None:
        """Await nothing any more; programs that are starting go on doing so."""
        self._stop.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _start(self, name: str) -> None:
        session = self.session
        session.ledger.refuse_newer()
        session.refuse_foreign_name()
        scope = Scope(names=frozenset({name}), run=frozenset({name}), prune=False)
        with self._writing(session) as unlocked:
            case = session.look(scope)
            change = _change(case, name)
            want, run = desired.programs(case).ready[name], self._run(session, unlocked)
            if change is not None and not _sleeps(change, want, case):
                errors = [outcome.error for outcome in serving.carry_out({name: change}, {name: want}, {}, case, run)]
                return _raise(errors)
            if change is not None:
                _raise([obstacles.of_one(change, want, case, run)])
                session.host.supervisor.start(want.spec.id)
        _raise(serving.await_health({name: want}, run).values())  # nobody has to wait for this one meanwhile
        return None

    @contextmanager
    def _writing(self, session: Session) -> Iterator[Callable[[], AbstractContextManager[None]]]:
        """Hold the writer's lock, as one of the threads; yield what lets others have it meanwhile. Raises E-BUSY."""
        with self._turn, exclusive(session.writer, COMMAND, patience=_PATIENCE, stop=self._stop) as held:

            @contextmanager
            def unlocked() -> Iterator[None]:
                with held.released():
                    self._turn.release()
                    try:
                        yield
                        if self._stop.is_set():  # who has the lock now may wait for this process to end
                            raise LmctlError("E-INTERRUPTED", "the gateway ends", fix="`lmctl apply` goes on with it")
                    finally:
                        self._turn.acquire()

            yield unlocked

    def _run(self, session: Session, unlocked: Callable[[], AbstractContextManager[None]]) -> Run:
        """Return what carries out a start: it belongs to the last apply, and begins none of its own."""
        last = generations.listed(session.ledger, 1)
        number = last[0].id if last else 0
        return Run(session.host, session.ledger, number, _silent, self._stop, _silent, unlocked=unlocked)

    async def _aside(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _running(self) -> Mapping[str, Seen]:
        session = self.session
        daemon = session.host.supervisor.observe()
        if daemon.problem:
            raise LmctlError("E-SUPERVISOR", daemon.problem)
        found: dict[str, Seen] = {}
        for profile in session.declaration.profiles:
            process, spec = daemon.processes.get(program_id(profile.name)), daemon.specs.get(program_id(profile.name))
            if process is None or process.pid is None or spec is None or not process.running:
                self._healthy.pop(profile.name, None)
                if process is not None and process.state in _AGAIN and not condition.crashed(process):
                    found[profile.name] = "loading"
                continue
            if self._healthy.get(profile.name) != process.pid:
                how = condition.probe_of(_bare(session, daemon), profile.name, spec)
                if session.host.processes.probe(spec.listen, how, process.pid).state == "healthy":
                    self._healthy[profile.name] = process.pid
            found[profile.name] = "ready" if self._healthy.get(profile.name) == process.pid else "loading"
        return found


def policies(session: Session) -> Mapping[str, Policy]:
    """Return how every profile is served, by name."""
    declaration, case = session.declaration, _bare(session, Daemon(None, {}, {}))
    return {
        profile.name: Policy(
            kind=profile.start,
            ttl=profile.ttl,
            slots=profile.max_concurrency or profile.settings.parallel,
            queue=profile.max_queue,
            rivals=desired.rivals(case, profile),
            load_timeout=declaration.front.load_timeout,
        )
        for profile in declaration.profiles
    }


def _bare(session: Session, daemon: Daemon) -> Case:
    """Return a case that knows the declaration and these programs: no file is looked at for it, the lock neither."""
    host = session.host
    return Case(session.declaration, Lock(), World(daemon=daemon, hardware=host.hardware, now=host.now()))


def _sleeps(change: Change, want: Desired, case: Case) -> bool:
    """Whether nothing but the process is missing: files and daemon know the program as it is declared."""
    daemon = case.world.daemon
    known = daemon.pid is not None and want.spec.id in daemon.processes
    return known and change.verb == "restart" and [cause.after for cause in change.cause] == ["running"]


def _raise(errors: Iterable[LmctlError | None]) -> None:
    for error in errors:
        if error is not None:
            raise error


def _change(case: Case, name: str) -> Change | None:
    """Return what has to happen to the program, None where it runs already. Raises why no request starts it."""
    profile = case.declaration.profile(name)
    if profile is None:
        raise LmctlError("E-REF", f"{name} is not declared any more", fix="see `lmctl status`")
    daemon, program_name = case.world.daemon, program_id(name)
    if program_name in daemon.untrusted:
        raise LmctlError(
            "E-TRUST", f"the trust in {name} was revoked", fix=f"see `lmctl trust`, then `lmctl apply {name}`"
        )
    if name in (case.world.memory.holds or {}) or program_name in daemon.held:
        raise Held("E-UNHEALTHY", f"{name} is held", fix=f"run `lmctl start {name}`")
    if rivals := desired.running_rivals(case, profile):
        raise Rivalled(name, rivals[0])
    missing = [wanted for wanted in profile.artifacts if wanted.id not in case.lock.artifacts]
    if missing:
        raise LmctlError("E-LOCK", f"the weights of {name} are not locked", fix=f"run `lmctl apply {name}`")
    if not all(weights.verified(case, wanted.id) for wanted in profile.artifacts):
        raise LmctlError(
            "E-HASH", f"the weights of {name} are not here, or not verified", fix=f"run `lmctl apply {name}`"
        )
    capacity.refuse(case)
    asked = desired.programs(case)
    if name in asked.refused:
        raise asked.refused[name]
    return next((change for change in program.changes(case) if change.address == program.address(name)), None)


def _silent(_: str | Progress) -> None:
    """Nobody watches."""
