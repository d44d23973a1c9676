"""Two hundred streams at once, clients that leave, an engine that is killed: everybody is told, and all adds up."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from e2e_tools import profile, until
from fakes.llama_server import install, set_mode
from prometheus_client.parser import text_string_to_metric_families

STREAMS = 200
ASKED = {"model": "storm", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Storm:
    """A gateway before a stand-in engine whose streams go on as long as it is told to."""

    def __init__(self, machine: Any, port: int, process: Any, program: Path) -> None:
        self.machine, self.port, self.process, self.program = machine, port, process, program

    def get(self, path: str) -> str:
        with _OPENER.open(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return str(answer.read().decode())

    def engine(self) -> int:
        return int(self.machine.profiles()["storm"]["pid"])

    def requests(self) -> Counter[int]:
        """Return what /metrics counts, by status."""
        found: Counter[int] = Counter()
        for family in text_string_to_metric_families(self.get("/metrics")):
            for one in family.samples:
                if one.name == "lmctl_requests_total":
                    found[int(one.labels["status"])] += int(one.value)
        return found

    def rows(self) -> Counter[int]:
        """Return what usage.db holds, by status."""
        file = self.machine.state() / "usage.db"
        with suppress(sqlite3.OperationalError), sqlite3.connect(f"file:{file}?mode=ro", uri=True) as db:
            return Counter(dict(db.execute("SELECT status, count(*) FROM request GROUP BY status").fetchall()))
        return Counter()  # there is none yet


@pytest.fixture
def storm(machine: Any, port: Callable[[], int]) -> Iterator[Storm]:
    folder = machine.home / "bin"
    folder.mkdir()
    program = install(folder)
    set_mode(program, "long_stream")
    machine.environ["PATH"] = f"{folder}:{machine.env()['PATH']}"
    machine.hello()
    number = port()
    keys = {"path": "hello.gguf", "port": port(), "max_concurrency": STREAMS, "max_queue": STREAMS}
    machine.declare(f"{profile('storm', **keys)}\n[gateway]\nport = {number}\n")
    machine.foreground()
    machine.run("apply")
    process = machine.start("gateway")
    assert "answers for storm" in process.stderr.readline()
    yield Storm(machine, number, process, program)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


async def stream(port: int, patience: float | None) -> str:
    """Ask for a stream; return how it ended: whole, an error event, a status, or left after `patience` seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = json.dumps(ASKED).encode()
        head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
        writer.write(head + b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
        try:
            async with asyncio.timeout(patience):
                answer = await reader.read(-1)
        except TimeoutError:
            return "left"
    finally:
        writer.transport.abort()
    first, _, rest = answer.partition(b"\r\n")
    status = int(first.split(b" ")[1])
    if status != 200:
        assert json.loads(rest.partition(b"\r\n\r\n")[2])["error"]["code"], rest
        return str(status)
    if b"data: [DONE]" in rest:
        return "whole"
    assert b'"error":' in rest.rpartition(b"data: ")[2], rest[-300:]
    return "cut"


def test_F83_F84_two_hundred_streams_with_clients_that_leave_and_an_engine_that_is_killed(storm):
    chance = random.Random(84)
    patience = [chance.uniform(0.1, 4.0) if chance.random() < 0.3 else None for _ in range(STREAMS)]
    gateway = psutil.Process(storm.process.pid)
    storm.get("/health")

    async def main() -> list[str]:
        streams = [asyncio.ensure_future(stream(storm.port, one)) for one in patience]
        for _ in range(2):
            await asyncio.sleep(chance.uniform(1.0, 2.0))
            pid = await asyncio.to_thread(storm.engine)
            os.kill(pid, signal.SIGKILL)
            more = [None] * 10  # while it is down, and after it came again
            streams += [asyncio.ensure_future(stream(storm.port, one)) for one in more]
        await asyncio.to_thread(until, lambda: storm.machine.profiles()["storm"]["state"] == "healthy")
        streams += [asyncio.ensure_future(stream(storm.port, None)) for _ in range(10)]
        await asyncio.sleep(1)
        set_mode(storm.program, None)  # streams come to their end
        return await asyncio.wait_for(asyncio.gather(*streams), 120)

    ends = Counter(asyncio.run(main()))
    assert sum(ends.values()) == STREAMS + 30
    assert ends["whole"] >= 10 and ends["cut"] > 0 and ends["left"] > 0, ends
    assert set(ends) <= {"whole", "cut", "left", "502", "503"}, ends
    until(lambda: sum(storm.requests().values()) == STREAMS + 30)
    counted = storm.requests()
    assert counted[200] == ends["whole"]
    # a client may leave just when its stream is cut: what the gateway knows first is what it counts
    assert 0 < counted[499] <= ends["left"]
    assert counted[502] + counted[503] == ends["cut"] + ends["502"] + ends["503"] + ends["left"] - counted[499]
    until(lambda: storm.rows() == counted)
    # nothing is left behind: no connection of a client, none to the engine but idle ones, no thread
    until(lambda: len([one for one in gateway.net_connections("tcp") if one.status == "ESTABLISHED"]) <= 1)
    assert len(gateway.children()) == 0
