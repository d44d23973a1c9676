"""Connections to engines and clouds: kept open, one request at a time each, bytes passed on as they come."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import NamedTuple, cast

import httptools

HEADERS = 64 << 10  # bytes of an answer's status line and headers
_AHEAD = 256 << 10  # bytes of a body that may wait for a slow client
_IDLE = 4.0  # seconds after which a connection is not used again: engines close theirs after 5
_STALE = 5.0  # seconds in which a connection that was closed before the request tells so, on a busy machine too
_KEPT = 64  # idle connections of one engine
_CONNECT = 10.0  # seconds in which a connection must stand
_HEADS = 64  # heads of requests that are kept made

Headers = tuple[tuple[bytes, bytes], ...]  # names in lower case


class Unreachable(Exception):
    """There is no connection to where the engine should listen: the request was not sent."""


class Broken(Exception):
    """The engine ended or said what is no HTTP; what was answered so far may be all there is."""


class Head(NamedTuple):
    """Status and headers of an answer."""

    status: int
    headers: Headers

    def header(self, name: bytes) -> bytes | None:
        """Return the value of the first header called `name` (lower case)."""
        return next((value for key, value in self.headers if key == name), None)


class _Connection(asyncio.Protocol):
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
        """Whether the answer ended where it said, and the engine keeps the connection."""
        return self._complete and not self.lost and self._broken is None and self._stays

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


class Exchange:
    """One request under way. Use it as a context: leaving before the body ended closes the connection."""

    def __init__(self, pool: Pool, connection: _Connection, head: Head) -> None:
        self.head = head
        self._pool, self._connection = pool, connection

    @property
    def until_close(self) -> bool:
        """Whether nothing but the end of the connection tells where the body ends."""
        return self._connection.until_close

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises Broken where it ends too early."""
        return self._connection.chunks()

    async def body(self, limit: int) -> bytes:
        """Return the whole body. Raises Broken when it ends too early or has more than `limit` bytes."""
        found = self._connection.whole
        if found is None:
            parts, size = [], 0
            async for data in self.chunks():
                parts.append(data)
                size += len(data)
                if size > limit:
                    break
            found = b"".join(parts)
        if len(found) > limit:
            raise Broken(f"it answered more than {limit} bytes")
        return found

    async def __aenter__(self) -> Exchange:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.give_back(self._connection)


class Pool:
    """Connections to one engine at `host`:`port`; as many as there are requests, the idle ones kept for the next.

    With `tls`, every connection is one of TLS that proves the name `host`. `again`: see `ask`.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None = None, *, again: bool = True) -> None:
        self.host, self.port, self._tls, self._again = host, port, tls, again
        named = f"[{host}]" if ":" in host else host
        self.name = (named if port == (443 if tls else 80) else f"{named}:{port}").encode()
        self._loop = asyncio.get_running_loop()
        self._idle: list[_Connection] = []
        self._heads: dict[tuple[bytes, bytes, Headers], bytes] = {}

    async def ask(self, method: bytes, path: bytes, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> Exchange:
        """Send a request and wait for the head of its answer. Raises Unreachable before anything was sent, Broken.

        A kept connection may have been closed by the engine at the same moment: what ends soon and before one byte
        came is asked again on a new one, once. Not where the pool was made without `again`: who answers for money may
        have begun to work all the same.
        """
        data = b"%b%d\r\n\r\n%b" % (self._begun(method, path, tuple(headers)), len(body), body)
        begun = self._loop.time()
        while True:
            kept = self._take()
            connection = kept or await self._connect()
            try:
                connection.send(data)
                return Exchange(self, connection, await connection.head())
            except Broken:
                connection.close()
                late = self._loop.time() - begun > _STALE
                if kept is None or late or not (self._again and connection.untouched):
                    raise
            except BaseException:
                connection.close()
                raise

    def _begun(self, method: bytes, path: bytes, headers: Headers) -> bytes:
        """Return the head of a request up to the length of its body; the few that there are stay made."""
        key = (method, path, headers)
        found = self._heads.get(key)
        if found is None:
            if len(self._heads) >= _HEADS:
                self._heads.clear()
            lines = [b"%b %b HTTP/1.1\r\nhost: %b\r\n" % (method, path, self.name)]
            lines += [b"%b: %b\r\n" % pair for pair in headers]
            found = self._heads[key] = b"".join((*lines, b"content-length: "))
        return found

    def give_back(self, connection: _Connection) -> None:
        """Keep a connection for the next request where it can be used again, else close it."""
        if connection.reusable and len(self._idle) < _KEPT:
            connection.since = self._loop.time()
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the idle connections; those in use end with their requests."""
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> _Connection | None:
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost and now - connection.since < _IDLE:
                return connection
            connection.close()
        return None

    async def _connect(self) -> _Connection:
        make = partial(_Connection, self._loop)
        try:
            async with asyncio.timeout(_CONNECT):
                _, connection = await self._loop.create_connection(make, self.host, self.port, ssl=self._tls)
                return connection
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(f"the certificate of {self.host} is not trusted: {error.verify_message}") from error
        except TimeoutError:
            raise Unreachable(f"{self.host}:{self.port} did not take a connection in {_CONNECT:.0f} s") from None
        except OSError as error:
            why = "nothing listens on" if isinstance(error, ConnectionRefusedError) else "there is no way to"
            raise Unreachable(f"{why} {self.host}:{self.port}") from error
