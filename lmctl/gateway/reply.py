"""The answer to one client: whole or as a stream, and what a refusal looks like in the middle of one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from lmctl.gateway.refused import Dialect, Refused, answer

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Pairs = tuple[tuple[bytes, bytes], ...]

_JSON, _EVENTS = b"application/json", b"text/event-stream"
_UNSTORED = (b"cache-control", b"no-store")
_WAITING = b": waiting for the model\n\n"


class Words(Protocol):
    """Puts what an engine says into another dialect, for one answer."""

    events: bytes  # the content type of a stream

    @property
    def broke(self) -> Refused | None: ...  # why the stream is over before its end

    @property
    def wakes(self) -> bool: ...  # whether the model has to run

    def nothing(self) -> bytes: ...  # the answer to a request that asks no engine

    def whole(self, status: int, said: bytes) -> bytes: ...  # raises Refused 502

    def piece(self, data: bytes) -> bytes: ...

    def end(self, last: bytes) -> bytes: ...

    def cut(self, why: Refused) -> bytes: ...

    def waiting(self) -> bytes: ...


class Reply:
    """One answer on its way; `status` is what the client was told, None as long as it was told nothing."""

    def __init__(self, send: Send) -> None:
        self.dialect: Dialect = "openai"
        self.headers: Pairs = ()  # of every answer to this request
        self.status: int | None = None
        self.streams = False
        self.words: Words | None = None  # None: what engines say is what the client reads
        self._send = send

    async def answered(self, status: int, body: bytes, more: Pairs = ()) -> None:
        """Answer with what an engine said, whole. Raises Refused 502 where the client's dialect has no words for it."""
        await self.whole(status, body if self.words is None else self.words.whole(status, body), more)

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
            kind = kind if self.words is None else self.words.events
            headers = [(b"content-type", kind), _UNSTORED, *more, *self.headers]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def piece(self, data: bytes) -> None:
        """Send a part of an engine's stream. Raises Refused where it broke off, as the client was told."""
        words = self.words
        if words is not None:
            data = words.piece(data)
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        if words is not None and words.broke is not None:
            raise words.broke

    async def waiting(self) -> None:
        """Keep the connection of a client that waits alive; this begins a stream."""
        await self.stream()
        data = _WAITING if self.words is None else self.words.waiting()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self, last: bytes = b"") -> None:
        """End an engine's stream. Raises Refused where it broke off; nothing may be sent then but the end."""
        words = self.words
        if words is not None:
            last = words.end(last)
            if words.broke is not None:
                await self._send({"type": "http.response.body", "body": last, "more_body": True})
                raise words.broke
        await self._send({"type": "http.response.body", "body": last})

    async def refused(self, why: Refused) -> None:
        """Answer with a refusal; a stream that has begun ends with it."""
        if self.streams:
            last = self.cut(why) if self.words is None else self.words.cut(why)
            await self._send({"type": "http.response.body", "body": last})
            return
        headers = tuple((name.lower().encode(), value.encode()) for name, value in why.headers)
        await self.whole(why.status, answer(why, self.dialect), headers)

    def cut(self, why: Refused) -> bytes:
        """Return the event with which a stream ends that broke off: a half line must not swallow what is said now."""
        kind = b"event: error\n" if self.dialect == "anthropic" else b""
        return b"\n\n" + kind + b"data: " + answer(why, self.dialect) + b"\n\n"
