"""Connections of clients: how long one may say nothing, what counts as headers, and what is said in which order."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from uvicorn.server import ServerState

from lmctl.gateway import client_connection, server
from lmctl.gateway.client_connection import Connection, Corked
from lmctl.gateway.server import configured

ASK = b"GET /%d HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
SEND = b"POST /%d HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: %d\r\n\r\n"
SHORT = 0.2  # seconds that stand for the time that a client is given

Pipe = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Echo:
    """Answers with the path once the body is whole; `/0` waits until it may."""

    def __init__(self) -> None:
        self.may, self.asked = asyncio.Event(), asyncio.Event()
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """ASGI's entry."""
        self.asked.set()
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body")
        self.bodies.append(body)
        if scope["path"] == "/0":
            await self.may.wait()
        said = scope["path"].encode()
        headers = [(b"content-length", b"%d" % len(said))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": said})


@contextlib.asynccontextmanager
async def connected(app: Echo) -> AsyncIterator[Pipe]:
    """Yield one connection to a server of `app`."""
    config, state = configured(app, 1.0), ServerState()  # type: ignore[arg-type]
    config.load()

    def made() -> Connection:
        return Connection(config=config, server_state=state, app_state={})

    serving = await asyncio.get_running_loop().create_server(made, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*serving.sockets[0].getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        serving.close()


async def said(reader: asyncio.StreamReader) -> bytes:
    """Return the first line and the body of one answer."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    first, *rest = head.split(b"\r\n")
    length = next(int(line.partition(b":")[2]) for line in rest if line.lower().startswith(b"content-length:"))
    return first + b" " + await reader.readexactly(length)


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"\r\n\r\n", b"G"])
def test_F84_a_connection_on_which_no_request_comes_is_closed(monkeypatch, sent):
    monkeypatch.setattr(client_connection, "_HEADERS_TIME", SHORT)

    async def main() -> bytes:
        async with connected(Echo()) as (reader, writer):
            writer.write(sent)
            return await asyncio.wait_for(reader.read(), 10)

    assert asyncio.run(main())[:12] == (b"HTTP/1.1 408" if sent == b"G" else b"")


@pytest.mark.parametrize("sent", [b"", b"\r\n"])
def test_F84_a_connection_that_idles_is_closed_whatever_blank_lines_come(monkeypatch, sent):
    monkeypatch.setattr(server, "_KEPT_ALIVE", 1)

    async def main() -> bytes:
        async with connected(Echo()) as (reader, writer):
            writer.write(ASK % 1)
            assert await said(reader) == b"HTTP/1.1 200 OK /1"
            writer.write(sent)
            return await asyncio.wait_for(reader.read(), 10)

    assert asyncio.run(main()) == b""


def test_I125_a_long_body_is_no_part_of_the_next_requests_headers():
    async def main() -> list[bytes]:
        async with connected(Echo()) as (reader, writer):
            size = 4 * client_connection.HEADERS
            writer.write(SEND % (1, size))
            for _ in range(4):
                writer.write(b" " * (size // 4))
                await asyncio.sleep(0.02)
            answers = [await said(reader)]
            ask = ASK % 2
            writer.write(ask[:9])
            await asyncio.sleep(0.05)
            writer.write(ask[9:])
            return [*answers, await said(reader)]

    assert asyncio.run(main()) == [b"HTTP/1.1 200 OK /1", b"HTTP/1.1 200 OK /2"]


def test_a_request_behind_another_one_may_wait_for_it_longer_than_a_body_may_stall(monkeypatch):
    monkeypatch.setattr(client_connection, "_BODY_TIME", SHORT)

    async def main() -> list[bytes]:
        app = Echo()
        async with connected(app) as (reader, writer):
            writer.write(ASK % 0)
            await app.asked.wait()
            writer.write(SEND % (1, 4) + b"ab")
            await asyncio.sleep(SHORT / 4)
            writer.write(b"cd")
            await asyncio.sleep(3 * SHORT)
            app.may.set()
            return [await said(reader), await said(reader)]

    assert asyncio.run(main()) == [b"HTTP/1.1 200 OK /0", b"HTTP/1.1 200 OK /1"]


@pytest.mark.parametrize("sent", [b"no HTTP at all\r\n\r\n", ASK % 1 + b"\x00\r\n\r\n", SEND % (1, 4) + b"ab" + b"x"])
def test_what_is_wrong_with_a_later_request_is_not_told_as_the_answer_to_an_earlier_one(monkeypatch, sent):
    monkeypatch.setattr(client_connection, "_HEADERS_TIME", SHORT)

    async def main() -> bytes:
        app = Echo()
        async with connected(app) as (reader, writer):
            writer.write(ASK % 0)
            await app.asked.wait()
            writer.write(sent)
            asyncio.get_running_loop().call_later(4 * SHORT, app.may.set)
            return await asyncio.wait_for(reader.read(999), 10)

    assert asyncio.run(main()) in (b"", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n/0")


UPGRADE = b"upgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAABAAMAAABk\r\nconnection: Upgrade, HTTP2-Settings\r\n"


@pytest.mark.parametrize("parts", [1, 2, 7])
@pytest.mark.parametrize("upgrade", [UPGRADE, UPGRADE.replace(b"h2c", b"websocket")], ids=["h2c", "websocket"])
def test_a_client_that_would_rather_speak_another_protocol_is_answered_all_the_same(upgrade, parts):
    """As Java's own client would: it offers HTTP/2 with every request, and sends its body along."""

    async def main() -> tuple[list[bytes], list[bytes]]:
        app = Echo()
        async with connected(app) as (reader, writer):
            asks = SEND.replace(b"\r\n\r\n", b"\r\n" + upgrade + b"\r\n") % (1, 9) + b"some body" + ASK % 2
            size = -(-len(asks) // parts)
            for at in range(0, len(asks), size):
                writer.write(asks[at : at + size])
                await asyncio.sleep(0.01)
            return [await said(reader), await said(reader)], app.bodies

    assert asyncio.run(main()) == ([b"HTTP/1.1 200 OK /1", b"HTTP/1.1 200 OK /2"], [b"some body", b""])


def test_a_tunnel_is_refused():
    async def main() -> bytes:
        async with connected(Echo()) as (reader, writer):
            writer.write(b"CONNECT 127.0.0.1:80 HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n" + ASK % 1)
            return await asyncio.wait_for(reader.read(), 10)

    assert asyncio.run(main()).startswith(b"HTTP/1.1 400 ")


class Written:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.data = b""
        self.is_closing = self.pause_reading = self.resume_reading = lambda: None

    def write(self, data: bytes) -> None:
        """Keep it."""
        self.data += data


def test_what_is_kept_goes_out_before_what_is_kept_next():
    async def main() -> bytes:
        below = Written()
        above = Corked(below, asyncio.get_running_loop())  # type: ignore[arg-type]
        for part in (b"the head of one answer, ", b"and of another one"):
            above.hold()
            above.write(part)
        await asyncio.sleep(0)
        return below.data

    assert asyncio.run(main()) == b"the head of one answer, and of another one"
