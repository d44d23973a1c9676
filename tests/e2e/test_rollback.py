"""History and rollback: what was applied is listed, and can be gone back to without touching a file of the user's."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import sqlite3
import sys
from contextlib import closing

import jsonschema
import pytest
from e2e_tools import ask, listening, paused, profile, until
from weights.hello import hello

from lmctl.schema import schemas
from lmctl.spec import program_id

REPO, FILE = "org/hello-GGUF", "hello-Q4_K_M.gguf"
HELD = "warning[W-HELD]: the rollback to generation 1 holds"


@pytest.fixture
def edited(machine, port):
    """A profile that was applied with ctx 1024, then with 2048; its port."""
    machine.hello()
    number = port()
    for ctx in (1024, 2048):
        machine.declare(profile("hello", path="hello.gguf", port=number, ctx=ctx))
        machine.run("apply")
    return number


def ctx(machine, name: str = "hello") -> str:
    file = machine.state() / f"programs/{program_id(name)}.json"
    argv = json.loads(file.read_text())["argv"]
    return argv[argv.index("--ctx-size") + 1]


def texts(machine) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(machine.folder.rglob("*")) if path.is_file()}


def test_history_lists_applies_with_what_they_did_and_shows_their_plans(machine, edited):
    data = machine.run("history", "--json").data
    jsonschema.validate(data, json.loads(schemas()["history.schema.json"]))
    assert [(one["id"], one["result"], one["snapshot"]) for one in data["generations"]] == [
        (2, "done", True),
        (1, "done", True),
    ]
    lines = machine.run("history").out.splitlines()
    assert re.fullmatch(r" +2  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d  done    restart hello", lines[1])
    assert lines[2].endswith("done    add hello; weights of 1 model")
    assert machine.run("history", "-n", "1").out.splitlines()[1:] == lines[1:2]
    shown = machine.run("history", "2").out
    assert "↻ restart program:hello  (ctx: 1024 → 2048)" in shown and "Generation 2, " in shown
    assert machine.run("history", "2", "--json").data["plan"]["summary"]["restart"] == 1
    assert "there is no generation 9" in machine.run("history", "9", code=64).err


def test_a_rollback_is_shown_first_and_changes_nothing_without_a_yes(machine, edited):
    before, pid = texts(machine), machine.profiles()["hello"]["pid"]
    shown = machine.run("rollback", "1", "--dry-run").out
    assert "↻ restart program:hello  (ctx: 2048 → 1024)" in shown
    assert "generation 1 then holds until the next `lmctl apply`" in shown
    ran = machine.run("rollback", "1", code=4)
    assert "(ctx: 2048 → 1024)" in ran.err
    assert "error[E-CONSENT]: nobody is there to ask — read the plan, then run `lmctl rollback 1 --yes`" in ran.err
    (error,) = machine.run("rollback", "1", "--json", code=4).json["errors"]
    assert error["code"] == "E-CONSENT"
    assert (texts(machine), machine.profiles()["hello"]["pid"], ctx(machine)) == (before, pid, "2048")
    assert len(machine.run("history", "--json").data["generations"]) == 2


def test_a_rollback_holds_until_the_next_apply_and_writes_no_file_of_the_users(machine, edited):
    before = texts(machine)
    ran = machine.run("rollback", "1", "--yes")
    assert "↻ restart program:hello  (ctx: 2048 → 1024)" in ran.err
    assert "Generation 1 is in force until the next `lmctl apply`." in ran.out
    assert (ctx(machine), texts(machine)) == ("1024", before)
    assert ask(edited, "hi")
    planned = machine.run("plan")
    assert "(ctx: 1024 → 2048)" in planned.out
    for command in ("plan", "status", "history", "apply --dry-run"):
        assert HELD in machine.run(*command.split()).err
    assert HELD in machine.run("drift", code=2).err
    assert machine.profiles()["hello"]["state"] == "healthy"
    history = machine.run("history", "--json").data
    assert (history["in_force"], history["generations"][0]["restores"]) == (1, 1)
    assert "restart hello (rollback to 1)" in machine.run("history").out
    assert held(machine) == [("hello", "rolled-back")]
    machine.run("apply")
    assert ctx(machine) == "2048"
    assert "W-HELD" not in machine.run("plan").err
    assert held(machine) == []


def test_a_rollback_does_nothing_but_what_was_approved(machine, edited, port):
    """What somebody starts while it reads local weights is not in the plan that was said yes to."""
    hello = profile("hello", path="hello.gguf", port=edited, ctx=2048)
    machine.declare(hello + profile("late", path="hello.gguf", port=(late := port()), start="manual"))
    with paused(machine, "lmctl.resources.weights.hash_local", "rollback", "1", "--yes") as go_on:
        machine.run("start", "late")
        ran = go_on()
    assert (ran.code, ctx(machine, "late")) == (4, "4096"), ran.err
    assert "error[E-PLAN-STALE]: this machine changed since the plan was shown — run `lmctl rollback 1`" in ran.err
    assert ask(late, "hi") and ask(edited, "hi")
    assert (machine.run("history", "--json").data["in_force"], ctx(machine)) == (None, "2048")


def held(machine) -> list[tuple[str, str]]:
    with closing(sqlite3.connect(machine.state() / "ledger.db")) as db:
        return db.execute("SELECT profile, reason FROM hold").fetchall()


def test_an_apply_that_finds_nothing_to_do_ends_a_rollback_as_well(machine, edited):
    machine.run("rollback", "1", "--yes")
    machine.declare(profile("hello", path="hello.gguf", port=edited, ctx=1024))
    pid = machine.profiles()["hello"]["pid"]
    assert "Nothing to do" in machine.run("apply").out
    assert (machine.run("history", "--json").data["in_force"], held(machine)) == (None, [])
    assert machine.profiles()["hello"]["pid"] == pid


def test_a_rollback_to_what_is_there_keeps_it_from_being_applied_over(machine, edited):
    machine.declare(profile("hello", path="hello.gguf", port=edited, ctx=4096))
    pid = machine.profiles()["hello"]["pid"]
    assert "Nothing to change. Generation 2 is in force" in machine.run("rollback", "2", "--yes").out
    assert machine.profiles()["hello"]["pid"] == pid
    assert machine.run("history", "--json").data["in_force"] == 2


def test_pruning_and_stopping_do_not_end_a_rollback(machine, edited):
    machine.run("rollback", "1", "--yes")
    machine.run("prune", "--now")
    machine.run("stop", "hello")
    assert machine.run("history", "--json").data["in_force"] == 1
    machine.run("start", "hello")
    assert (machine.run("history", "--json").data["in_force"], ctx(machine)) == (None, "2048")


def test_starting_what_a_rollback_did_not_touch_does_not_end_it_though_what_it_touched_is_stopped(machine, port):
    machine.hello()
    one, two = port(), port()
    other = profile("other", path="hello.gguf", port=two, start="manual")
    for size in (1024, 2048):
        machine.declare(profile("hello", path="hello.gguf", port=one, ctx=size) + other)
        machine.run("apply")
    machine.run("rollback", "1", "--yes")
    machine.run("stop", "hello")
    machine.run("start", "other")
    assert (machine.run("history", "--json").data["in_force"], ctx(machine)) == (1, "1024")
    assert HELD in machine.run("plan").err
    assert machine.profiles()["hello"]["state"] == "held"
    machine.run("start", "hello")
    assert (machine.run("history", "--json").data["in_force"], ctx(machine), held(machine)) == (None, "2048", [])


def test_profiles_of_then_come_back_and_those_of_now_go(machine, port):
    machine.hello()
    (machine.folder / "profiles").mkdir()
    one, two = port(), port()
    machine.declare('include = ["profiles/*.toml"]\n')
    first = machine.folder / "profiles/one.toml"
    first.write_text(f'path = "../hello.gguf"\nport = {one}\n')
    machine.run("apply")
    first.unlink()
    (machine.folder / "localmodels.local.toml").write_text(profile("two", path="hello.gguf", port=two))
    machine.run("apply")
    assert (listening(one), listening(two)) == (None, "127.0.0.1")
    machine.run("rollback", "1", "--yes")
    assert (listening(one), listening(two)) == ("127.0.0.1", None)
    assert not first.exists()
    assert held(machine) == [("one", "rolled-back"), ("two", "rolled-back")]
    machine.run("apply")
    assert (listening(one), listening(two)) == (None, "127.0.0.1")


def test_a_file_that_is_broken_or_gone_keeps_nobody_from_going_back(machine, edited):
    file = machine.folder / "localmodels.toml"
    for spoil in (lambda: file.write_text("broken"), file.unlink):
        spoil()
        machine.run("rollback", "1", "--yes")
        assert ctx(machine) == "1024"
        machine.run("rollback", "2", "--yes")
        assert ctx(machine) == "2048"
    assert "W-HELD" in machine.run("status").err


def test_weights_that_are_gone_are_announced_and_come_from_the_hub_again(machine, hub, port):
    number = port()
    hub.add(REPO, {FILE: hello("First.")})
    machine.declare(profile("hello", model=REPO, quant="Q4_K_M", port=number))
    machine.run("apply")
    (blob,) = (machine.home / ".cache/huggingface/hub").glob("models--*/blobs/*")
    machine.hello("Second.")
    machine.declare(profile("hello", path="hello.gguf", port=number))
    machine.run("apply")
    blob.unlink()
    assert ask(number, "hi") == "Second."
    shown = machine.run("rollback", "1", "--dry-run").out
    assert re.search(r"note: [\d.]+ KiB that generation 1 had are gone here and come from the Hub again", shown)
    machine.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"  # nobody is there
    assert "Generation 1 is what this machine was to go back to" in machine.run("rollback", "1", "--yes", code=7).out
    assert ask(number, "hi") == "Second."
    machine.environ["HF_ENDPOINT"] = hub.url
    machine.run("rollback", "1", "--yes")
    assert ask(number, "hi") == "First."


def test_a_local_file_that_changed_since_is_named(machine, edited):
    machine.hello("Another one.")
    machine.run("lock", "--upgrade")
    machine.run("apply")
    ran = machine.run("rollback", "1", "--yes", code=66)
    assert "put back the file that generation 1 was made of" in ran.err
    assert ask(edited, "hi") == "Another one."


@pytest.mark.parametrize(("gone", "code", "exit_code"), [(False, "E-LOCK-STALE", 66), (True, "E-FILE", 65)])
def test_a_local_file_that_is_gone_or_of_another_size_is_named_before_anything(machine, edited, gone, code, exit_code):
    file = machine.folder / "hello.gguf"
    if gone:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes() + b"more")
    pid = machine.profiles()["hello"]["pid"]
    for how in ("--dry-run", "--yes"):
        ran = machine.run("rollback", "1", how, code=exit_code)
        assert f"error[{code}]: {file} " in ran.err
        assert "put back the file that generation 1 was made of" in ran.err
        assert "Generation 1" not in ran.out
    history = machine.run("history", "--json").data
    assert (history["in_force"], [one["id"] for one in history["generations"]], held(machine)) == (None, [2, 1], [])
    assert "W-HELD" not in machine.run("status").err
    assert machine.profiles()["hello"]["pid"] == pid


def test_what_the_files_of_then_may_no_longer_say_is_refused_with_their_place(machine, port):
    config = machine.home / ".config/lmctl/machine.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[allow]\nteam = ["command"]\n')
    machine.declare(profile("own", backend="command", command=["sleep", "60"], port=port(), start="manual"))
    machine.run("apply")
    config.unlink()
    machine.hello()
    machine.declare(profile("hello", path="hello.gguf", port=port()))
    machine.run("apply")
    ran = machine.run("rollback", "1", "--yes", code=4)
    assert "error[E-TRUST]: snapshots/1/localmodels.toml:" in ran.err


def test_what_was_not_in_the_files_is_said_not_to_be_kept(machine, edited):
    machine.run("--set", "profiles.hello.ctx=512", "apply")
    assert "of then the files alone are kept" in machine.run("rollback", "3", "--dry-run").out
    assert "of then the files alone are kept" not in machine.run("rollback", "1", "--dry-run").out


def test_a_snapshot_is_refused_by_name_when_there_is_none(machine, edited):
    assert "there are snapshots of: 1, 2" in machine.run("rollback", "7", "--yes", code=64).err
    machine.run("rollback", "none", code=64)


def test_a_person_at_a_terminal_is_asked(machine, edited):
    for answer, expected in ((b"n\n", "2048"), (b"y\n", "1024")):
        process, terminal = pty.fork()
        if process == 0:
            os.chdir(machine.folder)
            os.execve(sys.executable, [sys.executable, "-m", "lmctl", "rollback", "1"], machine.env())
        said = b""
        while b"[y/N]" not in said:
            assert select.select([terminal], [], [], 60)[0], said
            said += os.read(terminal, 4096)
        os.write(terminal, answer)
        assert "(ctx: 2048 → 1024)" in said.decode()
        shown, status = _drained(process, terminal)
        assert (os.waitstatus_to_exitcode(status), ctx(machine)) == (0 if answer == b"y\n" else 4, expected)
        assert (b"E-CONSENT" in shown and b"nothing was changed" in shown) == (answer == b"n\n")


def _drained(process: int, terminal: int) -> tuple[bytes, int]:
    """Read what the process says until it ends; return that and its status."""
    shown = b""
    try:
        while said := os.read(terminal, 4096):
            shown += said
    except OSError:  # the other side is closed
        pass
    status = os.waitpid(process, 0)[1]
    os.close(terminal)
    return shown, status


def test_F33_a_state_of_a_newer_lmctl_is_shown_and_never_changed(machine, edited):
    with closing(sqlite3.connect(machine.state() / "ledger.db", isolation_level=None)) as db:
        db.execute("UPDATE meta SET value='9.9.9' WHERE key='needs'")
        db.execute("PRAGMA user_version=99")
    machine.hello("Second.", "two.gguf")
    for command in ("plan", "status", "drift", "history", "verify", "validate", "config", "logs hello"):
        machine.run(*command.split())
    assert "written by lmctl >= 9.9.9" in machine.run("plan").err
    pid, before = machine.profiles()["hello"]["pid"], (machine.state() / "ledger.db").read_bytes()
    acting = (
        "apply",
        "start hello",
        "restart hello",
        "stop hello",
        "prune",
        "rollback 1 --yes",
        "drift --record",
        "uninstall --yes",
    )
    for command in acting:
        assert "error[E-STATE]" in machine.run(*command.split(), code=8).err
    assert machine.profiles()["hello"]["pid"] == pid
    assert (machine.state() / "ledger.db").read_bytes() == before
    machine.run("down")


def test_F82_a_ledger_that_is_lost_or_broken_takes_nothing_but_the_right_to_prune(machine, edited):
    pid, ledger = machine.profiles()["hello"]["pid"], machine.state() / "ledger.db"
    ledger.write_bytes(b"no database" * 1000)
    assert "cannot be read" in machine.run("plan").err
    assert "cannot be read" in machine.run("history").err
    (drift,) = machine.run("drift", "--json", code=2).data["drift"]  # nobody remembers that the weights were hashed
    assert (drift["class"], drift["moved"]) == ("unverifiable", None)
    back = machine.run("rollback", "1", "--dry-run")
    assert "restart program:hello  (--ctx-size: 2048" in back.out
    assert "cannot be read" in back.err
    assert "put aside as ledger.db.corrupt-" in machine.run("apply").err
    assert "E-STATE" not in machine.run("plan").err
    assert "E-STATE" not in machine.run("apply").err
    ledger.unlink()
    assert "is gone or empty" in machine.run("apply").err
    assert "E-STATE" not in machine.run("status").err
    assert machine.profiles()["hello"]["pid"] == pid
    assert ask(edited, "hi")
    machine.run("rollback", "1", "--yes")
    assert ctx(machine) == "1024"
    assert machine.run("history", "--json").data["generations"][0]["id"] > 2


def test_an_apply_that_was_killed_or_broke_off_stands_in_the_history(machine, hub, port):
    hub.add(REPO, {FILE: hello("Slow.")})
    machine.declare(profile("hello", model=REPO, quant="Q4_K_M", port=port()))
    machine.run("lock")
    hub.fault(REPO, FILE, stall=1000, where="get")  # it ends when it is killed, and not before
    for number in (signal.SIGKILL, signal.SIGINT):
        hub.requests.clear()
        with machine.start("apply") as process:
            until(lambda: hub.asked("/resolve/"))
            process.send_signal(number)
            process.communicate(timeout=60)
    hub.heal()
    machine.run("apply")
    results = [one["result"] for one in machine.run("history", "--json").data["generations"]]
    assert results == ["done", "interrupted", "interrupted"]


def test_what_is_not_trusted_any_more_does_not_come_back(machine):
    """A rollback is no way around trust: what an edit replaced has to be trusted anew."""
    own = '[profiles.own]\nbackend = "command"\ncommand = ["{}", "{{port}}"]\nport = 18099\nstart = "manual"\n'
    for program in ("/bin/true", "/bin/false"):
        machine.declare(own.format(program))
        machine.run("trust", "--yes")
        machine.run("apply")
    ran = machine.run("rollback", "1", "--yes", code=4)
    assert "error[E-TRUST]: snapshots/1/localmodels.toml:5:1: command runs a program" in ran.err
    assert "put back the file that generation 1 was made of, then read it and run `lmctl trust`" in ran.err
    assert "Nothing to do" in machine.run("plan").out
