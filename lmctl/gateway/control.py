"""The gateway's own socket: other commands of lmctl have it hold requests back while they replace an engine."""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from lmctl import local_sockets

_LINE = 64 << 10  # bytes of a request
FOLLOW = b'{"follow": true}\n'
_LONGEST = 3600.0  # seconds that requests may take to end


class Drains(Protocol):
    """What is asked of `keeper.Keeper`."""

    async def drain(self, name: str, seconds: float) -> None: ...

    def resume(self, name: str) -> None: ...


class Control:
    """Listens in the state folder `folder`; only its owner gets there.

    A client sends one line, `{"drain": [profiles], "seconds": s}`, and is answered `{"drained": true}` once nothing of
    them is under way, at the latest after so many seconds. New requests wait as long as it stays connected: one that is
    killed holds nobody up. Or it sends `{"follow": true}`, and is answered `{"followed": true}` once the gateway
    goes by what is declared and runs now.
    """

    def __init__(self, folder: Path, drains: Drains, follow: Callable[[], Awaitable[None]]) -> None:
        self._path, self._drains, self._follow = local_sockets.path(folder, "g"), drains, follow
        self._held: Counter[str] = Counter()
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen; what an earlier gateway left is replaced, and where nobody can listen, nobody does."""
        if not local_sockets.trusted(self._path):
            return
        with suppress(OSError):
            self._path.unlink()
        with suppress(OSError):
            before = os.umask(0o177)
            try:
                self._server = await asyncio.start_unix_server(self._answer, self._path, limit=_LINE)
            finally:
                os.umask(before)

    def close(self) -> None:
        """Listen no longer."""
        if self._server is not None:
            self._server.close()
            with suppress(OSError):
                self._path.unlink()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        names: list[str] = []
        try:
            line = await reader.readuntil(b"\n")
            asked = _asked(line)
            if line == FOLLOW:
                await _until_left(reader, lambda: self._followed(writer))
            elif asked is not None:
                names, seconds = asked
                self._held.update(names)
                await _until_left(reader, lambda: self._drained(names, seconds, writer))
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._held.subtract(names)
            for name in names:
                if not self._held[name]:
                    self._drains.resume(name)
            writer.close()

    async def _drained(self, names: list[str], seconds: float, writer: asyncio.StreamWriter) -> None:
        await asyncio.gather(*(self._drains.drain(name, seconds) for name in names))
        writer.write(b'{"drained": true}\n')
        await writer.drain()

    async def _followed(self, writer: asyncio.StreamWriter) -> None:
        await self._follow()
        writer.write(b'{"followed": true}\n')
        await writer.drain()


async def _until_left(reader: asyncio.StreamReader, work: Callable[[], Awaitable[None]]) -> None:
    """Do `work` and stay until the client closes its connection, also in the middle of it."""
    doing, leaving = asyncio.ensure_future(work()), asyncio.ensure_future(reader.read())
    try:
        await leaving
    finally:
        leaving.cancel()
        doing.cancel()
        await asyncio.gather(doing, leaving, return_exceptions=True)


def _asked(line: bytes) -> tuple[list[str], float] | None:
    """Return profiles and seconds; None for what no lmctl says."""
    try:
        told: Any = json.loads(line)
        names, seconds = told["drain"], float(told["seconds"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or not 0 <= seconds <= _LONGEST:
        return None
    return list(dict.fromkeys(names)), seconds
