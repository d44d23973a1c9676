"""lmctl as a process: streams, surroundings, refusals, and one envelope for whatever happens."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest

import lmctl
from lmctl.schema import schemas

HELLO = '[profiles.hello]\npath = "hello.gguf"\nstart = "manual"\n'
ENVELOPE = json.loads(schemas()["result.schema.json"])
PLAN = json.loads(schemas()["plan.schema.json"])


@pytest.fixture
def declared(machine):
    """A machine with one profile that does not run."""
    machine.hello()
    machine.declare(HELLO)
    return machine


def error(ran) -> str:
    """Return the one line on stderr."""
    (line,) = ran.err.splitlines()
    assert line.startswith("error[")
    return line


# ---- streams ----


@pytest.mark.parametrize("command", ["status", "--help", "plan --help", "schema result", "--version"])
def test_F10_a_reader_that_leaves_ends_it_quietly(declared, command):
    line = f"{sys.executable} -m lmctl {command} | head -n 0; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=declared.folder, env=declared.env(), capture_output=True)
    assert done.returncode in (0, 141)
    assert done.stderr == b""


def test_F10_a_reader_that_leaves_ends_a_followed_log(declared):
    log = declared.state() / "logs"
    log.mkdir(parents=True)
    reading, writing = os.pipe()
    process = declared.start("logs", "-f", "hello", stdout=writing)
    os.close(writing)
    os.close(reading)
    from lmctl.spec import program_id

    (log / f"{program_id('hello')}.log").write_text("a line\n")
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


@pytest.mark.parametrize(
    "command", [["status"], ["plan", "--json"], ["--help"], ["plan", "--help"], ["aply", "--json"]]
)
def test_F11_a_full_disk_behind_stdout_is_told(declared, command):
    with Path("/dev/full").open("w") as full:
        ran = declared.run(*command, code=8, stdout=full)
    assert "error[E-IO]: cannot write output: No space left on device" in ran.err.splitlines()[-1]


def test_F11_a_closed_stdout_is_told(declared):
    ran = declared.run("status", code=8, stdout=None, preexec_fn=lambda: os.close(1))
    assert "error[E-IO]: cannot write output" in error(ran)


def test_closed_stdin_and_stderr_disturb_nothing(declared):
    def close() -> None:
        os.close(0)
        os.close(2)

    ran = declared.run("plan", preexec_fn=close)
    assert "Plan:" in ran.out


def test_data_goes_to_stdout_and_problems_to_stderr(declared):
    ran = declared.run("status", "nobody", code=64)
    assert ran.out == ""
    assert "there is no profile 'nobody' — declared: hello" in error(ran)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("config", "said"),
    [
        pytest.param("missing.toml", "E-FILE", id="I73-missing"),
        pytest.param(".", "E-FILE", id="I73-folder"),
        pytest.param("pipe", "E-FILE", id="I73-fifo"),
    ],
)
def test_a_configuration_that_is_no_file_is_refused(declared, config, said):
    os.mkfifo(declared.folder / "pipe")
    assert f"error[{said}]" in error(declared.run("--config", config, "plan", code=65))


def test_I73_a_configuration_that_may_not_be_read_is_refused(declared):
    (declared.folder / "localmodels.toml").chmod(0)
    ran = humbly(declared, "plan")
    assert ran.code == 8
    assert "error[E-PERM]" in error(ran) and "may not be read" in error(ran)


def test_I76_prune_with_nothing_declared_removes_nothing_even_when_told_yes(declared):
    weights = _owned_blob(declared)
    declared.declare("")
    ran = declared.run("prune", "--yes", "--now", code=4)
    assert "error[E-PRUNE]: nothing is declared, so everything would be removed" in error(ran)
    listed = declared.run("prune", "--dry-run").out
    assert "keep" in listed and "nothing is declared" in listed
    assert weights.exists()


def _owned_blob(machine) -> Path:
    """Write a blob that the ledger says lmctl brought, and nothing refers to."""
    from lmctl.ledger import Ledger, Owned
    from lmctl.spec import Signature

    blob = machine.home / ".cache/huggingface/hub/models--o--m/blobs" / ("a" * 64)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"weights")
    status = blob.stat()
    signature = Signature(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)
    with Ledger(machine.state() / "ledger.db").writing(1.0) as ledger:
        ledger.own([Owned(str(blob), "blob", "o/m@main:Q4_K_M", signature, "a" * 64, 1.0, 1.0)])
    return blob


@pytest.mark.parametrize("command", ["status", "start", "plan", "logs"])
def test_I77_a_name_that_is_no_text_is_shown_escaped(declared, command):
    line = error(declared.run(command, "\udcff\x1b[31m", code=65))
    assert line.startswith("error[E-NAME]: '\\udcff\\x1b[31m' cannot be the name")


def test_I77_a_new_profile_whose_name_is_no_text_is_refused(declared):
    before = (declared.folder / "localmodels.toml").read_bytes()
    ran = declared.run("profile", "add", "\udcff", "path=hello.gguf", "--json", code=65)
    assert ran.json["errors"][0]["code"] == "E-NAME"
    assert (declared.folder / "localmodels.toml").read_bytes() == before


def test_I79_a_command_that_nobody_trusted_is_refused_with_the_line_that_would(declared):
    canary = declared.folder / "ran"
    file = declared.declare(f'[profiles.own]\ncommand = ["touch", "{canary}"]\nbackend = "command"\n')
    for command in ("apply", "plan", "status", "validate"):
        ran = declared.run(command, code=4)
        assert error(ran).startswith("error[E-TRUST]: localmodels.toml:4:1: command runs a program")
        assert error(ran).endswith(f"read it, then run: lmctl trust {file}")
    assert not canary.exists()
    assert not declared.state().exists()


# ---- one envelope, whatever happens ----

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


def test_debug_shows_where_it_failed(declared):
    assert "Traceback" in _broken(declared, "plan", "--debug").stderr
    process = declared.start("--debug", "status", "nobody")
    _, err = process.communicate(timeout=60)
    assert "Traceback" in err and "error[E-USAGE]" in err.splitlines()[-1]


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
    ("lock",),
    ("lock", "--check"),
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
    ("logs", "hello"),
    ("stop", "hello"),
    ("down",),
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

    assert covered == {*every, ""} - {"download"}


def test_a_saved_plan_is_the_data_of_the_envelope(declared):
    ran = declared.run("plan", "--json", "--out", "saved.json")
    saved = json.loads((declared.folder / "saved.json").read_text())
    jsonschema.validate(saved, PLAN)
    assert saved == ran.data


# ---- surroundings ----


def test_verbose_plans_tell_what_programs_are_started_with(declared):
    declared.run("apply")
    plain, verbose = declared.run("plan", "hello").out, declared.run("plan", "-v", "hello").out
    assert "--model" not in plain
    assert f"--model {declared.folder}/hello.gguf" in verbose


def test_quiet_commands_keep_their_warnings_to_themselves(declared):
    declared.declare(f"[watch]\nenabled = true\n{HELLO}")
    assert "warning[W-NOEFFECT]" in declared.run("plan").err
    assert declared.run("plan", "-q").err == ""
    assert [w["code"] for w in declared.run("plan", "-q", "--json").json["warnings"]] == ["W-NOEFFECT"]


def test_W_SECRET_of_the_configuration_is_among_the_warnings_of_a_plan(declared):
    declared.declare(HELLO + f'description = "hf_{"a" * 34}"\n')
    ran = declared.run("plan", "--json")
    assert [w["code"] for w in ran.json["warnings"]] == ["W-SECRET"]
    assert "a" * 34 not in ran.out + ran.err


@pytest.mark.parametrize(
    ("flags", "environ", "coloured"),
    [
        ([], {}, False),
        (["--color", "always"], {}, True),
        (["--color", "always"], {"NO_COLOR": "1"}, True),
        (["--color", "never"], {}, False),
    ],
)
def test_colour_is_for_terminals_or_who_asks(declared, flags, environ, coloured):
    declared.environ |= environ
    assert ("\x1b[" in declared.run("plan", *flags).out) is coloured


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["terminal", "NO_COLOR", "dumb"],
)
def test_a_terminal_gets_colour_unless_told_otherwise(declared, environ, coloured):
    declared.environ |= environ
    ours, theirs = os.openpty()
    process = declared.start("plan", stdout=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        said += part
    os.close(ours)
    assert process.wait(60) == 0
    process.stderr.close()
    assert (b"\x1b[" in said) is coloured


@pytest.mark.parametrize(
    "environ",
    [{"LANG": "C", "LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}],
    ids=["C", "POSIX-without-UTF-8", "ascii"],
)
def test_F86_it_works_in_any_locale(declared, environ):
    declared.environ |= environ
    shutil.copy(declared.folder / "hello.gguf", declared.folder / "héllo ☃.gguf")
    declared.declare(HELLO.replace("hello.gguf", "héllo ☃.gguf"))
    assert declared.run("plan", "--json").data["changes"][0]["address"] == "lock:path=héllo ☃.gguf"
    assert "create" in declared.run("plan").out


@pytest.mark.parametrize("value", [None, "", "relative"], ids=["absent", "empty", "relative"])
def test_F86_without_a_home_it_says_so(declared, value):
    env = {key: value for key, value in declared.env().items() if key != "HOME"}
    argv = [sys.executable, "-m", "lmctl", "plan"]
    env = env if value is None else {**env, "HOME": value}
    done = subprocess.run(argv, cwd=declared.folder, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (8, "")
    assert done.stderr == "error[E-STATE]: HOME names no folder — set HOME to an absolute path\n"


# root without the right to pass over permissions, which would hide what may not be done
DROPPED = "-dac_override,-dac_read_search"
HUMBLE = ["setpriv", f"--inh-caps={DROPPED}", f"--bounding-set={DROPPED}"] if os.geteuid() == 0 else []


def humbly(machine, *words: str) -> SimpleNamespace:
    argv = [*HUMBLE, sys.executable, "-m", "lmctl", *words]
    done = subprocess.run(argv, cwd=machine.folder, env=machine.env(), capture_output=True, text=True, timeout=60)
    assert "Traceback" not in done.stderr
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)


@pytest.fixture
def sealed(declared):
    """A machine whose home cannot be written."""
    (declared.home / ".config").mkdir()
    declared.home.chmod(0o555)
    yield declared
    declared.home.chmod(0o755)


@pytest.mark.parametrize(
    "argv", [["apply"], ["lock"], ["start", "hello"], ["stop", "hello"], ["apply", "--json"]], ids=" ".join
)
def test_F86_a_home_that_cannot_be_written_is_told_in_one_line(sealed, argv):
    ran = humbly(sealed, *argv)
    assert ran.code == 8
    assert "error[E-PERM]" in error(ran) and "cannot be written" in error(ran)


def test_F86_reading_commands_work_where_nothing_can_be_written(sealed):
    for command in ("plan", "status", "validate", "config"):
        ran = humbly(sealed, command)
        assert (ran.code, ran.err) == (0, "")
    assert not (sealed.home / ".local").exists()


def test_the_superuser_is_welcome(declared):
    assert declared.run("plan").code == 0


def test_no_command_that_reads_writes_below_the_state_folder(declared):
    for command in ("plan", "status", "validate", "config", "verify"):
        declared.run(command, code=None)
    assert not declared.state().exists()


def test_F80_a_binary_that_lost_a_flag_is_refused_before_anything_stops(declared, port):
    import llama_server

    program = llama_server.install(declared.home)
    config = declared.home / ".config/lmctl/machine.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[engines."llama.cpp"]\nbinary = "{program}"\n')
    text = '[profiles.hello]\npath = "hello.gguf"\nport = {}\nctx = {}\n'
    declared.declare(text.format(number := port(), 1024))
    declared.run("apply")
    pid = declared.profiles()["hello"]["pid"]
    program.write_text(program.read_text().replace("--no-kv-unified", "--no-other"))
    declared.declare(text.format(number, 2048))
    ran = declared.run("apply", code=9)
    assert "error[E-ENGINE]" in ran.err and "does not know --no-kv-unified" in ran.err
    assert declared.profiles()["hello"]["pid"] == pid


def test_an_edited_template_restarts_its_program_and_a_lost_one_is_told(declared, port):
    template = declared.folder / "chat.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    text = f'[profiles.hello]\npath = "hello.gguf"\nport = {port()}\nchat_template = "chat.jinja"\n'
    declared.declare(text)
    declared.run("apply")
    assert declared.run("plan", "--json").data["changes"] == []
    template.write_text("{% for m in messages %}{{ m.content }} {% endfor %}")
    (change,) = declared.run("plan", "--json").data["changes"]
    assert (change["verb"], change["cause"][0]["field"]) == ("restart", "sha256 of chat_template")
    template.unlink()
    (change,) = declared.run("plan", "--json").data["changes"]
    assert (change["verb"], change["cause"][0]["field"]) == ("update", "E-FILE")
    pid = declared.profiles()["hello"]["pid"]
    assert "error[E-FILE]" in declared.run("apply", code=65).err
    assert declared.profiles()["hello"]["pid"] == pid


@pytest.mark.parametrize(("what", "after"), [("launch", b"#!/bin/sh\n"), ("supervisord.conf", b"[supervisord]\n")])
def test_a_file_of_the_daemon_that_was_edited_is_written_again_and_nothing_restarts(declared, port, what, after):
    declared.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {port()}\n')
    declared.run("apply")
    pid = declared.profiles()["hello"]["pid"]
    file = declared.state() / what
    before = file.read_bytes()
    file.write_bytes(before.replace(after, after + b"# mine\n"))
    (change,) = declared.run("plan", "--json").data["changes"]
    assert (change["verb"], change["address"]) == ("update", "supervisord:files")
    declared.run("apply")
    assert file.read_bytes() == before
    assert declared.profiles()["hello"]["pid"] == pid
    assert "Nothing to do" in declared.run("plan").out


def test_an_apply_that_says_more_writes_json_lines_and_the_envelope_last(declared, port):
    declared.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {port()}\n')
    *events, last = map(json.loads, declared.run("apply", "--json", "-v").out.splitlines())
    jsonschema.validate(last, ENVELOPE)
    assert last["ok"]
    assert {event["path"] for event in events} >= {"hello"}
