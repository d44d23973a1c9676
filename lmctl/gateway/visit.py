"""One request on its way through the gateway: who asked, what it means, when it began, and how it ended."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, MutableMapping
from itertools import count
from typing import Any

from lmctl.gateway.accounting import NONE, Counts
from lmctl.gateway.metrics import Tally
from lmctl.gateway.paths import Endpoint
from lmctl.gateway.recount import Kept
from lmctl.gateway.refused import Refused
from lmctl.gateway.reply import Reply
from lmctl.gateway.routing import Target
from lmctl.gateway.ways import Way, Ways, passes_on
from lmctl.spec import Json
from lmctl.usage.rows import LOCAL, Row

LEFT = 499  # the status of a request whose client left before it was answered, as nginx writes it


PRESENCE = "lmctl.presence"  # where in a scope the server tells of its client


class Presence:
    """Whether the client is still there. The server says that it left, and the request that is under way ends."""

    __slots__ = ("gone", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[Any] | None = None
        self.gone = False

    def leave(self) -> None:
        """Note that the client left."""
        self.gone = True
        if self.task is not None:
            self.task.cancel()


_IDS = count()  # of this process; with what is random in it, unlike those of every other one
_UNIQUE = secrets.token_hex(8)


class Visit:
    """What is known of a request that a profile is to answer; `ended` makes its row and counts it."""

    __slots__ = (
        *("_scope", "_ways", "asked", "began", "body", "counts", "declined", "endpoint", "first", "headers", "overdue"),
        *("kept", "partial", "reply", "spare", "target", "task", "way"),
    )

    def __init__(
        self, scope: MutableMapping[str, Any], endpoint: Endpoint, ways: Ways, body: dict[str, Json], reply: Reply
    ) -> None:
        self._scope, self.began = scope, time.monotonic()
        presence: Presence | None = scope.get(PRESENCE)
        self.task = presence.task if presence is not None else None
        self.overdue = False  # its time to be answered is over
        self.endpoint, self._ways, self.body, self.reply = endpoint, ways, body, reply
        self.headers = reply.headers
        self.way: Way = ways[0]  # who is asked now
        self.target: Target = self.way.target
        self.spare = len(ways) - 1  # how many may be asked after that
        self.asked = next((way.target.profile for way in ways if way.target.cloud is None), None)
        self.declined: Refused | None = None  # why the first could not answer
        if not self.spare:
            reply.headers = (*self.headers, *self.way.told())
        self.counts: Counts = NONE
        self.first: float | None = None  # seconds until something of a stream could be read
        self.partial = False
        self.kept: Kept | None = None  # of a stream whose tokens can be counted afterwards

    @property
    def streams(self) -> bool:
        """Whether the client asked for a stream."""
        return self.body.get("stream") is True

    @property
    def left(self) -> bool:
        """Whether the client is not there any more."""
        presence: Presence | None = self._scope.get(PRESENCE)
        return presence is not None and presence.gone

    async def placed(self) -> None:
        """Tell the client who is asked now, where several may be: in a stream that has begun, by a comment."""
        if len(self._ways) == 1:
            return
        told = self.way.told()
        self.reply.headers = (*self.headers, *told)
        if self.reply.streams and self.reply.words is None:
            await self.reply.piece(b"".join(b": %b: %b\n" % pair for pair in told) + b"\n")

    def passed_on(self, refused: Refused) -> bool:
        """Go on to the next who may answer; False where there is none, or the request itself is at fault."""
        if not self.spare or not passes_on(refused):
            return False
        self.declined = self.declined or refused
        self.way = self._ways[-self.spare]
        self.target, self.spare = self.way.target, self.spare - 1
        if self.way.why == "fallback":
            self.way = self.way._replace(why=f"fallback: {refused.code}")
        self.reply.headers = self.headers
        return True

    def settled(self) -> None:
        """Note that the client is answered now: nobody else may be asked."""
        self.spare = 0

    def told(self, refused: Refused) -> Refused:
        """Return what the client is told when the last one could not answer: the first one's reason counts."""
        first = self.declined
        if first is None or not passes_on(refused):
            return refused
        message = f"{first.message}; {self.target.profile} could not answer either: {refused.message}"
        return Refused(first.status, first.code, message, headers=first.headers)

    def elapsed(self) -> float:
        """Return the seconds since it began."""
        return time.monotonic() - self.began

    def uncounted(self) -> bytes | None:
        """Let go of what was kept of its stream; return it where it was cut before its tokens were told."""
        stream = self.kept.take() if self.kept is not None else None
        return stream if self.partial and self.counts.tokens_out is None else None

    def ended(self, status: int, seconds: float, tally: Tally, note: Callable[[Row], None]) -> None:
        """Count it and note its row, which took `seconds`. Tokens that nobody told stay unknown."""
        counts = self.counts
        tally.add(self.endpoint.name, status, counts, seconds, self.first)
        cloud = self.target.cloud is not None
        first = self.first * 1000 if self.first is not None else counts.prompt_ms
        note(
            Row(
                f"{_UNIQUE}{next(_IDS):x}",
                time.time(),
                self.asked if cloud else self.target.profile,
                self.target.weights,
                self.target.backend or None,
                self.endpoint.path,
                status,
                counts.tokens_in,
                counts.tokens_cached,
                counts.tokens_out,
                first,
                seconds * 1000,
                counts.tokens_per_s,
                self.target.profile if cloud else LOCAL,
                _agent(self._scope["headers"]),
                self.partial,
            )
        )


def _agent(headers: list[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name == b"user-agent":
            return value.decode("latin-1")
    return None
