"""The scheduler at work: requests wait on it, programs are started and stopped as it says, one timer tells the time."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Coroutine, Mapping
from typing import Any, Protocol

from lmctl.errors import LmctlError
from lmctl.gateway import turned_away
from lmctl.gateway.demand import (
    Admit,
    Drained,
    Effect,
    Fits,
    Look,
    Policy,
    Refuse,
    Seen,
    Standing,
    Start,
    Stop,
    Why,
)
from lmctl.gateway.refused import Refused
from lmctl.gateway.scheduler import Scheduler


class Programs(Protocol):
    """The engines of profiles. `start` and `stop` return when it is done. All raise LmctlError."""

    # returns once it answers; Held when a person stopped it, Rivalled where another one runs that must not
    async def start(self, name: str) -> None: ...

    async def stop(self, name: str) -> None: ...

    # the profiles whose programs run; one that was healthy still is, but for the `doubted`: they are asked
    async def running(self, doubted: Collection[str] = ()) -> Mapping[str, Seen]: ...


class Held(LmctlError):
    """A person stopped the profile: no request starts it."""


class Rivalled(LmctlError):
    """A profile that no request stops runs in the place of the one that was to start."""

    def __init__(self, name: str, rival: str) -> None:
        super().__init__("E-CONFLICT", f"{rival} runs in the place of {name}", fix=f"run `lmctl start {name}`")
        self.rival = rival


class Counts:
    """What happened to one profile since the gateway started."""

    __slots__ = ("evictions", "failures", "starts", "ttl_stops")

    def __init__(self) -> None:
        self.starts = self.evictions = self.ttl_stops = self.failures = 0


class Keeper:
    """Gives slots of models to requests, and keeps running what they need. Used within one event loop."""

    def __init__(self, programs: Programs) -> None:
        self._programs, self._scheduler = programs, Scheduler()
        self._loop = asyncio.get_running_loop()
        self._tickets: dict[int, asyncio.Future[None]] = {}
        self._drains: dict[str, list[asyncio.Future[None]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._at = math.inf  # when the timer is due
        self._closed = False
        self.counts: dict[str, Counts] = {}  # by profile

    def enter(self, name: str) -> bool:
        """Take a slot if one is free now; give it back with `leave`."""
        return self._scheduler.enter(name)

    async def wait(self, name: str) -> None:
        """Wait for a slot, and for the model to be started; give it back with `leave`.

        Raises Refused: 429 where too many wait, 503 where it cannot run. Whoever is cancelled waits no longer.
        """
        if self._closed:
            raise _ending()
        now = self._loop.time()
        ticket, future = self._scheduler.wait(name, now), self._loop.create_future()
        self._tickets[ticket] = future
        self._carry_out()
        try:
            await future
        except asyncio.CancelledError:
            if self._tickets.pop(ticket, None) is not None:
                self._scheduler.give_up(name, ticket, self._loop.time())
                self._carry_out()
            elif not future.cancelled() and future.exception() is None:  # let through at the same moment
                self.leave(name)
            raise

    def leave(self, name: str) -> None:
        """Give a slot back."""
        sleeps = self._scheduler.leave(name, self._loop.time())
        if sleeps < self._at or self._scheduler.has_effects:
            self._carry_out()

    def lost(self, name: str) -> None:
        """Tell that nothing answers where a model should: it is looked at, and started again where requests do that.

        Whoever had a slot gives it back as usual.
        """
        self._scheduler.lost(name, self._loop.time())
        self._carry_out()

    def states(self) -> Mapping[str, Standing]:
        """Return how every declared profile stands."""
        return self._scheduler.states()

    def follow(self, policies: Mapping[str, Policy], fits: Fits) -> None:
        """Go by these policies from now on; `fits` must be quick, and is asked the same again and again."""
        self.counts.update({name: Counts() for name in policies.keys() - self.counts.keys()})
        self._scheduler.follow(policies, fits, self._loop.time())
        self._carry_out()

    async def drain(self, name: str, seconds: float) -> None:
        """Admit nobody until `resume`; return when nothing is in flight, after `seconds` at the latest."""
        now, future = self._loop.time(), self._loop.create_future()
        self._drains.setdefault(name, []).append(future)
        self._scheduler.drain(name, now + seconds, now)
        self._carry_out()
        await future

    def resume(self, name: str) -> None:
        """Let requests through again, once it was seen what runs."""
        self._scheduler.resume(name, self._loop.time())
        self._carry_out()

    async def close(self) -> None:
        """Refuse whoever waits and begin nothing more. What runs goes on; a start under way is no longer awaited."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for future in [*self._tickets.values()]:
            if not future.done():
                future.set_exception(_ending())
        self._tickets.clear()
        for future in [one for waiting in self._drains.values() for one in waiting]:
            future.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _carry_out(self) -> None:
        while effects := self._scheduler.take():
            for effect in effects:
                self._do(effect)
        due = self._scheduler.due()
        if due != self._at and not self._closed:
            if self._timer is not None:
                self._timer.cancel()
            self._at = due
            self._timer = self._loop.call_at(due, self._tick) if due < math.inf else None

    def _tick(self) -> None:
        self._at, self._timer = math.inf, None
        self._scheduler.tick(self._loop.time())
        self._carry_out()

    def _do(self, effect: Effect) -> None:
        if isinstance(effect, Admit):
            future = self._tickets.pop(effect.ticket, None)
            if future is None or future.done():  # whoever waited left at the same moment
                self._scheduler.leave(effect.name, self._loop.time())
            else:
                future.set_result(None)
        elif isinstance(effect, Refuse):
            future = self._tickets.pop(effect.ticket, None)
            if future is not None and not future.done():
                future.set_exception(_refused(effect.why))
        elif isinstance(effect, Drained):
            for future in self._drains.pop(effect.name, ()):
                if not future.done():
                    future.set_result(None)
        elif self._closed:
            pass
        elif isinstance(effect, Start):
            self._counted(effect.name).starts += 1
            self._spawn(self._start(effect.name))
        elif isinstance(effect, Stop):
            counts = self._counted(effect.name)
            if effect.cause == "ttl":
                counts.ttl_stops += 1
            else:
                counts.evictions += 1
            self._spawn(self._stop(effect.name))
        else:
            self._spawn(self._look(effect))

    def _counted(self, name: str) -> Counts:
        return self.counts.setdefault(name, Counts())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self, name: str) -> None:
        try:
            await self._programs.start(name)
        except Exception as error:
            if not isinstance(error, Held):
                self._counted(name).failures += 1
            self._scheduler.failed(name, self._why(name, error), self._loop.time())
        else:
            self._scheduler.started(name, self._loop.time())
        self._carry_out()

    async def _stop(self, name: str) -> None:
        try:
            await self._programs.stop(name)
        except Exception as error:
            self._why(name, error)
            self._scheduler.stopped(name, self._loop.time(), done=False)
        else:
            self._scheduler.stopped(name, self._loop.time())
        self._carry_out()

    async def _look(self, look: Look) -> None:
        since = self._loop.time()
        try:
            running = await self._programs.running(look.doubted)
        except Exception as error:
            self._why("", error)
            self._scheduler.unseen(self._loop.time())
        else:
            self._scheduler.observed(running, since, self._loop.time())
        self._carry_out()

    def _why(self, name: str, error: Exception) -> Why:
        """Return what clients are told of an error; what is nobody's but ours is reported as well."""
        if isinstance(error, Held):
            return turned_away.held(name)
        if isinstance(error, Rivalled):
            return turned_away.rival_runs(name, error.rival)
        if isinstance(error, LmctlError):
            problem = error.problems[0]
            told = problem.what.replace("\n  | ", " | ") + (f" — {problem.fix}" if problem.fix else "")
            return turned_away.start_failed(name, told)
        context = {"message": f"programs failed ({name})", "exception": error}
        self._loop.call_exception_handler(context)
        return turned_away.start_failed(name, "lmctl has a bug: see `lmctl logs gateway`")


def _refused(why: Why) -> Refused:
    return Refused(why.status, why.code, why.message, headers=(("Retry-After", turned_away.seconds(why.retry)),))


def _ending() -> Refused:
    return Refused(503, "ending", "the gateway ends", headers=(("Retry-After", "5"),))
