"""Streams through the gateway, beside nginx as a plain reverse proxy, from an engine that writes without a pause.

    python bench/streams.py [--rounds 5] [--seconds 3] [--streams 64] [--idle 1000]

The engine is a stand-in: it writes one event to every open stream, then the next, as fast as they are taken. Clients
count the events that reach them: from the engine itself, through nginx (unbuffered) and through `lmctl gateway`, in
another order each round. At the end so many streams are opened and fall silent after their first event: what the
gateway's memory is then. Needs nginx. The machine should be idle: client, proxy and engine share it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NoReturn, cast

import psutil
import uvloop
from gateway import applied, free, proxy, ready

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
DELTA = {
    "id": "1",
    "object": "chat.completion.chunk",
    "created": 0,
    "model": "m",
    "choices": [{"delta": {"content": "word "}}],
}
EVENT = b"data: " + json.dumps(DELTA).encode() + b"\n\n"
CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)


class Stream(asyncio.Protocol):
    """The engine's side of one stream; the request says whether it is to fall silent."""

    open: set[Stream] = set()  # noqa: RUF012 of the whole process

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.flows = True

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET"):  # lmctl asks how it is
            self.transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        elif b"idle" in data:
            self.transport.write(HEAD + CHUNK)
        elif b"{" in data:
            self.transport.write(HEAD)
            self.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open.discard(self)

    def pause_writing(self) -> None:
        self.flows = False

    def resume_writing(self) -> None:
        self.flows = True


def engine(port: int) -> NoReturn:
    """Write to every open stream in turn, for ever."""

    async def main() -> None:
        await asyncio.get_running_loop().create_server(Stream, "127.0.0.1", port, backlog=2048)
        while True:
            for stream in [one for one in Stream.open if one.flows]:
                stream.transport.write(CHUNK)
            await asyncio.sleep(0 if Stream.open else 0.01)

    uvloop.run(main())
    raise SystemExit


class Reader(asyncio.Protocol):
    """Counts the events of one stream."""

    def __init__(self, request: bytes) -> None:
        self.request, self.events, self.begun = request, 0, asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.events += data.count(b"data: ")
        if self.events and not self.begun.done():
            self.begun.set_result(None)


async def opened(port: int, count: int, user: str) -> list[Reader]:
    """Open so many streams and wait until each has begun."""
    question = {"model": "m", "messages": [{"role": "user", "content": user}], "stream": True}
    body = json.dumps(question).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Reader(request), "127.0.0.1", port) for _ in range(count)]
    readers = [reader for _, reader in made]
    async with asyncio.timeout(120):
        await asyncio.gather(*(reader.begun for reader in readers))
    return readers


async def flowed(port: int, count: int, seconds: float) -> float:
    """Return the events a second that reach `count` clients."""
    readers = await opened(port, count, "go on")
    before, begun = sum(reader.events for reader in readers), time.perf_counter()
    await asyncio.sleep(seconds)
    rate = (sum(reader.events for reader in readers) - before) / (time.perf_counter() - begun)
    for reader in readers:
        reader.transport.abort()
    return rate


async def silent(port: int, count: int, process: psutil.Process) -> tuple[int, int]:
    """Return the gateway's resident bytes before and while `count` streams are open and silent."""
    before = process.memory_info().rss
    readers = await opened(port, count, "idle")
    await asyncio.sleep(1)
    after = process.memory_info().rss
    for reader in readers:
        reader.transport.abort()
    return before, after


def _many_files() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for flag, usual in (("--rounds", 5), ("--streams", 64), ("--idle", 1000)):
        parser.add_argument(flag, type=int, default=usual)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--engine", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    _many_files()
    if options.engine:
        engine(options.engine)
    ports = {"engine": free(), "nginx": free(), "lmctl": free()}
    found: dict[str, list[float]] = {name: [] for name in ports}
    with tempfile.TemporaryDirectory() as held, contextlib.ExitStack() as stack:
        folder = Path(held)
        folder.chmod(0o755)  # nginx works as another user when root starts it
        argv = [sys.executable, __file__, "--engine", str(ports["engine"])]
        process = psutil.Process(stack.enter_context(applied(folder, argv, ports["engine"], ports["lmctl"])))
        stack.enter_context(proxy(folder, ports["engine"], ports["nginx"]))
        for port in ports.values():
            ready(port)
        for number in range(options.rounds):
            for name in random.Random(number).sample([*ports], len(ports)):
                found[name].append(uvloop.run(flowed(ports[name], options.streams, options.seconds)))
        before, after = uvloop.run(silent(ports["lmctl"], options.idle, process))
    middle = {name: statistics.median(rates) for name, rates in found.items()}
    print(f"| {options.streams} streams from | events/s |\n| --- | ---: |")
    for name, rate in middle.items():
        print(f"| {name} | {rate:.0f} |")
    print(f"\nevents per second, share of nginx: {middle['lmctl'] / middle['nginx']:.2f} (goal: at least 0.3)")
    print(
        f"memory with {options.idle} silent streams: {after / 1e6:.0f} MB, {before / 1e6:.0f} before (goal: under 150)"
    )


if __name__ == "__main__":
    main()
