"""The stand-in for llama-server: it refuses what the real one refuses, and every fault it is asked for happens."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes import llama_server
from fakes.ports import free_port

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "m.gguf").touch()
    return llama_server.install(tmp_path)


@pytest.fixture
def start(program: Path) -> Iterator[Start]:
    begun: list[subprocess.Popen[bytes]] = []

    def run(mode: str | None = None, port: int = 0, alias: str = "chat") -> subprocess.Popen[bytes]:
        llama_server.set_mode(program, mode)
        flags = ["--model", str(program.with_name("m.gguf")), "--alias", alias, "--host", "127.0.0.1"]
        with program.with_name("log").open("ab") as log:
            command = [program, *flags, "--port", str(port), "--parallel", "2"]
            begun.append(subprocess.Popen(command, stderr=log, start_new_session=True))
        return begun[-1]

    yield run
    for process in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def log(program: Path) -> bytes:
    return program.with_name("log").read_bytes()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def ask(port: int, path: str, body: object = None, patience: float = 60.0) -> tuple[int, str]:
    """Return status and text of an answer; status 0 when there is none within `patience` seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=patience)
    try:
        connection.request("POST" if body else "GET", path, json.dumps(body) if body else None)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def test_it_serves(start: Start) -> None:
    port = free_port()
    start(port=port)
    until(lambda: ask(port, "/health")[0] == 200)
    assert json.loads(ask(port, "/v1/models")[1])["data"][0]["id"] == "chat"
    assert "Hello from chat." in ask(port, "/v1/chat/completions", {"messages": []})[1]
    assert ask(port, "/v1/chat/completions", {"stream": True})[1].endswith("data: [DONE]\n\n")
    assert ask(port, "/metrics")[0] == 200


@pytest.mark.parametrize(
    ("mode", "status"),
    [("crash_at_start", 1), ("crash_at_start=0", 0), ("oom", -9), ("segv", -11), ("crash_in=0.01", 1)],
)
def test_it_ends(mode: str, status: int, start: Start) -> None:
    assert start(mode).wait(60) == status


def test_it_ends_with_a_request(start: Start) -> None:
    port = free_port()
    process = start("crash_after=2", port)
    until(lambda: ask(port, "/health")[0] == 200)
    assert ask(port, "/v1/chat/completions", {"messages": []})[0] == 200
    assert ask(port, "/v1/chat/completions", {"messages": []})[0] == 0
    assert process.wait(60) == 1


def test_it_loads_as_long_as_it_is_told(start: Start, program: Path) -> None:
    port = free_port()
    start("slow_load", port)
    until(lambda: ask(port, "/health")[0] == 503)
    assert "Loading model" in ask(port, "/v1/models")[1]
    llama_server.set_mode(program, None)
    until(lambda: ask(port, "/health")[0] == 200)


def test_it_is_somebody_else(start: Start) -> None:
    port = free_port()
    start("wrong_model", port)
    until(lambda: ask(port, "/health")[0] == 200)
    assert "somebody-else" in ask(port, "/v1/models")[1]


def test_it_hangs(start: Start, program: Path) -> None:
    port = free_port()
    start("hang", port)
    until(lambda: b"model loaded" in log(program))
    assert ask(port, "/health", patience=0.3) == (0, "")


def test_it_ignores_a_request_to_end(start: Start, program: Path) -> None:
    process = start("ignore_term")
    until(lambda: b"model loaded" in log(program))
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)


def test_it_leaves_a_grandchild(start: Start, program: Path) -> None:
    process = start("fork_grandchild")
    until(lambda: b"model loaded" in log(program))
    child = int(log(program).split(b"grandchild ")[1].split()[0])
    process.terminate()
    process.wait(60)
    assert os.getpgid(child) == process.pid


@pytest.mark.parametrize(("mode", "seen"), [("binary_log", b"\x1b[31mred\x1b]0;title\x07\0\xff"), ("spew=1", b"srv  ")])
def test_its_log(mode: str, seen: bytes, start: Start, program: Path) -> None:
    start(mode)
    until(lambda: b"model loaded" in log(program) and seen in log(program))


def test_one_model_alone_misbehaves(start: Start, program: Path) -> None:
    llama_server.set_mode(program, "crash_at_start=7", alias="other")
    assert start(alias="other").wait(60) == 7
    start(alias="chat")
    until(lambda: log(program).count(b"model loaded") == 1)


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--draft-max", "3"], "error: invalid argument: --draft-max"),
        (["--ctx-size"], 'error while handling argument "--ctx-size": expected value for argument'),
        (["--model", "/nowhere", "--host", "127.0.0.1", "--port", "0"], "failed to open GGUF file"),
    ],
)
def test_it_refuses(flags: list[str], says: str, program: Path) -> None:
    run = subprocess.run([program, *flags], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert says in run.stderr
