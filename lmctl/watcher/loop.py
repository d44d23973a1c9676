"""The watcher: wait, read the configuration, compare, plan, and let reconcile apply what may be applied unasked."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Protocol

from lmctl import comparing, plan, recording
from lmctl.drift import log
from lmctl.drift.records import Drift
from lmctl.errors import LmctlError, Problem
from lmctl.mutex import exclusive
from lmctl.plan import Plan
from lmctl.reconcile import Applied, Wish, make_plan
from lmctl.record import record, replace
from lmctl.resource import Case, Scope
from lmctl.session import Session
from lmctl.usage import metering
from lmctl.watcher.attempts import Attempts
from lmctl.watcher.eyes import QUIET, Eyes
from lmctl.watcher.lookout import Lookout
from lmctl.watcher.pace import Pace, Turn
from lmctl.watcher.places import Places
from lmctl.watcher.policy import Decision, decide
from lmctl.watcher.settings import Settings

COMMAND = "lmctl watch"
_RAISE = "raise fs.inotify.max_user_watches or fs.inotify.max_user_instances"
_BUSY = 5.0  # seconds until what another lmctl was in the way of is tried again


@record
class Loaded:
    """The declaration as it is now, and what it says about watching."""

    session: Session
    settings: Settings


class Surroundings(Protocol):
    """What the watcher asks of the command that runs it."""

    # the configuration, read anew; raises whatever is wrong with it
    def load(self) -> Loaded: ...

    # where a change of what is read would show; what cannot be read keeps the places that were known
    def places(self, known: Places, loaded: Loaded | None) -> Places: ...

    # whether something else is declared by now than what a session applies: not by a remark, and not by what is broken;
    # another thread calls it
    def obsolete(self, session: Session) -> bool: ...

    # reconcile's apply, None when it was ended before it began; raises as it does, and KeyboardInterrupt when the
    # watcher is to end
    def apply(self, session: Session, scope: Scope, wish: Wish) -> Applied | None: ...

    def tell(self) -> Voice: ...


class Voice(Protocol):
    """Tells a person, and whoever reads along, what happens; what was said already is not said again."""

    def planned(self, planned: Plan, turn: Turn, decision: Decision) -> None: ...

    # `early`: it was ended because something else is declared by now
    def applied(self, applied: Applied, *, early: bool) -> None: ...

    def drifts(self, begun: tuple[Drift, ...], over: tuple[Drift, ...]) -> None: ...

    # what is wrong about a topic; nothing: it is right again
    def problems(self, topic: str, problems: tuple[Problem, ...]) -> None: ...

    # a turn ended
    def looked(self) -> None: ...


class Watcher:
    """Watches one declaration, by the name that it had at first."""

    def __init__(self, around: Surroundings, first: Loaded, clock: Callable[[], float] = time.monotonic) -> None:
        self._around, self._voice, self._clock = around, around.tell(), clock
        self._name = first.session.declaration.name
        self._pace = Pace(first.settings.debounce, first.settings.interval, clock())
        self._attempts = Attempts()
        self._served = False  # supervisord ran at an earlier look
        self._drifts: Mapping[str, Drift] = {}
        self._removal = ""  # fingerprint of a plan that removes something and was looked at once
        self._places = around.places(Places(), first)
        self._eyes = Eyes()

    def run(self) -> None:
        """Watch until interrupted; holds no lock but while something is applied or recorded."""
        try:
            self._eyes.watch(self._places)
            self._take(Turn(world=True))
            while True:
                self._heed(self._pace.wait(self._clock()))
                due = self._pace.turn(self._clock())
                if due is not None:
                    self._take(due)
        finally:
            self._eyes.close()

    def _heed(self, seconds: float) -> None:
        if self._eyes.wait(seconds):
            self._pace.ended(self._clock())
        files, problem, begun = self._eyes.taken()
        if files or begun:  # what changed before other places were listened to was not heard
            self._pace.saved(files, self._clock() - QUIET)
        if problem is not None:
            what = f"the system does not tell of changes ({problem}): files are looked at every second instead"
            self._voice.problems("notifications", (Problem("E-LIMIT", what, _RAISE),) if problem else ())

    def _take(self, turn: Turn) -> None:
        loaded = None
        try:
            loaded = self._load()
        except LmctlError as error:
            self._voice.problems("configuration", error.problems)
        if loaded is not None:
            self._voice.problems("configuration", ())
            self._pace.set(loaded.settings.debounce, loaded.settings.interval)
            self._look(loaded, turn)
        self._places = self._around.places(self._places, loaded)
        self._eyes.watch(self._places)
        self._voice.looked()

    def _load(self) -> Loaded:
        """Return what is declared. Raises what is wrong with it; another name is another declaration's programs."""
        loaded = self._around.load()
        name = loaded.session.declaration.name
        if name != self._name:
            what = f"the declaration is now called {name}, and {self._name} is what is watched"
            raise LmctlError("E-NAME", what, fix=f"`lmctl down {self._name}`, then begin to watch again")
        return loaded

    def _look(self, loaded: Loaded, turn: Turn) -> None:
        problems: tuple[Problem, ...] = ()
        for step in (self._compare, self._plan) if turn.world else (self._plan,):
            try:
                step(loaded, turn)
            except LmctlError as error:
                problems += error.problems
        self._voice.problems("world", problems)
        if turn.world:
            self._voice.problems("usage", metering.sample(loaded.session))
        self._eyes.follow(self._programs(loaded.session))

    def _programs(self, session: Session) -> set[int]:
        with suppress(LmctlError):
            daemon = session.host.supervisor.observe()
            return {pid for pid in (daemon.pid, *(one.pid for one in daemon.processes.values())) if pid}
        return set()

    def _compare(self, loaded: Loaded, turn: Turn) -> None:
        """Find what is not as declared, record it, and tell what is new about it. Raises as the ledger does."""
        session = loaded.session
        found = comparing.look(session, ())
        now = {drift.fingerprint: drift for drift in found.drifts}
        begun = tuple(drift for key, drift in now.items() if key not in self._drifts)
        over = tuple(drift for key, drift in self._drifts.items() if key not in now)
        self._drifts = now
        try:
            if (now or log.known(session.ledger)) and session.state.is_dir():
                with exclusive(session.turn, COMMAND), exclusive(session.writer, COMMAND):
                    at = found.case.world.now
                    with session.ledger.writing(at) as ledger:
                        log.note(ledger, found.drifts, at, whole=not found.problems)
        except LmctlError as error:
            if error.code != "E-BUSY":  # what others are at work on is no drift yet
                raise
        finally:  # a ledger that cannot be written keeps nobody from hearing of it
            if begun or over:
                self._voice.drifts(begun, over)

    def _plan(self, loaded: Loaded, turn: Turn) -> None:
        """Plan, and apply what may be. Raises as reconcile does."""
        case = loaded.session.look(Scope(prune=False))
        self._attempts.declared(f"{case.declaration.hash} {recording.lock_hash(case)}")
        decision = decide(case, loaded.settings.apply, served=self._served)
        self._served = self._served or case.world.daemon.pid is not None
        planned = make_plan(replace(case, scope=decision.scope))
        self._voice.planned(planned, turn, decision)
        if planned.empty:
            self._attempts.settled(self._clock())
            self._voice.problems("apply", ())
        elif decision.stays is not None or not self._attempts.due(planned.fingerprint, self._clock()):
            pass  # it is told, and time passes
        elif any(change.destroys for change in planned.changes) and planned.fingerprint != self._removal:
            self._removal = planned.fingerprint  # a file may only be on its way back: it counts when it stays away
            self._pace.saved((), self._clock())
        else:
            self._apply(loaded.session, case, planned, decision.scope)

    def _apply(self, session: Session, case: Case, planned: Plan, scope: Scope) -> None:
        """Apply exactly this plan; when the world is another one by then, plan again."""
        wish, began = Wish(COMMAND, saved=plan.to_json(planned)), self._clock()
        lookout = self._lookout(session)
        try:
            with lookout:
                applied = self._around.apply(session, scope, wish)
        except LmctlError as error:
            if error.code == "E-PLAN-STALE":
                self._pace.saved((), self._clock())
                return
            if error.code == "E-BUSY":  # that was no try: somebody else is at work
                self._pace.again(self._clock() + _BUSY)
                fix = "what is to be done is done once that has ended"
                raise LmctlError("E-BUSY", error.problems[0].what, fix=fix) from error
            self._attempts.tried(planned.fingerprint, began)
            raise
        if not lookout.ended:
            self._attempts.tried(planned.fingerprint, began)
        self._served = True
        if applied is not None:
            self._voice.applied(applied, early=lookout.ended)
        self._pace.saved((), self._clock())  # what was edited meanwhile, and how it is now

    def _lookout(self, session: Session) -> Lookout:
        """Return who ends an apply early once it is obsolete."""
        return Lookout(
            heed=self._heed,
            wake=self._eyes.wake,
            settles=self._pace.settles,
            obsolete=partial(self._around.obsolete, session),
            end=session.host.stop.set,
            clock=self._clock,
        )
