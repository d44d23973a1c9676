"""Connections to engines: kept, cut, slow, and answers that are none."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from fakes.raw_engine import OK, answering, engine, request

from lmctl.gateway.connection import HEADERS, Broken, Connection
from lmctl.gateway.upstream import Pool, Unreachable


async def asked(pool: Pool, limit: int = 1 << 20) -> tuple[int, bytes]:
    async with await pool.ask(b"POST", b"/v1/x", [(b"content-type", b"application/json")], b'{"a":1}') as exchange:
        return exchange.head.status, await exchange.body(limit)


def test_what_is_asked_arrives_whole():
    async def main() -> bytes:
        told: list[bytes] = []

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            told.append(await request(reader))
            writer.write(OK)

        async with engine(talk) as (pool, _):
            assert await asked(pool) == (200, b"{}")
        return told[0]

    head, _, body = asyncio.run(main()).partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    assert first == b"POST /v1/x HTTP/1.1"
    assert {b"content-type: application/json", b"content-length: 7"} <= {*lines}
    assert body == b'{"a":1}'


def test_a_connection_is_used_again():
    async def main() -> int:
        async with engine(answering(OK, OK, OK)) as (pool, seen):
            for _ in range(3):
                assert await asked(pool) == (200, b"{}")
            return seen[0]

    assert asyncio.run(main()) == 1


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}", b"HTTP/1.1 200 OK\r\n\r\n{}"],
    ids=["said", "until its end"],
)
def test_a_connection_that_ends_with_its_answer_is_not(answer):
    async def main() -> int:
        async with engine(answering(answer)) as (pool, seen):
            assert [await asked(pool), await asked(pool)] == [(200, b"{}")] * 2
            return seen[0]

    assert asyncio.run(main()) == 2


def test_a_kept_connection_that_the_engine_closed_is_replaced():
    async def main() -> int:
        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            writer.write(OK)
            await reader.readexactly(1)  # the next request has begun: too late for it

        async with engine(talk) as (pool, seen):
            assert [await asked(pool), await asked(pool)] == [(200, b"{}")] * 2
            return seen[0]

    assert asyncio.run(main()) == 2


def test_chunks_pass_as_they_come():
    async def main() -> list[bytes]:
        go = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
            await go.wait()  # the second comes only once the first was seen
            writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

        async with engine(talk) as (pool, _), await pool.ask(b"POST", b"/", [], b"") as exchange:
            found = []
            async for chunk in exchange.chunks():
                found.append(chunk)
                go.set()
            return found

    assert asyncio.run(main()) == [b"one", b"two"]


def test_an_interim_answer_is_passed_over():
    async def main() -> tuple[int, bytes]:
        async with engine(answering(b"HTTP/1.1 100 Continue\r\n\r\n" + OK)) as (pool, _):
            return await asked(pool)

    assert asyncio.run(main()) == (200, b"{}")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nx: " + b"a" * HEADERS + b"\r\n" * 2,
        b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n" + b"a" * 2_000_000,
    ],
    ids=[
        "nothing",
        "no HTTP",
        "too short",
        "no last chunk",
        "no chunk",
        "another protocol",
        "long headers",
        "too long",
    ],
)
def test_I128_an_answer_that_is_none_is_told_apart(answer):
    async def main() -> None:
        async with engine(answering(answer)) as (pool, _):
            with pytest.raises(Broken):
                await asked(pool)

    asyncio.run(main())


def test_an_engine_that_is_not_there_was_asked_nothing():
    async def main() -> None:
        async with engine(answering()) as (pool, _):
            port = pool.port
        with pytest.raises(Unreachable, match=str(port)):
            await asked(Pool("127.0.0.1", port))

    asyncio.run(main())


def test_F83_an_answer_that_nobody_wants_any_more_ends_the_connection():
    async def main() -> None:
        gone = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
            with contextlib.suppress(ConnectionError):
                await reader.read()
            gone.set()

        async with engine(talk) as (pool, _):
            async with await pool.ask(b"POST", b"/", [], b"") as exchange:
                async for _chunk in exchange.chunks():
                    break
            await asyncio.wait_for(gone.wait(), 10)

    asyncio.run(main())


def test_a_slow_client_does_not_fill_the_memory():
    async def main() -> int:
        sent = [0]

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            for _ in range(1024):
                writer.write(bytes(64 << 10))
                await writer.drain()
                sent[0] += 64 << 10

        async with engine(talk) as (pool, _), await pool.ask(b"POST", b"/", [], b"") as exchange:
            before = -1
            while sent[0] != before:  # until nothing moves any more: 64 MiB are on offer, and nobody takes them
                before = sent[0]
                await asyncio.sleep(0.2)
            stalled = sent[0]
            assert sum([len(chunk) async for chunk in exchange.chunks()]) == 64 << 20
            return stalled

    assert asyncio.run(main()) < 32 << 20


def test_a_connection_of_a_pool_that_was_closed_meanwhile_ends_with_its_request():
    async def main() -> None:
        ended = asyncio.Event()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            writer.write(OK)
            await reader.read()
            ended.set()

        async with engine(talk) as (pool, _):
            async with await pool.ask(b"POST", b"/v1/x", (), b"{}") as exchange:
                pool.close()
                assert await exchange.body(9) == b"{}"
            await asyncio.wait_for(ended.wait(), 5)

    asyncio.run(main())


class Deaf(asyncio.Transport):
    """A transport on which nobody is."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = True

    def write(self, data: object) -> None:
        """Nobody hears it."""

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


@pytest.mark.parametrize("size", [9, 1 << 20])
def test_a_connection_on_which_reading_was_paused_for_an_answer_that_nobody_read_is_not_used_again(size):
    async def main() -> bool:
        transport, connection = Deaf(), Connection(asyncio.get_running_loop())
        connection.connection_made(transport)
        connection.send(b"")
        connection.data_received(b"HTTP/1.1 500 Oops\r\ncontent-length: %d\r\n\r\n" % size + b"x" * size)
        assert connection.reusable <= transport.reads
        return connection.reusable

    assert asyncio.run(main()) is (size == 9)
