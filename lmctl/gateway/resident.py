"""The gateway with all that belongs to it: the keeper of models, their programs, and the socket for other commands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress

from lmctl.errors import LmctlError
from lmctl.gateway.app import Gateway
from lmctl.gateway.control import Control
from lmctl.gateway.keeper import Keeper
from lmctl.gateway.programs import SessionPrograms
from lmctl.gateway.state import State
from lmctl.spec import Lock
from lmctl.usage.recorder import Recorder
from lmctl.usage.rows import Row


class Resident:
    """Made within the event loop that it lives in; `app` answers once `begin` is done."""

    def __init__(self, first: State, recorder: Recorder) -> None:
        self._programs = SessionPrograms(first.session)
        self._keeper = Keeper(self._programs)
        self._control = Control(first.session.state, self._keeper, self._caught_up)
        self._asked: list[asyncio.Future[None]] = []  # of who waits until edits are followed
        self._woken = asyncio.Event()
        self._first, self._recorder, self._counts = first, recorder, True
        self.app = Gateway(first.rules, first.routes, self._keeper, self._note)

    async def begin(self, say: Callable[[str], None]) -> None:
        """Take on what is declared, and let other commands ask.

        A lock that cannot be read is told: what runs is served without it, and nothing is started.
        """
        try:
            await self.follow(self._first)
        except LmctlError as error:
            say(str(error))
            await self.follow(self._first, Lock())
        await self._control.open()

    async def follow(self, state: State, lock: Lock | None = None) -> None:
        """Go by another state from now on: requests under way keep theirs.

        Raises what reading the lock does where none is given, and nothing changes.
        """
        before, self._programs.session = self._programs.session, state.session
        try:
            policies, fits = await asyncio.to_thread(self._programs.rules, lock)
        except BaseException:
            self._programs.session = before
            raise
        accounts = state.session.declaration.accounts
        self._counts, self._recorder.keep = accounts.enabled, accounts.keep
        self._keeper.follow(policies, fits)
        self.app.follow(state.rules, state.routes)

    async def pause(self, seconds: float) -> list[asyncio.Future[None]]:
        """Let time pass until the next look at edits, less where somebody asks for it; return who is to be told."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)
        self._woken.clear()
        asked, self._asked = self._asked, []
        return asked

    async def _caught_up(self) -> None:
        future = asyncio.get_running_loop().create_future()
        self._asked.append(future)
        self._woken.set()
        await future

    def _note(self, row: Row) -> None:
        if self._counts:
            self._recorder.add(row)

    async def close(self) -> None:
        """Let go of everything; models that run go on running."""
        self._control.close()
        await self._keeper.close()
        await asyncio.to_thread(self._programs.close)
        await self.app.close()
