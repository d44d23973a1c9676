"""What `usage`, `status` and `cleanup` say after real engines answered, and what cleanup may remove."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from pathlib import Path

import jsonschema
import pytest
from e2e_tools import ask, profile, until
from usage.counted import asked, written
from weights.hello import hello

from lmctl.schema import schemas
from lmctl.usage.recorder import Recorder
from lmctl.usage.rows import Row

USAGE, CLEANUP = (json.loads(schemas()[f"{name}.schema.json"]) for name in ("usage", "cleanup"))
OFF = "[gateway]\nenabled = false\n"
REPO, FILE = "org/hello-GGUF", "hello-Q4_K_M.gguf"
NAME = f"{REPO}:Q4_K_M"
ANSWER = "A zebra answers."
SECRET = "the purple canary sings at midnight"
DAY = 86400.0
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def record(machine, *ages: float, model: str = "hello.gguf") -> None:
    """Count one request per age, in days."""
    recorder = Recorder(machine.state() / "usage.db", 1e9)
    for number, age in enumerate(ages):
        at = time.time() - age * DAY
        recorder.add(
            Row(f"{model} {number}", at, "hello", model, "llama.cpp", "/v1/x", 200, 1000, 0, 500, client="curl/8")
        )
    recorder.close()


def tokens(machine) -> tuple[int, int]:
    data = machine.run("usage", "--json").data
    jsonschema.validate(data, USAGE)
    return data["total"]["tokens_in"] or 0, data["total"]["tokens_out"] or 0


def blobs(home: Path) -> list[Path]:
    """Return all content in the Hugging Face cache."""
    return sorted(path for path in (home / ".cache/huggingface/hub").glob("models--*/blobs/*") if path.is_file())


@pytest.fixture
def serving(machine, port):
    """A real engine that clients ask directly; its port."""
    machine.hello()
    number = port()
    machine.declare(profile("hello", path="hello.gguf", port=number) + OFF)
    machine.run("apply")
    return number


def test_without_a_gateway_the_engines_own_counters_add_up_over_restarts(machine, serving):
    ask(serving, SECRET)
    once = tokens(machine)
    assert once[0] > 0 and once[1] > 0
    assert tokens(machine) == once  # looking again counts nothing
    machine.run("restart", "hello")
    ask(serving, SECRET)
    assert tokens(machine) == (2 * once[0], 2 * once[1])
    row = machine.profiles()["hello"]
    assert row["requests"] is None and row["tokens_per_s"] > 0
    shown = machine.run("usage").out
    assert "engines counted themselves" in shown and "hello.gguf" in shown
    kept = [path for path in machine.state().rglob("*") if path.is_file()]
    assert machine.state() / "usage.db" in kept
    for path in kept:
        content = path.read_bytes()
        assert SECRET.encode() not in content and b"purple canary" not in content, path


def test_F82_a_broken_record_is_put_aside_by_who_counts_next_and_said(machine, serving):
    ask(serving, SECRET)
    (machine.state() / "usage.db").write_bytes(b"no database" * 1000)
    assert "it is put aside as usage.db.corrupt-" in machine.run("status").err
    assert tokens(machine)[1] > 0
    assert machine.run("status").err == ""


def test_the_watcher_counts_what_engines_do(machine, serving):
    ask(serving, "Hello")
    process = machine.start("watch")
    process.stdout.readline()
    database = machine.state() / "usage.db"
    until(database.exists)
    process.terminate()
    process.communicate(timeout=60)
    assert tokens(machine)[1] > 0


def test_nothing_is_counted_where_it_is_switched_off(machine, serving):
    file = machine.folder / "localmodels.toml"
    file.write_text(file.read_text() + "[usage]\nenabled = false\n")
    ask(serving, "Hello")
    assert machine.run("usage").out == "Nothing is counted: `[usage] enabled` is false.\n"
    assert machine.profiles()["hello"]["tokens_per_s"] is None
    assert not (machine.state() / "usage.db").exists()


def post(port: int, path: str, body: dict, agent: str = "canary/1.0 (of a secret house)") -> dict:
    headers = {"Content-Type": "application/json", "User-Agent": agent}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), headers)
    with _OPENER.open(request, timeout=120) as answer:
        return json.load(answer)


@pytest.fixture
def gateway(machine, port):
    """A gateway that runs before a real engine; its port."""
    machine.hello(ANSWER)
    number = port()
    machine.declare(f"{profile('hello', path='hello.gguf', port=port())}\n[gateway]\nport = {number}\n")
    machine.foreground()
    machine.run("apply")
    process = machine.start("gateway")
    process.stderr.readline()
    yield number
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)


def test_with_the_gateway_requests_count_once_and_what_was_said_is_stored_nowhere(machine, gateway):
    chat = {"model": "hello", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 32}
    answers = [post(gateway, "/v1/chat/completions", chat) for _ in range(3)]
    assert {answer["choices"][0]["message"]["content"] for answer in answers} == {ANSWER}
    told = [sum(answer["usage"][name] for answer in answers) for name in ("prompt_tokens", "completion_tokens")]

    def counted() -> bool:
        total = machine.run("usage", "--json").data["total"]
        return total["requests"] == 3

    until(counted)
    data = machine.run("usage", "--json", "--by", "client").data
    jsonschema.validate(data, USAGE)
    assert [data["total"]["tokens_in"], data["total"]["tokens_out"]] == told  # the engine's own counters add nothing
    assert data["total"]["tokens_cached"] > 0 and data["total"]["tokens_per_s"] > 0 and data["metered_tokens"] is None
    assert [row["key"] for row in data["rows"]] == ["canary/1.0"]
    kept = [path for path in (machine.home / ".local/state").rglob("*") if path.is_file()]
    assert machine.state() / "usage.db" in kept
    for path in kept:
        content = path.read_bytes()
        for words in (b"purple canary", b"zebra", b"secret house"):
            assert words not in content, path


def test_a_prompt_counts_the_same_in_every_dialect(machine, gateway):
    talk = {"model": "hello", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 32}
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/messages"):
        post(gateway, path, talk)
    database = machine.state() / "usage.db"
    until(lambda: len(written(database)) == 3)
    rows = asked(database, "SELECT endpoint, tokens_in, tokens_cached > 0, tokens_out > 0 FROM request ORDER BY rowid")
    whole = rows[0][1]
    assert whole > 5
    assert rows[1:] == [("/v1/messages", whole, 1, 1)] * 2


@pytest.fixture
def declared(machine, port):
    machine.hello()
    machine.declare(profile("hello", path="hello.gguf", port=port(), start="manual"))
    machine.run("apply")
    return machine


def test_an_empty_record_says_what_to_do(declared):
    assert declared.run("usage").out == "Nothing is counted yet: ask a model, then look again.\n"
    number = declared.gateway()
    where = f"http://127.0.0.1:{number}/v1"
    assert declared.run("usage").out == f"Nothing is counted yet: ask a model at {where}, then look again.\n"
    data = declared.run("usage", "--json").data
    jsonschema.validate(data, USAGE)
    assert data["rows"] == [] and data["total"]["requests"] is None


def test_reports_by_date_and_in_every_form(declared):
    record(declared, 0, 0, 3)
    data = declared.run("usage", "--json", "--routing", "--since", "1d").data
    jsonschema.validate(data, USAGE)
    assert (data["total"]["requests"], data["total"]["tokens_in"]) == (2, 2000)
    assert data["routing"]["mix_usd"] == 0.0 and data["routing"]["everything"][0]["saved_usd"] > 0
    assert (
        declared.run("usage", "--csv", "--by", "client").out.splitlines()[1].startswith("curl/8,3,0,0,0,3000,0,1500,")
    )
    assert "SAVED AGAINST" in declared.run("usage", "--by", "profile").out
    declared.run("usage", "--plot", "days.svg")
    assert (declared.folder / "days.svg").read_text().startswith("<svg ")
    assert declared.profiles()["hello"]["requests"] in (1, 2)  # at midnight some are of yesterday
    assert "--csv and --json exclude each other" in declared.run("--json", "usage", "--csv", code=64).err
    assert "'tomorrow' is no date" in declared.run("usage", "--since", "tomorrow", code=64).err


def test_F82_a_broken_record_ends_no_status_and_no_apply(declared):
    record(declared, 0)
    (declared.state() / "usage.db").write_bytes(b"no database" * 1000)
    said = declared.run("status")
    assert "hello" in said.out and "warning[E-STATE]" in said.err
    declared.run("apply")
    assert "E-STATE" in declared.run("usage", code=8).err


def test_a_price_that_nobody_knows_is_named(declared):
    record(declared, 0)
    file = declared.folder / "localmodels.toml"
    file.write_text(file.read_text() + '[usage]\ncompare = ["nobody", "gpt-5"]\n')
    said = declared.run("usage")
    assert "no price of nobody is known" in said.err and "gpt-5 " in said.out


@pytest.fixture
def downloaded(declared, hub):
    """A model that was downloaded and that nothing declares; its blob."""
    hub.add(REPO, {FILE: hello("Hello from the Hub.")})
    declared.run("download", REPO, "--quant", "Q4_K_M")
    (blob,) = blobs(declared.home)
    return blob


def test_cleanup_lists_what_nobody_uses_and_where_it_is_declared(declared, downloaded):
    record(declared, 60)
    data = declared.run("cleanup", "--json").data
    jsonschema.validate(data, CLEANUP)
    told = {model["model"]: (model["status"], model["idle_days"]) for model in data["models"]}
    assert told["hello.gguf"] == ("stale", 60) and told[NAME][0] == "undeclared"
    shown = declared.run("cleanup").out
    assert "unused for 60 days" in shown
    assert "still declared in localmodels.toml: remove it there, then `lmctl apply`" in shown
    assert f"`lmctl cleanup --remove {NAME}`" in shown
    data = declared.run("cleanup", "--json", "--threshold", "90").data
    assert {model["status"] for model in data["models"]} == {"active", "undeclared"}


def test_cleanup_removes_a_download_that_prune_protects_once_somebody_says_so(declared, downloaded):
    declared.run("prune", "--now")
    assert downloaded.exists()
    refused = declared.run("cleanup", "--remove", NAME, code=4)
    assert "nobody is there to ask" in refused.err and downloaded.exists()
    declared.run("--yes", "cleanup", "--remove", NAME)
    assert blobs(declared.home) == []
    assert "there is no model" in declared.run("--yes", "cleanup", "--remove", NAME, code=64).err


def test_cleanup_removes_nothing_that_is_declared_or_in_use(declared, downloaded):
    refused = declared.run("--yes", "cleanup", "--remove", "hello.gguf", code=4)
    assert "hello.gguf is declared in localmodels.toml" in refused.err
    with downloaded.open("rb"):
        refused = declared.run("--yes", "cleanup", "--remove", NAME, code=4)
        assert f"in use by pid {os.getpid()}" in refused.err
    assert downloaded.exists()
    assert "did you mean hello.gguf?" in declared.run("--yes", "cleanup", "--remove", "hallo.gguf", code=64).err


def test_cleanup_removes_what_is_stale_and_undeclared_and_nothing_else(declared, downloaded):
    assert "nothing to remove" in declared.run("--yes", "cleanup", "--remove-stale").out
    record(declared, 60, model=NAME)
    record(declared, 60)
    declared.run("--yes", "cleanup", "--remove-stale")
    assert blobs(declared.home) == []
    assert (declared.folder / "hello.gguf").exists()


def test_what_is_not_counted_any_more_is_not_stale(declared, downloaded):
    record(declared, 60, model=NAME)
    record(declared, 60)
    declared.environ["LMCTL_USAGE__ENABLED"] = "false"
    data = declared.run("cleanup", "--json").data
    jsonschema.validate(data, CLEANUP)
    assert [(model["idle_days"], model["stale"]) for model in data["models"]] == [(None, False)] * 2
    assert "`[usage] enabled` is false" in declared.run("cleanup").out
    declared.run("--yes", "cleanup", "--remove-stale")
    assert downloaded.exists()


def test_a_model_that_is_used_uncounted_is_not_called_stale(machine):
    machine.declare(profile("own", backend="command", command=["serve", "{port}"], path="own.gguf", start="manual"))
    machine.hello(file="own.gguf")
    machine.run("--yes", "trust")
    record(machine, 60)
    machine.run("apply", code=None)
    (model,) = machine.run("cleanup", "--json").data["models"]
    assert (model["idle_days"], model["stale"], model["status"]) == (None, False, "active")
    assert "without the gateway it is not known whether own is used" in machine.run("cleanup").out


def test_cleanup_by_name_works_where_nothing_is_declared_and_by_age_does_not(machine, hub):
    hub.add(REPO, {FILE: hello("Hello from the Hub.")})
    machine.run("download", REPO, "--quant", "Q4_K_M")
    assert blobs(machine.home)
    left = Path(machine.home / ".local/state/lmctl/undeclared/declaration")
    assert "nothing is declared" in machine.run("-C", str(left), "--yes", "cleanup", "--remove-stale", code=4).err
    machine.run("-C", str(left), "--yes", "cleanup", "--remove", NAME)
    assert blobs(machine.home) == []
