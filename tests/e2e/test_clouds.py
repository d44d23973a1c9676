"""Requests that leave the machine: only to a cloud that its owner trusts, with a key that nothing else ever sees."""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from e2e_tools import profile, until
from fakes.cloud import SENTENCE, USAGE, Cloud

KEY = "sk-KEYCANARY-of-the-cloud-0123456789"
PRICES = "price_in = 2\nprice_out = 8"
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture
def cloud() -> Iterator[Cloud]:
    with Cloud() as cloud:
        yield cloud


@pytest.fixture
def seen(machine: Any) -> Iterator[None]:
    """After the test the key is in none of the files that lmctl wrote, and in nothing that it printed."""
    yield
    kept = [path for path in (machine.home / ".local", machine.home / ".cache", machine.folder) if path.exists()]
    files = [path for folder in kept for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if b"KEYCANARY" in path.read_bytes()]
    assert not [text for text in machine.said if "KEYCANARY" in text]


def declare(machine: Any, number: int, engine: int, url: str, more: str = "") -> None:
    """Declare a profile that is stopped, and a cloud behind it."""
    machine.hello()
    hello = profile("hello", path="hello.gguf", port=engine, start="manual", fallback=["big"], tasks=["greet"])
    text = f'{hello}\n[gateway]\nport = {number}\n[cloud.big]\nbase_url = "{url}"\nmodel = "large"\n{more}'
    machine.declare(f'{text}\n[router]\ncloud = "big"\n')
    machine.foreground()


def key_file(machine: Any, mode: int = 0o600) -> str:
    path = machine.home / "keys" / "big"
    path.parent.mkdir()
    path.write_text(f"{KEY}\n")
    path.chmod(mode)
    return 'key_file = "~/keys/big"'


@contextlib.contextmanager
def gateway(machine: Any, number: int) -> Iterator[tuple[openai.OpenAI, Any]]:
    """A gateway that runs, and what it said first."""
    process = machine.start("gateway")
    first = process.stderr.readline()
    assert "answers for" in first, first + process.stderr.read()
    try:
        with openai.OpenAI(base_url=f"http://127.0.0.1:{number}/v1", api_key="none", max_retries=0) as client:
            yield client, process
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def ask(client: openai.OpenAI, model: str, **headers: str) -> tuple[str, str, str | None]:
    """Return what was answered, where, and why there."""
    said = client.chat.completions.with_raw_response.create(
        model=model, messages=HELLO, max_tokens=32, extra_headers=headers
    )
    headers_of = said.headers
    content = said.parse().choices[0].message.content
    return str(content), headers_of["x-lmctl-target"], headers_of.get("x-lmctl-why")


def test_a_pulled_repository_sends_nothing_anywhere(machine, cloud, port):
    number = port()
    declare(machine, number, port(), f"http://127.0.0.1:{cloud.port}/v1", 'key_env = "HF_TOKEN"')
    for command in ("validate", "plan"):
        assert "warning[W-TRUST]" in machine.run(command).err
    shown = machine.run("trust", "--show").out
    assert f"base_url=http://127.0.0.1:{cloud.port}/v1" in shown and "key_env=HF_TOKEN" in shown
    with gateway(machine, number) as (client, process):
        assert "cloud big is not asked: it is not trusted on this machine" in process.stderr.readline()
        assert [model.id for model in client.models.list()] == ["hello", "auto"]
        with pytest.raises(openai.PermissionDeniedError, match="lmctl trust"):
            ask(client, "cloud:big")
        for model in ("hello", "auto"):
            with pytest.raises(openai.InternalServerError, match="hello does not run"):
                ask(client, model, **{"X-Lmctl-Complexity": "1"})
    assert cloud.connections == 0


def test_a_profile_that_is_down_is_answered_by_the_cloud_that_is_trusted(machine, cloud, port, seen):
    number = port()
    declare(machine, number, port(), f"http://127.0.0.1:{cloud.port}/v1", f"{key_file(machine)}\n{PRICES}")
    machine.run("--yes", "trust")
    with gateway(machine, number) as (client, _):
        assert [model.owned_by for model in client.models.list()] == ["lmctl", "lmctl", "cloud:big"]
        assert ask(client, "hello") == (SENTENCE, "cloud:big", "fallback: model_not_running")
        assert ask(client, "cloud:big") == (SENTENCE, "cloud:big", None)
        stream = client.chat.completions.create(model="hello", messages=HELLO, stream=True)
        assert [part.choices[0].delta.content for part in stream] == SENTENCE.split(" ")
        machine.run("--offline", "apply")
        machine.run("start", "hello")
        until(lambda: ask(client, "hello") == ("Hello from here.", "local:hello", None))
        assert ask(client, "auto")[1] == "local:hello"
        assert ask(client, "auto", **{"X-Lmctl-Task": "greet"})[2] == "auto: task greet, score 0.00"
        assert ask(client, "auto", **{"X-Lmctl-Complexity": "0.9"}) == (SENTENCE, "cloud:big", "auto: score 0.90")
    routing = machine.run("usage", "--routing", "--json").data["routing"]
    targets = {one["target"]: (one["requests"], one["usd"]) for one in routing["targets"]}
    away = len(cloud.asked)
    assert targets == {"local": (3, 0.0), "cloud:big": (away, pytest.approx(away * (21 * 2 + 4 * 8) / 1e6))}
    assert {asked["headers"]["authorization"] for asked in cloud.asked} == {f"Bearer {KEY}"}
    assert {(asked["path"], asked["body"]["model"]) for asked in cloud.asked} == {("/v1/chat/completions", "large")}
    with contextlib.closing(sqlite3.connect(machine.state() / "usage.db")) as database:
        columns = "profile, model, target, tokens_in, tokens_out, status"
        rows = database.execute(f"select {columns} from request order by at").fetchall()
    away = ("large", "cloud:big", USAGE["prompt_tokens"], USAGE["completion_tokens"], 200)
    assert [rows[0], rows[1], rows[2], rows[-1]] == [
        ("hello", *away),
        (None, *away),
        ("hello", *away),
        ("hello", *away),
    ]
    assert [row[2] for row in rows[-4:]] == ["local", "local", "local", "cloud:big"]


def test_what_finds_the_queue_full_is_answered_by_the_cloud(machine, cloud, port):
    number = port()
    declare(machine, number, port(), f"http://127.0.0.1:{cloud.port}/v1")
    file = machine.folder / "localmodels.toml"
    file.write_text(file.read_text().replace('start = "manual"', "max_concurrency = 1\nmax_queue = 0"))
    machine.run("--yes", "trust")
    machine.run("apply")
    with gateway(machine, number) as (client, _), ThreadPoolExecutor(16) as pool:
        until(lambda: ask(client, "hello")[1] == "local:hello")  # it has been seen to run
        answers = Counter(pool.map(lambda _: ask(client, "hello"), range(32)))
    here, away = ("Hello from here.", "local:hello", None), (SENTENCE, "cloud:big", "fallback: queue_full")
    assert set(answers) == {here, away}


def test_a_key_of_the_environment_is_used_and_kept_nowhere(machine, cloud, port, seen):
    number = port()
    declare(machine, number, port(), f"http://127.0.0.1:{cloud.port}/v1", 'key_env = "BIG_KEY"')
    machine.run("--yes", "trust")
    with gateway(machine, number) as (client, process):
        assert "the variable BIG_KEY is not set" in process.stderr.readline()
        with pytest.raises(openai.InternalServerError, match=r"BIG_KEY is not set.*key_file"):
            ask(client, "cloud:big")
    assert cloud.connections == 0
    machine.environ["BIG_KEY"] = KEY
    with gateway(machine, number) as (client, _):
        assert ask(client, "cloud:big")[0] == SENTENCE
    assert cloud.asked[0]["headers"]["authorization"] == f"Bearer {KEY}"


def test_a_supervised_gateway_gets_the_key_of_the_shell_that_started_supervisord(machine, cloud, port, seen):
    declare(machine, port(), port(), f"http://127.0.0.1:{cloud.port}/v1", 'key_env = "BIG_KEY"')
    machine.run("--yes", "trust")
    machine.environ["BIG_KEY"] = KEY
    number = machine.gateway()
    machine.run("apply")
    machine.run("start", "gateway")
    with openai.OpenAI(base_url=f"http://127.0.0.1:{number}/v1", api_key="none", max_retries=0) as client:
        assert ask(client, "hello") == (SENTENCE, "cloud:big", "fallback: model_not_running")
        machine.run("start", "hello")
        until(lambda: ask(client, "hello")[1] == "local:hello")
        assert cloud.asked[0]["headers"]["authorization"] == f"Bearer {KEY}"
        holders = [process.cmdline() for process in machine.processes() if "BIG_KEY" in process.environ()]
        assert sorted(argv[-1] for argv in holders) == ["gateway", "supervisord.conf"]
        machine.run("down")
        del machine.environ["BIG_KEY"]
        machine.run("apply")
        with pytest.raises(openai.InternalServerError, match="BIG_KEY is not set"):
            ask(client, "cloud:big")


def test_a_key_that_others_can_read_is_not_used_until_it_is_mended(machine, cloud, port, seen):
    number = port()
    declare(machine, number, port(), f"http://127.0.0.1:{cloud.port}/v1", key_file(machine, 0o644))
    machine.run("--yes", "trust")
    with gateway(machine, number) as (client, process):
        assert "can be read by others" in process.stderr.readline()
        with pytest.raises(openai.InternalServerError, match="chmod 600"):
            ask(client, "cloud:big")
        assert cloud.connections == 0
        (machine.home / "keys/big").chmod(0o600)
        (machine.home / "keys/big").touch()
        until(lambda: _works(client))


def _works(client: openai.OpenAI) -> bool:
    try:
        return ask(client, "cloud:big")[0] == SENTENCE
    except openai.APIStatusError:
        return False


def test_trust_that_is_taken_back_counts_at_once(machine, cloud, port):
    number = port()
    declare(machine, number, port(), f"http://127.0.0.1:{cloud.port}/v1")
    machine.run("--yes", "trust")
    with gateway(machine, number) as (client, _):
        assert _works(client)
        assert "authorization" not in cloud.asked[0]["headers"]
        machine.run("trust", "--revoke")
        until(lambda: not _works(client))
        heard = len(cloud.asked)
        with pytest.raises(openai.PermissionDeniedError):
            ask(client, "cloud:big")
    assert len(cloud.asked) == heard


def test_offline_leaves_this_machine_alone_in_reach(machine, cloud, port):
    number = port()
    declare(machine, number, port(), "https://cloud.example/v1")
    machine.run("--yes", "trust")
    process = machine.start("--offline", "gateway")
    process.stderr.readline()
    try:
        assert "asks nobody but this machine" in process.stderr.readline()
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate that nobody signed, for the name localhost."""
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    made += ["-addext", "subjectAltName=DNS:localhost", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "cert.pem"


def test_F47_a_cloud_must_prove_its_name_before_it_is_told_anything(machine, certificate, port, seen):
    number = port()
    with Cloud(certificate) as cloud:
        declare(machine, number, port(), f"https://localhost:{cloud.port}/v1", key_file(machine))
        machine.run("--yes", "trust")
        with gateway(machine, number) as (client, _), pytest.raises(openai.InternalServerError, match="not trusted"):
            ask(client, "cloud:big")
        assert cloud.asked == []
        machine.environ["SSL_CERT_FILE"] = str(certificate)
        with gateway(machine, number) as (client, _):
            assert ask(client, "cloud:big")[0] == SENTENCE
        assert cloud.asked[0]["headers"]["authorization"] == f"Bearer {KEY}"
