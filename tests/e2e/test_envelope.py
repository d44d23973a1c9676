"""One JSON envelope for whatever happens, and its schema accepts it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import jsonschema
import pytest
from e2e_tools import error

import lmctl
from lmctl.schema import schemas

ENVELOPE = json.loads(schemas()["result.schema.json"])
PLAN = json.loads(schemas()["plan.schema.json"])
FAILURES = [
    pytest.param(["aply"], "", "E-USAGE", 64, id="I71-no-command"),
    pytest.param(["plan", "--nonsense"], "plan", "E-USAGE", 64, id="flag"),
    pytest.param(["start", "--port", "abc"], "start", "E-USAGE", 64, id="I74-port"),
    pytest.param(["status", "nobody"], "status", "E-USAGE", 64, id="profile"),
    pytest.param(["--config", "nowhere.toml", "plan"], "plan", "E-FILE", 65, id="I73-config"),
    pytest.param(["--set", "profiles.hello.ctxx=1", "plan"], "plan", "E-KEY", 65, id="I25-key"),
    pytest.param(["apply", "--plan", "hello.gguf"], "apply", "E-USAGE", 64, id="saved-plan"),
    pytest.param(["apply", "--locked"], "apply", "E-LOCK-STALE", 66, id="lock"),
]


@pytest.mark.parametrize(("argv", "command", "code", "exit_code"), FAILURES)
def test_a_failure_is_one_envelope_and_one_error_line(declared, argv, command, code, exit_code):
    ran = declared.run("--json", *argv, code=exit_code)
    (line,) = ran.out.splitlines()
    envelope = json.loads(line)
    jsonschema.validate(envelope, ENVELOPE)
    assert (envelope["command"], envelope["ok"], envelope["exit_code"]) == (command, False, exit_code)
    assert [problem["code"] for problem in envelope["errors"]] == [code]
    assert error(ran).startswith(f"error[{code}]")


BROKEN = """\
import sys
from lmctl import session
from lmctl.cli import main
def broken(*_):
    raise RuntimeError("out of \\x1b[31mluck")
session.Session.look = broken
sys.exit(main(sys.argv[1:]))
"""


def _broken(machine, *argv: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-c", BROKEN, *argv]
    return subprocess.run(line, cwd=machine.folder, env=machine.env(), capture_output=True, text=True)


def test_a_bug_is_one_line_and_one_envelope(declared):
    ran = _broken(declared, "plan", "--json")
    assert ran.returncode == 1
    envelope = json.loads(ran.stdout)
    jsonschema.validate(envelope, ENVELOPE)
    assert envelope["errors"][0]["what"] == "RuntimeError: out of \\x1b[31mluck"
    (line,) = ran.stderr.splitlines()
    assert line.startswith("error[E-BUG]: RuntimeError: out of \\x1b[31mluck — ")


def test_an_interrupted_stream_ends_with_its_envelope(declared):
    from lmctl.spec import program_id

    log = declared.state() / "logs" / f"{program_id('hello')}.log"
    log.parent.mkdir(parents=True)
    log.write_text("one\ntwo \x1b[31mred\n")
    process = declared.start("logs", "-f", "--json", "hello", stdin=None)
    lines = [json.loads(process.stdout.readline()), json.loads(process.stdout.readline())]
    assert lines == [{"line": "one"}, {"line": "two \\x1b[31mred"}]
    with log.open("a") as file:
        file.write("three\n")
    assert json.loads(process.stdout.readline()) == {"line": "three"}
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=60)
    envelope = json.loads(out)
    jsonschema.validate(envelope, ENVELOPE)
    assert (envelope["command"], envelope["ok"], envelope["exit_code"]) == ("logs", False, 143)
    assert process.returncode == 143


COMMANDS = [
    ("init", "--name", "other", "-C", "empty"),
    ("validate",),
    ("config",),
    ("config", "--explain", "profiles.hello.ctx"),
    ("schema",),
    ("schema", "plan"),
    ("profile", "add", "more", "path=hello.gguf", "start=manual"),
    ("profile", "set", "more", "ctx=512"),
    ("profile", "remove", "more"),
    ("trust",),
    ("trust", "--show"),
    ("trust", "--revoke"),
    ("lock",),
    ("lock", "--check"),
    ("outdated",),
    ("plan",),
    ("apply", "--dry-run"),
    ("apply",),
    ("apply", "-v"),
    ("verify",),
    ("verify", "--deep"),
    ("prune", "--dry-run"),
    ("prune",),
    ("start", "hello"),
    ("restart", "hello"),
    ("status",),
    ("status", "hello"),
    ("usage", "--routing"),
    ("cleanup",),
    ("drift", "--record"),
    ("history",),
    ("rollback", "1", "--dry-run"),
    ("logs", "hello"),
    ("stop", "hello"),
    ("doctor",),
    ("service", "status"),
    ("down",),
    ("uninstall", "--yes"),
    ("completion", "fish"),
    ("completion", "profiles"),
    ("--version",),
    ("plan", "--help"),
]


def test_every_command_prints_one_envelope_that_its_schema_accepts(declared, port, hub):
    """One machine runs them all in turn, so that each finds something to tell."""
    declared.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {port()}\nstart = "manual"\n')
    (declared.folder / "empty").mkdir()
    covered = set()
    for argv in COMMANDS:
        ran = declared.run(*argv, "--json")
        *_, last = ran.out.splitlines()
        envelope = json.loads(last)
        jsonschema.validate(envelope, ENVELOPE)
        assert (envelope["ok"], envelope["lmctl"]) == (True, lmctl.__version__), argv
        covered.add(envelope["command"])
        if argv[0] == "plan" and argv[1:] != ("--help",):
            jsonschema.validate(envelope["data"], PLAN)
    from lmctl.all_commands import COMMANDS as every

    assert covered == {*every, ""} - {"download", "gateway", "watch"}


def test_a_saved_plan_is_the_data_of_the_envelope(declared):
    ran = declared.run("plan", "--json", "--out", "saved.json")
    saved = json.loads((declared.folder / "saved.json").read_text())
    jsonschema.validate(saved, PLAN)
    assert saved == ran.data


def test_an_apply_that_says_more_writes_json_lines_and_the_envelope_last(declared, port):
    declared.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {port()}\n')
    *events, last = map(json.loads, declared.run("apply", "--json", "-v").out.splitlines())
    jsonschema.validate(last, ENVELOPE)
    assert last["ok"]
    assert {event["path"] for event in events} >= {"hello"}


def test_debug_shows_where_it_failed(declared):
    assert "Traceback" in _broken(declared, "plan", "--debug").stderr
    process = declared.start("--debug", "status", "nobody")
    _, err = process.communicate(timeout=60)
    assert "Traceback" in err and "error[E-USAGE]" in err.splitlines()[-1]


def test_every_json_envelope_names_its_command_and_code(machine, port):
    machine.hello()
    machine.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {port()}\n')
    for words in (
        ("plan",),
        ("apply",),
        ("status",),
        ("apply",),
        ("stop", "hello"),
        ("verify",),
        ("prune",),
        ("down",),
    ):
        ran = machine.run(*words, "--json")
        envelope = json.loads(ran.out)
        assert (envelope["command"], envelope["ok"], envelope["exit_code"]) == (words[0], True, 0)
