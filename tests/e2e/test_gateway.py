"""One address for every profile: clients of the OpenAI API with nothing but their base address changed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from e2e_tools import profile, until

KEY = "a-key-that-nobody-guesses"
HELLO = [{"role": "user", "content": "Hello"}]
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Front:
    """A gateway that runs, and a client of it."""

    def __init__(self, process: Any, port: int) -> None:
        self.process, self.port = process, port
        self.base = f"http://127.0.0.1:{port}/v1"

    def client(self, **how: Any) -> openai.OpenAI:
        return openai.OpenAI(base_url=self.base, api_key="none", max_retries=0, **how)

    def get(self, path: str, data: bytes | None = None, **headers: str) -> tuple[int, Any]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = f"http://127.0.0.1:{self.port}{path}"
        try:
            with _OPENER.open(urllib.request.Request(url, data, named), timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)


def declared(machine: Any, engine: int, more: str = "", **keys: Any) -> None:
    text = profile("hello", path="hello.gguf", port=engine, aliases=["gpt-4o"], **keys)
    machine.declare(f'{text}\n[gateway]\ndefault = "hello"\n{more}')


@pytest.fixture
def front(machine: Any, port: Callable[[], int]) -> Iterator[Front]:
    machine.hello()
    number = machine.gateway()
    declared(machine, port())
    machine.run("stop", "gateway")
    machine.run("apply")
    process = machine.start("gateway")
    assert process.stderr.readline() == f"http://127.0.0.1:{number}/v1 answers for hello\n"
    yield Front(process, number)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143


def test_the_openai_client_is_answered(front):
    with front.client() as client:
        assert [model.id for model in client.models.list()] == ["hello"]
        for name in ("hello", "gpt-4o", "default"):
            answer = client.chat.completions.create(model=name, messages=HELLO, max_tokens=32)
            assert answer.choices[0].message.content == "Hello from here."
            assert answer.usage is not None and answer.usage.completion_tokens > 0


def test_the_openai_client_streams(front):
    with front.client() as client:
        stream = client.chat.completions.create(model="hello", messages=HELLO, max_tokens=32, stream=True)
        pieces = [part.choices[0].delta.content or "" for part in stream if part.choices]
    assert "".join(pieces) == "Hello from here."
    assert len(pieces) > 2


def test_the_openai_client_is_answered_at_once_for_many(front):
    async def main() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=front.base, api_key="none", max_retries=0) as client:
            asked = (client.chat.completions.create(model="hello", messages=HELLO, max_tokens=32) for _ in range(8))
            return [answer.choices[0].message.content for answer in await asyncio.gather(*asked)]

    assert asyncio.run(main()) == ["Hello from here."] * 8


def test_the_openai_client_is_told_what_is_wrong(front):
    with front.client() as client:
        with pytest.raises(openai.NotFoundError, match="did you mean hello"):
            client.chat.completions.create(model="helo", messages=HELLO)
        with pytest.raises(openai.BadRequestError):
            client.chat.completions.create(model="hello", messages=HELLO, max_tokens=-1)


def test_an_edit_is_followed_and_a_broken_file_changes_nothing(machine, front):
    file = machine.folder / "localmodels.toml"
    good = file.read_text()
    file.write_text(good.replace("gpt-4o", "gpt-5"))
    until(lambda: front.get("/v1/models/gpt-5")[0] == 200)
    assert front.get("/v1/models/gpt-4o")[0] == 404
    file.write_text("version = ")
    assert "E-TOML" in front.process.stderr.readline()
    assert front.get("/v1/models/gpt-5")[0] == 200
    file.write_text(good)
    until(lambda: front.get("/v1/models/gpt-4o")[0] == 200)


def test_a_profile_that_is_stopped_is_503_and_one_that_starts_again_answers(machine, front):
    body = json.dumps({"messages": HELLO, "max_tokens": 32}).encode()
    machine.run("stop", "hello")
    status, said = front.get("/v1/chat/completions", body, Content_Type="application/json")
    assert (status, said["error"]["code"]) == (503, "model_not_running")
    machine.run("start", "hello")
    assert front.get("/v1/chat/completions", body, Content_Type="application/json")[0] == 200


def test_a_lock_that_cannot_be_read_keeps_nobody_from_what_runs(machine, port):
    machine.hello()
    number = machine.gateway()
    declared(machine, port())
    machine.run("stop", "gateway")
    machine.run("apply")
    lock, pid = machine.folder / "localmodels.lock", machine.profiles()["hello"]["pid"]
    good = lock.read_bytes()
    lock.write_text("<<<<<<< HEAD\n")
    process = machine.start("gateway")
    try:
        assert process.stderr.readline() == f"http://127.0.0.1:{number}/v1 answers for hello\n"
        assert "localmodels.lock" in process.stderr.readline()
        front = Front(process, number)
        body = json.dumps({"messages": HELLO, "max_tokens": 32}).encode()
        assert front.get("/v1/chat/completions", body, Content_Type="application/json")[0] == 200
        os.kill(pid, signal.SIGKILL)
        until(lambda: front.get("/v1/chat/completions", body, Content_Type="application/json")[0] == 200)
    finally:
        lock.write_bytes(good)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def test_F85_a_foreign_host_reaches_nothing(front):
    assert front.get("/v1/models", Host="evil.example")[0] == 403


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\nx: " + b"a" * (1 << 20) + b"\r\n\r\n", b"431"),
        (b"GET /v1/../admin HTTP/1.1\r\nhost: localhost\r\n\r\n", b"404"),
        (b"GET //v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n", b"404"),
        (b"GET /v1/%6dodels HTTP/1.1\r\nhost: localhost\r\n\r\n", b"404"),
        (b"CONNECT evil.example:443 HTTP/1.1\r\nhost: localhost\r\n\r\n", b"40"),
        (
            b"POST /v1/rerank HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}",
            b"400",
        ),
        (b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\na: b\r\n c: d\r\n\r\n", b"400"),
        (b"nonsense\r\n\r\n", b"400"),
    ],
    ids=["1 MiB header", "dots", "slashes", "percent", "connect", "two lengths", "folded", "nonsense"],
)
def test_I124_I125_a_request_that_is_none_is_refused(front, sent, status):
    with socket.create_connection(("127.0.0.1", front.port), timeout=60) as connection:
        connection.sendall(sent)
        assert connection.recv(64).startswith(b"HTTP/1.1 " + status)
    assert front.get("/health")[0] == 200


def test_keys_are_asked_where_this_machine_says_so(machine, port):
    config = machine.home / ".config/lmctl"
    config.mkdir(parents=True)
    keys = config / "keys"
    keys.write_text(f"# ours\n{KEY}\n")
    (config / "machine.toml").write_text(f'[gateway]\napi_keys_file = "{keys}"\n')
    machine.hello()
    number = machine.gateway()
    declared(machine, port(), start="manual")
    keys.chmod(0o644)
    refused = machine.run("gateway", code=8)
    assert "E-PERM" in refused.err and KEY not in refused.err
    keys.chmod(0o600)
    process = machine.start("gateway")
    process.stderr.readline()
    front = Front(process, number)
    try:
        assert front.get("/v1/models")[0] == 401
        assert front.get("/v1/models", Authorization="Bearer wrong")[0] == 401
        assert front.get(f"/v1/models?key={KEY}")[0] == 401
        assert front.get("/v1/models", Authorization=f"Bearer {KEY}")[0] == 200
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 130


def test_a_port_that_is_taken_is_told(machine, port):
    machine.hello()
    number = machine.gateway()
    declared(machine, port(), start="manual")
    with socket.create_server(("127.0.0.1", number)):
        refused = machine.run("gateway", code=9)
    assert f"error[E-PORT]: the gateway cannot listen on 127.0.0.1:{number}" in refused.err


def test_an_address_that_others_reach_needs_keys(machine, port):
    (machine.home / ".config/lmctl").mkdir(parents=True)
    (machine.home / ".config/lmctl/machine.toml").write_text('bind = "0.0.0.0"\n')
    machine.hello()
    machine.gateway()
    declared(machine, port(), start="manual")
    assert "E-BIND" in machine.run("gateway", code=65).err


def test_keys_that_come_late_and_a_mode_that_is_mended_count_at_once(machine, front):
    config = machine.home / ".config/lmctl"
    config.mkdir(parents=True)
    keys = config / "keys"
    (config / "machine.toml").write_text(f'[gateway]\napi_keys_file = "{keys}"\n')
    assert "does not exist" in front.process.stderr.readline()
    keys.write_text(f"{KEY}\n")
    keys.chmod(0o644)
    assert "can be read by others" in front.process.stderr.readline()
    assert front.get("/v1/models")[0] == 200, "everything stays as it was"
    keys.chmod(0o600)
    until(lambda: front.get("/v1/models")[0] == 401)
    assert front.get("/v1/models", Authorization=f"Bearer {KEY}")[0] == 200
