"""What lmctl did stands in its log; looking, finding nothing to do and being refused write nothing there."""

from __future__ import annotations

import json
import shutil

import pytest
from e2e_tools import profile
from weights.hello import hello

TOKEN = "hf_CANARY0123456789abcdefghijklmnopq"


@pytest.fixture
def applied(machine, port):
    """A machine with a local profile that was applied."""
    machine.hello()
    machine.declare(profile("hello", path="hello.gguf", port=port()))
    machine.run("lock")
    machine.run("apply")
    return machine


def lines(machine, name: str = "team") -> list[dict]:
    log = machine.state(name) / "lmctl.log"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def test_every_command_that_did_something_is_a_line(applied):
    applied.run("stop", "hello")
    applied.run("start", "hello")
    applied.run("down")
    told = [(line["command"], line["exit"], line["changes"]) for line in lines(applied)]
    assert told == [
        ("lock", 0, ["locked: path=hello.gguf"]),
        ("apply", 0, ["done: create weights:path=hello.gguf", "done: create program:hello"]),
        ("stop", 0, ["stopped: hello"]),
        ("start", 0, ["done: start program:hello"]),
        ("down", 0, ["stopped: all"]),
    ]
    assert (applied.state() / "lmctl.log").stat().st_mode & 0o777 == 0o600


def test_trust_is_told_when_it_is_given_and_when_it_is_taken_back(machine, port):
    machine.declare(profile("own", backend="command", command=["true"], port=port()))
    machine.run("trust", "--yes")
    machine.run("trust", "--revoke")
    told = [(line["command"], line["changes"]) for line in lines(machine)]
    assert told == [("trust", ["trusted: profiles.own.command"]), ("trust", ["revoked: team"])]


def test_F17_looking_and_nothing_to_do_write_nothing(applied):
    before = (applied.state() / "lmctl.log").stat().st_mtime_ns
    for words in (
        ("apply",),
        ("lock",),
        ("plan",),
        ("status",),
        ("validate",),
        ("config",),
        ("verify",),
        ("logs", "hello"),
        ("prune",),
        ("doctor",),
        ("outdated",),
        ("apply", "--dry-run"),
    ):
        applied.run(*words)
    for words in (("aply",), ("apply", "nobody"), ("--set", "profiles.hello.ctxx=1", "apply")):
        applied.run(*words, code=None)
    assert (applied.state() / "lmctl.log").stat().st_mtime_ns == before


def test_what_failed_is_told_with_its_errors(applied):
    (applied.folder / "hello.gguf").write_bytes(b"not a model")
    applied.run("restart", "hello", code=None)
    last = lines(applied)[-1]
    assert last["command"] == "restart" and last["exit"] not in (0, None)
    assert last["errors"] and last["errors"][0].startswith("E-")


def test_no_secret_gets_in(machine, hub, port):
    hub.add("org/hello-GGUF", {"hello-Q4_K_M.gguf": hello("Hello.")})
    hub.fault("org/hello-GGUF", "hello-Q4_K_M.gguf", status=403, headers={"X-Error-Message": f"bad {TOKEN}"})
    machine.environ["HF_TOKEN"] = TOKEN
    machine.declare(profile("hub", model="org/hello-GGUF", quant="Q4_K_M", port=port()))
    ran = machine.run("apply", "--debug", code=None)
    assert ran.code != 0
    assert "hf_CANARY" not in ran.err + ran.out + json.dumps(lines(machine))


def test_debug_tells_of_every_talk_without_headers(machine, hub, port):
    hub.add("org/hello-GGUF", {"hello-Q4_K_M.gguf": hello("Hello.")})
    machine.environ["HF_TOKEN"] = TOKEN
    machine.declare(profile("hub", model="org/hello-GGUF", quant="Q4_K_M", port=port()))
    told = [line for line in machine.run("apply", "--debug").err.splitlines() if line.startswith("debug: ")]
    assert any(line.startswith(f"debug: GET {hub.url}/api/models/org/hello-GGUF/revision/main") for line in told)
    assert any("/resolve/" in line and " bytes=" in line and " -> 206 in " in line for line in told)
    assert any(line.startswith("debug: supervisord ") and " -> 200 in " in line for line in told)
    assert any("/health -> " in line for line in told)
    assert not any(word in line for line in told for word in ("Authorization", "Bearer", "hf_"))
    assert not [line for line in machine.run("apply").err.splitlines() if line.startswith("debug: ")]


def test_the_report_of_doctor_has_the_latest_lines(applied):
    applied.run("doctor", "--bundle", "report.json")
    log = json.loads((applied.folder / "report.json").read_text())["log"]
    assert [json.loads(line)["command"] for line in log] == ["lock", "apply"]


def test_a_log_that_cannot_be_written_is_no_reason_to_fail(applied):
    (applied.state() / "lmctl.log").unlink()
    (applied.state() / "lmctl.log").mkdir()
    assert applied.run("down").out == "every program and supervisord stopped\n"
    shutil.rmtree(applied.state() / "lmctl.log")
