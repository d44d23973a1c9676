"""What the gateway adds to a request, beside nginx as a plain reverse proxy, before an engine that answers at once.

    python bench/gateway.py [--rounds 5] [--seconds 3]

The engine is nginx too: one fixed answer of a chat completion, with usage. Each round asks the engine itself, nginx in
front of it and `lmctl gateway` in front of it, in another order; at 1 and at 16 clients, each with a connection of its
own that it keeps. Medians are printed with their ratios. Needs nginx. The machine should be idle: client, proxy and
engine share it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import uvloop

REPOSITORY = Path(__file__).resolve().parents[1]
USAGE = {"prompt_tokens": 300, "completion_tokens": 20, "total_tokens": 320}
CHOICE = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "word " * 60}}
ANSWER = {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [CHOICE], "usage": USAGE}
QUESTION = {"model": "m", "messages": [{"role": "user", "content": "word " * 220}], "temperature": 0.2}  # 1.2 kB


class Client(asyncio.Protocol):
    """Asks again as soon as it is answered, until `end`; keeps the seconds of each request."""

    def __init__(self, request: bytes, end: float, done: asyncio.Future[None]) -> None:
        self.request, self.end, self.done = request, end, done
        self.seconds: list[float] = []
        self.data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.ask()

    def ask(self) -> None:
        self.began = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, found, body = self.data.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self.done.set_exception(SystemExit(f"not answered: {self.data[:200]!r}"))
            return
        now = time.perf_counter()
        self.seconds.append(now - self.began)
        self.data = b""
        if now < self.end:
            self.ask()
        else:
            self.transport.close()
            self.done.set_result(None)


async def asked(port: int, clients: int, seconds: float) -> list[float]:
    """Return the seconds of every request that `clients` made side by side."""
    loop = asyncio.get_running_loop()
    body = json.dumps(QUESTION).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    end = time.perf_counter() + seconds
    made = [Client(request, end, loop.create_future()) for _ in range(clients)]
    for client in made:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*(client.done for client in made))
    return sorted(one for client in made for one in client.seconds)


@contextlib.contextmanager
def nginx(folder: Path, engine: int, proxy: int) -> Iterator[None]:
    """Run the engine on one port and the reverse proxy on another, each with a worker of its own."""
    common = "error_log stderr crit; worker_processes 1; events { worker_connections 1024; }"
    temporary = " ".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    http = f"access_log off; keepalive_requests 100000000; {temporary}"
    answer = json.dumps(ANSWER)
    servers = {
        "engine": f"server {{ listen 127.0.0.1:{engine}; default_type application/json; return 200 '{answer}'; }}",
        "proxy": f"upstream e {{ server 127.0.0.1:{engine}; keepalive 64; }} server {{ listen 127.0.0.1:{proxy}; "
        'location / { proxy_pass http://e; proxy_http_version 1.1; proxy_set_header Connection ""; } }',
    }
    running = []
    for name, server in servers.items():
        file = folder / f"{name}.conf"
        file.write_text(f"daemon off; pid {folder}/{name}.pid; {common} http {{ {http} {server} }}")
        running.append(subprocess.Popen(["nginx", "-p", str(folder), "-c", str(file)]))
    try:
        yield
    finally:
        for process in running:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def gateway(folder: Path, engine: int, port: int) -> Iterator[None]:
    """Run `lmctl gateway` before the engine, in a home of its own."""
    text = f"""
version = 1
name = "bench"
[gateway]
port = {port}
[profiles.m]
backend = "command"
command = ["true"]
start = "manual"
port = {engine}
max_concurrency = 64
"""
    (folder / "localmodels.toml").write_text(text)
    environ = {"HOME": str(folder), "PATH": os.environ["PATH"]}
    trust = [sys.executable, "-m", "lmctl", "--yes", "trust"]
    subprocess.run(trust, cwd=folder, env=environ, check=True, capture_output=True)
    process = subprocess.Popen([sys.executable, "-m", "lmctl", "-q", "gateway"], cwd=folder, env=environ)
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def ready(port: int) -> None:
    """Wait until somebody listens."""
    for _ in range(1000):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise SystemExit(f"nobody listens on {port}")


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    options = parser.parse_args()
    ports = {"engine": free(), "nginx": free(), "lmctl": free()}
    found: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    with tempfile.TemporaryDirectory() as held, contextlib.ExitStack() as stack:
        folder = Path(held)
        folder.chmod(0o755)  # nginx works as another user when root starts it
        stack.enter_context(nginx(folder, ports["engine"], ports["nginx"]))
        stack.enter_context(gateway(folder, ports["engine"], ports["lmctl"]))
        for port in ports.values():
            ready(port)
        for number in range(options.rounds):
            for clients in (1, 16):
                for name in random.Random(number).sample([*ports], len(ports)):
                    seconds = uvloop.run(asked(ports[name], clients, options.seconds))
                    rate = len(seconds) / options.seconds
                    held_back = (seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.99)])
                    found.setdefault((name, clients), []).append((rate, *held_back))
    print("| asked | clients | requests/s | p50, ms | p99, ms |\n| --- | ---: | ---: | ---: | ---: |")
    middle = {key: tuple(map(statistics.median, zip(*rounds, strict=True))) for key, rounds in found.items()}
    for (name, clients), (rate, half, most) in sorted(middle.items(), key=lambda item: item[0][1]):
        print(f"| {name} | {clients} | {rate:.0f} | {half * 1000:.3f} | {most * 1000:.3f} |")
    added = (middle["lmctl", 1][1] - middle["engine", 1][1]) * 1000
    share = middle["lmctl", 16][0] / middle["nginx", 16][0]
    print(f"\nadded at 1 client, at the median: {added:.3f} ms (goal: at most 0.25)")
    print(f"p99 at 16 clients: {middle['lmctl', 16][2] * 1000:.2f} ms (goal: under 5)")
    print(f"requests per second at 16 clients, share of nginx: {share:.2f} (goal: at least 0.3)")


if __name__ == "__main__":
    main()
