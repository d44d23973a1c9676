"""A gateway that listens, in front of an engine that answers every path as one does and keeps what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator

import uvicorn
from fakes.raw_engine import engine, request
from fakes.slots import Unbounded

from lmctl.gateway.app import Gateway, Rules
from lmctl.gateway.routing import Routes, Target
from lmctl.gateway.server import configured, listener

Asked = tuple[str, bytes]  # path and body

USAGE = {"prompt_tokens": 2, "completion_tokens": 1, "input_tokens": 2, "output_tokens": 1}
CHOICE = {"index": 0, "finish_reason": "stop", "text": "Hello.", "message": {"role": "assistant", "content": "Hello."}}
WHOLE = {"choices": [CHOICE], "data": [{"index": 0, "embedding": [0.5, 0.25]}], "usage": USAGE, "content": []}
PIECE = {"choices": [{"index": 0, "finish_reason": "stop", "text": "Hello.", "delta": {"content": "Hello."}}]}


def _answer(body: bytes) -> bytes:
    """Return an answer; to what is no JSON, the error that would otherwise be found nowhere."""
    try:
        streams = json.loads(body).get("stream") is True
    except ValueError:
        return b"HTTP/1.1 500 No JSON\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
    kind = "text/event-stream" if streams else "application/json"
    events = [f"data: {json.dumps(PIECE)}\n\n", f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n"]
    data = "".join([*events, "data: [DONE]\n\n"]) if streams else json.dumps(WHOLE)
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n\r\n{data}".encode()


@contextlib.contextmanager
def standing() -> Iterator[tuple[str, list[Asked]]]:
    """Yield the address of a gateway whose profile is `chat`, and what its engine was asked so far."""
    asked: list[Asked] = []
    front = listener("127.0.0.1", 0)
    servers: list[uvicorn.Server] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head, _, body = (await request(reader)).partition(b"\r\n\r\n")
            asked.append((head.split()[1].decode(), body))
            writer.write(_answer(body))
            await writer.drain()

    async def main() -> None:
        async with engine(talk) as (pool, _):
            routes = Routes({"chat": Target("chat", "127.0.0.1", pool.port, "served", anthropic=True)}, {}, "chat")
            gateway = Gateway(Rules(), routes, Unbounded(), lambda row: None)
            servers.append(uvicorn.Server(configured(gateway, 1.0)))
            await servers[0].serve([front])
            await gateway.close()

    thread = threading.Thread(target=asyncio.run, args=(main(),))
    thread.start()
    try:
        yield f"http://127.0.0.1:{front.getsockname()[1]}", asked
    finally:
        servers[0].should_exit = True
        thread.join(30)
        front.close()
