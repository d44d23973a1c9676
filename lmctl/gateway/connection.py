"""One connection to an engine or a cloud: what is asked goes out, what is answered is parsed as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import NamedTuple, cast

import httptools

HEADERS = 64 << 10  # bytes of an answer's status line and headers
_AHEAD = 256 << 10  # bytes of a body that may wait for a slow client

Headers = tuple[tuple[bytes, bytes], ...]  # names in lower case


class Broken(Exception):
    """The engine ended or said what is no HTTP; what was answered so far may be all there is."""


class Cut(Broken):
    """An engine ended soon and before one byte of an answer: as it does when it is killed."""


class Head(NamedTuple):
    """Status and headers of an answer."""

    status: int
    headers: Headers

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the first header called `name` (lower case)."""
        return next((value for key, value in self.headers if key == name), None)


class Connection(asyncio.Protocol):
    """One connection to an engine. The parser calls `on_…`; who asked waits on `_wake`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._wake: asyncio.Future[None] | None = None
        self.lost = False
        self.since = 0.0  # loop time at which it was last used
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._head: Head | None = None
        self._headers: list[tuple[bytes, bytes]] = []
        self._seen = 0  # bytes before the end of the headers
        self._chunks: list[bytes] = []
        self._waiting = 0  # bytes in `_chunks`
        self._paused = False
        self._complete, self._stays = False, False
        self._broken: str | None = None

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._head is None:
            self._seen += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail("it changed the protocol")
        except httptools.HttpParserError:
            self._fail("it answered what is no HTTP")
        if self._head is None and self._seen > HEADERS:
            self._fail("its headers are too long")
        self._notify()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = True
        if not self._complete and self._head is not None and self.until_close:
            self._complete = True  # neither a length nor chunks: the end of the connection is the end of the body
        elif not self._complete:
            self._broken = self._broken or "it ended the connection"
        self._notify()

    # the parser's side

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            if status == 101:
                self._fail("it changed the protocol")
            self._headers.clear()
            return
        if sum(len(name) + len(value) for name, value in self._headers) > HEADERS:
            self._fail("its headers are too long")
        else:
            self._head = Head(status, tuple(self._headers))

    def on_body(self, data: bytes) -> None:
        self._chunks.append(data)
        self._waiting += len(data)
        if self._waiting > _AHEAD and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        if self._head is not None:
            self._complete, self._stays = True, bool(self._parser.should_keep_alive())

    # the asker's side

    @property
    def reusable(self) -> bool:
        """Whether the answer ended where it said and was read so far, and the engine keeps the connection."""
        return self._complete and self._stays and not (self.lost or self._paused) and self._broken is None

    @property
    def untouched(self) -> bool:
        """Whether it ended without one byte of an answer."""
        return self.lost and self._seen == 0

    def send(self, data: bytes) -> None:
        """Begin a request."""
        self._begin()
        assert self._transport is not None
        self._transport.write(data)

    async def head(self) -> Head:
        """Wait for the status and headers. Raises Broken."""
        while self._head is None:
            if self._broken is not None:
                raise Broken(self._broken)
            await self._change()
        return self._head

    @property
    def whole(self) -> bytes | None:
        """Take the whole body where all of it is here, as that of a short answer is; None: wait for its chunks."""
        return self._taken() if self._complete else None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes, what came together as one. Raises Broken where it ends too early."""
        while True:
            if self._chunks:
                yield self._taken()
                continue
            if self._complete:
                return
            if self._broken is not None:
                raise Broken(self._broken)
            await self._change()

    def _taken(self) -> bytes:
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._waiting = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    @property
    def until_close(self) -> bool:
        """Whether the body's end is the connection's: then an engine that was killed looks as one that is done."""
        names = {name for name, _ in self._headers}
        return b"content-length" not in names and b"transfer-encoding" not in names

    def close(self) -> None:
        """End it now: the engine notices and stops working for nobody."""
        if self._transport is not None:
            self._transport.abort()

    def _fail(self, why: str) -> None:
        self._broken = self._broken or why
        self.close()

    async def _change(self) -> None:
        self._wake = self._loop.create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
