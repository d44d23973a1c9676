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
from lmctl.gateway.reply import Reply
from lmctl.gateway.routing import Target
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
        *("_scope", "began", "body", "counts", "endpoint", "first", "overdue", "partial", "reply", "target"),
        *("task", "where"),
    )

    def __init__(
        self, scope: MutableMapping[str, Any], endpoint: Endpoint, target: Target, body: dict[str, Json], reply: Reply
    ) -> None:
        self._scope, self.began = scope, time.monotonic()
        presence: Presence | None = scope.get(PRESENCE)
        self.task = presence.task if presence is not None else None
        self.overdue = False  # its time to be answered is over
        self.endpoint, self.target, self.body, self.reply = endpoint, target, body, reply
        self.where = LOCAL
        self.counts: Counts = NONE
        self.first: float | None = None  # seconds until something of a stream could be read
        self.partial = False

    @property
    def streams(self) -> bool:
        """Whether the client asked for a stream."""
        return self.body.get("stream") is True

    def elapsed(self) -> float:
        """Return the seconds since it began."""
        return time.monotonic() - self.began

    def ended(self, status: int, tally: Tally, note: Callable[[Row], None]) -> None:
        """Count it and note its row. Tokens that nobody told stay unknown."""
        seconds, counts = self.elapsed(), self.counts
        tally.add(self.endpoint.name, status, counts, seconds, self.first)
        first = self.first * 1000 if self.first is not None else counts.prompt_ms
        note(
            Row(
                f"{_UNIQUE}{next(_IDS):x}",
                time.time(),
                self.target.profile,
                self.target.weights,
                self.target.backend,
                self.endpoint.path,
                status,
                counts.tokens_in,
                counts.tokens_cached,
                counts.tokens_out,
                first,
                seconds * 1000,
                counts.tokens_per_s,
                self.where,
                _agent(self._scope["headers"]),
                self.partial,
            )
        )


def _agent(headers: list[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name == b"user-agent":
            return value.decode("latin-1")
    return None
