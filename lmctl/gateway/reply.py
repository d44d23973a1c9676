"""The answer to one client: whole or as a stream, and what a refusal looks like in the middle of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from lmctl.gateway.refused import Dialect, Refused, answer

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Pairs = tuple[tuple[bytes, bytes], ...]

_JSON, _EVENTS = b"application/json", b"text/event-stream"
_UNSTORED = (b"cache-control", b"no-store")


class Reply:
    """One answer on its way; `status` is what the client was told, None as long as it was told nothing."""

    def __init__(self, send: Send) -> None:
        self.dialect: Dialect = "openai"
        self.headers: Pairs = ()  # of every answer to this request
        self.status: int | None = None
        self.streams = False
        self._send = send

    async def whole(self, status: int, body: bytes, more: Pairs = (), kind: bytes = _JSON) -> None:
        """Answer with `body` at once."""
        self.status = status
        length = b"%d" % len(body)
        headers = [(b"content-type", kind), (b"content-length", length), *more, *self.headers]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})

    async def stream(self, more: Pairs = (), kind: bytes = _EVENTS) -> None:
        """Begin a stream; nothing where one has begun."""
        if self.status is None:
            self.status, self.streams = 200, True
            headers = [(b"content-type", kind), _UNSTORED, *more, *self.headers]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def piece(self, data: bytes) -> None:
        """Send a part of the stream."""
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, last: bytes = b"") -> None:
        """End the stream."""
        await self._send({"type": "http.response.body", "body": last})

    async def refused(self, why: Refused) -> None:
        """Answer with a refusal; a stream that has begun ends with it."""
        if self.streams:
            await self.end(self.cut(why))
            return
        headers = tuple((name.lower().encode(), value.encode()) for name, value in why.headers)
        await self.whole(why.status, answer(why, self.dialect), headers)

    def cut(self, why: Refused) -> bytes:
        """Return the event with which a stream ends that broke off: a half line must not swallow what is said now."""
        kind = b"event: error\n" if self.dialect == "anthropic" else b""
        return b"\n\n" + kind + b"data: " + answer(why, self.dialect) + b"\n\n"
