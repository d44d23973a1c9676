"""Connections to engines and clouds: kept open, one request at a time each, bytes passed on as they come."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from functools import partial

from lmctl.gateway.connection import Broken, Connection, Cut, Head, Headers

_IDLE = 4.0  # seconds after which a connection is not used again: engines close theirs after 5
_STALE = 5.0  # seconds in which a connection that was closed before the request tells so, on a busy machine too
_KEPT = 64  # idle connections of one engine
_CONNECT = 10.0  # seconds in which a connection must stand
_HEADS = 64  # heads of requests that are kept made


class Unreachable(Exception):
    """There is no connection to where the engine should listen: the request was not sent."""


class Exchange:
    """One request under way. Use it as a context: leaving before the body ended closes the connection."""

    def __init__(self, pool: Pool, connection: Connection, head: Head) -> None:
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
        self._idle: list[Connection] = []
        self._closed = False
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
            except Broken as error:
                connection.close()
                late = self._loop.time() - begun > _STALE
                if late or not (self._again and connection.untouched):
                    raise
                if kept is None:
                    raise Cut(str(error)) from error
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

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next request where it can be used again, else close it."""
        if connection.reusable and len(self._idle) < _KEPT and not self._closed:
            connection.since = self._loop.time()
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the idle connections; those in use end with their requests."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    def _take(self) -> Connection | None:
        now = self._loop.time()
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost and now - connection.since < _IDLE:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        make = partial(Connection, self._loop)
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
