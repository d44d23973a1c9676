"""What the gateway adds to a request, beside nginx as a plain reverse proxy, before an engine that answers at once.

    python bench/gateway.py [--rounds 5] [--seconds 3] [--litellm /path/of/litellm]

The engine is nginx too: one fixed answer of a chat completion, with usage. Each round asks the engine itself, nginx in
front of it, lmctl's gateway in front of it (usage accounting on) and, where its program is named, LiteLLM's proxy, in
another order; at 1 and at 16 clients, each with a connection of its own that it keeps. Medians are printed with their
ratios. Needs nginx, for the peer `pip install 'litellm[proxy]'` in an environment of its own. The machine should be
idle: client, proxy and engine share it.
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


COMMON = "error_log stderr crit; user root; worker_processes 1; events { worker_connections 4096; }"
LMCTL = [sys.executable, "-m", "lmctl"]
KINDS = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def configured(folder: Path, name: str, server: str) -> list[str]:
    """Write a configuration of nginx with one server and one worker; return the argv that runs it."""
    temporary = " ".join(f"{kind}_temp_path {folder}/{name}-{kind};" for kind in KINDS)
    file = folder / f"{name}.conf"
    http = f"access_log off; keepalive_requests 100000000; {temporary} {server}"
    file.write_text(f"daemon off; pid {folder}/{name}.pid; {COMMON} http {{ {http} }}")
    return ["nginx", "-p", str(folder), "-c", str(file)]


def answering(folder: Path, port: int) -> list[str]:
    """Return the argv of the engine: one answer to everything."""
    answer = json.dumps(ANSWER)
    said = f"server {{ listen 127.0.0.1:{port}; default_type application/json; return 200 '{answer}'; }}"
    return configured(folder, "engine", said)


@contextlib.contextmanager
def proxy(folder: Path, engine: int, port: int) -> Iterator[None]:
    """Run nginx as a plain reverse proxy before the engine."""
    passed = 'proxy_pass http://e; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;'
    upstream = f"upstream e {{ server 127.0.0.1:{engine}; keepalive 64; }}"
    server = f"{upstream} server {{ listen 127.0.0.1:{port}; location / {{ {passed} }} }}"
    process = subprocess.Popen(configured(folder, "proxy", server))
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextlib.contextmanager
def applied(folder: Path, engine: list[str], listens: int, port: int) -> Iterator[int]:
    """Have lmctl run the engine and its gateway, in a home of its own, usage accounting on; the gateway's pid."""
    text = f"""
version = 1
name = "bench"
[gateway]
port = {port}
[profiles.m]
backend = "command"
command = {json.dumps(engine)}
port = {listens}
max_concurrency = 4096
"""
    (folder / "localmodels.toml").write_text(text)
    environ = {"HOME": str(folder), "PATH": os.environ["PATH"]}
    for words in (["--yes", "trust"], ["apply"]):
        subprocess.run([*LMCTL, *words], cwd=folder, env=environ, check=True, stdout=subprocess.DEVNULL)
    try:
        said = subprocess.run([*LMCTL, "status", "--json"], cwd=folder, env=environ, check=True, capture_output=True)
        yield next(row["pid"] for row in json.loads(said.stdout)["data"]["services"] if row["profile"] == "gateway")
    finally:
        subprocess.run([*LMCTL, "down"], cwd=folder, env=environ, check=False, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def litellm(folder: Path, program: str, engine: int, port: int) -> Iterator[None]:
    """Run LiteLLM's proxy before the engine, quiet and without what a plain proxy does not do."""
    told = {"model": "openai/m", "api_base": f"http://127.0.0.1:{engine}/v1", "api_key": "none"}
    file = folder / "litellm.json"  # JSON is YAML
    open_to_all = {"dangerously_permit_weak_or_unset_master_key": True}  # as the others are here
    models = [{"model_name": "m", "litellm_params": told}]
    file.write_text(json.dumps({"model_list": models, "general_settings": open_to_all}))
    environ = {**os.environ, "HOME": str(folder), "LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    argv = [program, "--config", str(file), "--host", "127.0.0.1", "--port", str(port), "--telemetry", "False"]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(argv, cwd=folder, env=environ, stdout=quiet, stderr=quiet, start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def ready(port: int) -> None:
    """Wait until somebody listens."""
    for _ in range(6000):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.02)
    raise SystemExit(f"nobody listens on {port}")


def free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def measured(ports: dict[str, int], rounds: int, seconds: float) -> dict[tuple[str, int], tuple[float, ...]]:
    """Return by name and clients the medians of requests/s, p50 and p99 in seconds."""
    found: dict[tuple[str, int], list[tuple[float, ...]]] = {}
    for number in range(rounds):
        for clients in (1, 16):
            for name in random.Random(number).sample([*ports], len(ports)):
                took = uvloop.run(asked(ports[name], clients, seconds))
                half, most = took[len(took) // 2], took[int(len(took) * 0.99)]
                found.setdefault((name, clients), []).append((len(took) / seconds, half, most))
    return {key: tuple(map(statistics.median, zip(*rounds, strict=True))) for key, rounds in found.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--litellm", metavar="PROGRAM", help="path of `litellm`, for the peer")
    options = parser.parse_args()
    names = ("engine", "nginx", "lmctl", *(["litellm"] if options.litellm else []))
    ports = {name: free() for name in names}
    with tempfile.TemporaryDirectory() as held, contextlib.ExitStack() as stack:
        folder = Path(held)
        folder.chmod(0o755)  # nginx works as another user when root starts it
        engine = answering(folder, ports["engine"])
        stack.enter_context(applied(folder, engine, ports["engine"], ports["lmctl"]))
        stack.enter_context(proxy(folder, ports["engine"], ports["nginx"]))
        if options.litellm:
            stack.enter_context(litellm(folder, options.litellm, ports["engine"], ports["litellm"]))
        for port in ports.values():
            ready(port)
        middle = measured(ports, options.rounds, options.seconds)
    print("| asked | clients | requests/s | p50, ms | p99, ms |\n| --- | ---: | ---: | ---: | ---: |")
    for (name, clients), (rate, half, most) in sorted(middle.items(), key=lambda item: item[0][1]):
        print(f"| {name} | {clients} | {rate:.0f} | {half * 1000:.3f} | {most * 1000:.3f} |")
    added = (middle["lmctl", 1][1] - middle["engine", 1][1]) * 1000
    mine = middle["lmctl", 16]
    print(f"\nadded at 1 client, at the median: {added:.3f} ms (goal: at most 0.25)")
    print(f"p99 at 16 clients: {mine[2] * 1000:.2f} ms (goal: under 5)")
    share = mine[0] / middle["nginx", 16][0]
    print(f"requests per second at 16 clients, share of nginx: {share:.2f} (goal: at least 0.3)")
    if options.litellm:
        times = mine[0] / middle["litellm", 16][0]
        print(f"requests per second at 16 clients, times those of LiteLLM: {times:.0f} (goal: at least 100)")


if __name__ == "__main__":
    main()
