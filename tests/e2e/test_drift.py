"""Drift as a person meets it: what was edited, removed, cut or stopped behind lmctl's back, and what mends it."""

from __future__ import annotations

import json
import os
import signal
import socket

import jsonschema
import pytest
from e2e_tools import ask, profile, until
from weights.hello import hello

from lmctl.schema import schemas

REPO, FILE = "org/hello-GGUF", "hello-Q4_K_M.gguf"
SCHEMA = json.loads(schemas()["drift.schema.json"])


def drifts(machine, *words: str, code: int = 2) -> list[tuple[str, str, str | None, str]]:
    """Return class, address, who moved and what mends it, of all that drifts."""
    data = machine.run("drift", "--json", *words, code=code).data
    jsonschema.validate(data, SCHEMA)
    return [(one["class"], one["address"], one["moved"], one["mend"]) for one in data["drift"]]


@pytest.fixture
def served(machine, port):
    """A profile of a local file that runs; its port."""
    machine.hello()
    number = port()
    machine.declare(profile("hello", path="hello.gguf", port=number, ctx=1024))
    machine.run("apply")
    return number


def mended(machine, *command: str) -> None:
    machine.run(*(command or ("apply",)))
    assert "No drift" in machine.run("drift").out


def test_nothing_drifts_after_an_apply_and_looking_writes_nothing(machine, served):
    before = {path: path.stat().st_mtime_ns for path in machine.state().rglob("*") if path.is_file()}
    assert "No drift. team is as declared." in machine.run("drift").out
    assert drifts(machine, code=0) == []
    logs = machine.state() / "logs"
    after = {path: path.stat().st_mtime_ns for path in machine.state().rglob("*") if path.is_file()}
    assert {path for path in before if before[path] != after[path] and logs not in path.parents} == set()
    assert {path for path in after.keys() - before.keys() if logs not in path.parents} == set()


def test_an_edit_that_is_not_applied_is_your_file(machine, served):
    machine.declare(profile("hello", path="hello.gguf", port=served, ctx=2048))
    assert drifts(machine) == [("modified", "program:hello", "file", "lmctl apply")]
    assert "ctx: 1024 instead of 2048" in machine.run("drift", code=2).out
    mended(machine)


def test_F70_a_supervisord_conf_edited_by_hand_is_the_world(machine, served):
    conf, pid = machine.state() / "supervisord.conf", machine.profiles()["hello"]["pid"]
    text = conf.read_text()
    conf.write_text(text.replace("autostart=true", "autostart=false") + "[include]\nfiles=*.ini\n")
    assert drifts(machine) == [
        ("modified", "program:hello", "world", "lmctl apply"),
        ("modified", "supervisord:files", "world", "lmctl apply"),
    ]
    mended(machine)
    assert (conf.read_text(), machine.profiles()["hello"]["pid"]) == (text, pid)


def test_F70_a_program_file_edited_by_hand_is_found_though_its_hash_stayed(machine, served):
    (file,) = (machine.state() / "programs").glob("*.json")
    text = file.read_text()
    file.write_text(text.replace('"1024"', '"4096"'))
    (drift,) = machine.run("drift", "--json", code=2).data["drift"]
    assert drift["fields"] == [
        {"field": "--ctx-size", "desired": "1024", "applied": "1024", "observed": "4096"},
    ]
    mended(machine)
    assert file.read_text() == text


def test_a_program_stopped_by_hand_is_told_and_one_that_was_asked_to_stop_is_not(machine, served):
    machine.run("down")
    assert drifts(machine) == [("stopped", "program:hello", "world", "lmctl apply")]
    assert "supervisord is not running instead of running" in machine.run("drift", code=2).out
    mended(machine)
    machine.run("stop", "hello")
    assert drifts(machine, code=0) == []
    mended(machine, "start", "hello")


def test_a_frozen_program_is_unhealthy_and_nothing_waits_for_it(machine, served):
    pid = machine.profiles()["hello"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    machine.environ["LMCTL_PROFILES__HELLO__START_TIMEOUT"] = '"250ms"'
    try:
        until(lambda: drifts(machine) == [("unhealthy", "program:hello", "world", "lmctl restart hello")])
    finally:
        os.kill(pid, signal.SIGCONT)
    assert ask(served, "hi")


def test_a_port_that_a_stranger_took_is_a_collision(machine, served):
    machine.run("down")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        until(lambda: not _fails(lambda: taken.bind(("127.0.0.1", served))))
        taken.listen()
        assert [one[:3] for one in drifts(machine)] == [
            ("collision_unmanaged", "program:hello", "world"),
            ("stopped", "program:hello", "world"),
        ]


def _fails(act) -> bool:
    try:
        act()
    except OSError:
        return True
    return False


def test_F56_weights_removed_cut_or_touched_are_told_apart_without_reading_them(machine, hub, port):
    hub.add(REPO, {FILE: hello("Hello from the Hub.")})
    number = port()
    machine.declare(profile("hello", model=REPO, quant="Q4_K_M", port=number))
    machine.run("apply")
    (blob,) = (machine.home / ".cache/huggingface/hub").glob("models--*/blobs/*")
    content, pid = blob.read_bytes(), machine.profiles()["hello"]["pid"]
    address = machine.run("history", "1", "--json").data["plan"]["changes"][0]["address"]
    hub.requests.clear()
    blob.touch()
    assert drifts(machine) == [("modified", address, "world", "lmctl apply")]
    mended(machine)
    cut = machine.home / "cut"  # another file under the name: what the running program maps stays whole
    cut.write_bytes(content[:1000])
    cut.replace(blob)
    assert drifts(machine) == [("corrupt", address, "world", "lmctl apply")]
    blob.unlink()
    assert drifts(machine) == [("missing", address, "world", "lmctl apply")]
    assert machine.profiles()["hello"]["pid"] == pid  # what is mapped is served to the end
    assert hub.requests == []
    mended(machine)
    assert blob.read_bytes() == content
    assert ask(number, "hi") == "Hello from the Hub."


def test_what_is_not_declared_any_more_and_what_is_not_locked_yet(machine, served, port):
    machine.hello("Second.", "two.gguf")
    machine.declare(profile("two", path="two.gguf", port=port()))
    assert drifts(machine) == [
        ("lock_outdated", "lock:path=two.gguf", "file", "lmctl lock"),
        ("orphan_owned", "program:hello", "file", "lmctl apply"),
    ]
    machine.run("lock")
    assert [one[:3] for one in drifts(machine)] == [
        ("orphan_owned", "program:hello", "file"),
        ("missing", "program:two", "file"),
        ("unverifiable", "weights:path=two.gguf", "file"),
    ]
    mended(machine)


def test_recorded_drift_is_one_row_with_the_days_it_was_seen_and_ends(machine, served):
    machine.declare(profile("hello", path="hello.gguf", port=served, ctx=2048))
    (first,) = machine.run("drift", "--json", code=2).data["drift"]
    assert (first["first_seen"], first["count"]) == (None, 0)
    for _ in range(2):
        machine.run("drift", "--record", code=2)
    (known,) = machine.run("drift", "--json", code=2).data["drift"]
    assert (known["fingerprint"], known["count"]) == (first["fingerprint"], 2)
    assert known["first_seen"] <= known["last_seen"]
    assert "(2x)" in machine.run("drift", code=2).out
    mended(machine)
    machine.run("drift", "--record")
    machine.declare(profile("hello", path="hello.gguf", port=served, ctx=2048) + "# again\n")
    assert "No drift" in machine.run("drift").out


def test_a_broken_configuration_is_said_and_the_rest_is_compared(machine, served):
    file = machine.folder / "localmodels.toml"
    text = file.read_text()
    file.write_text(text + "port = \n")
    ran = machine.run("drift", code=65)
    assert "error[E-TOML]" in ran.err and "as far as it could be looked at" in ran.out
    machine.run("down")
    ran = machine.run("drift", "--json", "--record", code=2)
    assert [one["class"] for one in ran.data["drift"]] == ["stopped"]
    assert (ran.data["complete"], ran.json["warnings"][0]["code"]) == (False, "E-TOML")
    file.write_text(text)
    mended(machine)


def test_a_broken_lock_is_said_and_the_rest_is_compared(machine, served):
    lock = machine.folder / "localmodels.lock"
    lock.write_text(lock.read_text() + "[")
    ran = machine.run("drift", code=66)
    assert "error[E-LOCK]" in ran.err
    machine.run("down")
    assert drifts(machine) == [("stopped", "program:hello", "world", "lmctl apply")]


def test_where_nothing_was_applied_everything_is_missing_and_the_state_stays_empty(declared):
    declared.run("lock")
    before = set(declared.state().rglob("*"))
    assert [one[:2] for one in drifts(declared)] == [
        ("missing", "program:hello"),
        ("unverifiable", "weights:path=hello.gguf"),
    ]
    assert set(declared.state().rglob("*")) == before
    assert "Nothing was applied yet" in declared.run("history").out
