"""The gateway and the watcher as programs of the declaration: applied, shown, stopped and restarted like any other."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from e2e_tools import ask, error, profile, until
from fakes.ports import free_range

from lmctl.spec import program_id

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def status_of(port: int, path: str, **headers: str) -> int:
    """Return the status of a GET; 0 where nobody answers."""
    try:
        with _OPENER.open(urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers), timeout=60) as one:
            return int(one.status)
    except urllib.error.HTTPError as refused:
        return refused.code
    except OSError:
        return 0


def models(port: int) -> set[str]:
    """Return the models that a gateway lists."""
    with _OPENER.open(f"http://127.0.0.1:{port}/v1/models", timeout=60) as answer:
        return {one["id"] for one in json.load(answer)["data"]}


def named(port: int, model: str) -> str:
    """Return what a model answers by its name at the gateway's own port."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 32}).encode()
    url, kind = f"http://127.0.0.1:{port}/v1/chat/completions", {"Content-Type": "application/json"}
    with _OPENER.open(urllib.request.Request(url, body, kind), timeout=120) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


def rows(machine: Any) -> dict[str, dict[str, Any]]:
    """Return what status says of every program, by name."""
    data = machine.run("status", "--json").data
    return {row["profile"]: row for row in (*data["profiles"], *data["services"])}


def pids(machine: Any) -> dict[str, int]:
    return {name: row["pid"] for name, row in rows(machine).items()}


def listens(machine: Any) -> dict[str, int]:
    """Return the ports of all programs, by profile, from their files."""
    files = (json.loads(path.read_text()) for path in (machine.state() / "programs").glob("*.json"))
    return {one["profile"]: int(one["listen"].rpartition(":")[2] or 0) for one in files}


@pytest.fixture
def two(machine: Any, port: Callable[[], int]) -> int:
    """Two declared profiles, hello with a port of its own and world without; the port."""
    machine.hello()
    own = port()
    machine.declare(profile("hello", path="hello.gguf", port=own) + profile("world", path="hello.gguf"))
    return own


@pytest.fixture
def front(machine: Any, two: int) -> tuple[int, int]:
    """The same, applied behind a gateway; the gateway's port and hello's."""
    number = machine.gateway()
    said = machine.run("apply").out
    assert f"hello answers at http://127.0.0.1:{two}/v1\n" in said
    assert f'world answers at http://127.0.0.1:{number}/v1 as model "world"\n' in said
    return number, two


def test_clients_reach_every_profile_as_soon_as_apply_ends_and_a_second_one_does_nothing(machine, front):
    number, own = front
    assert ask(own, "hi") == "Hello from here."
    assert named(number, "world") == named(number, "hello") == "Hello from here."
    before, written = pids(machine), {p: p.stat().st_mtime_ns for p in machine.state().rglob("programs/*")}
    assert machine.run("apply").out.startswith("Nothing to do")
    assert machine.run("drift").out.startswith("No drift.")
    assert pids(machine) == before
    assert {p: p.stat().st_mtime_ns for p in machine.state().rglob("programs/*")} == written


def test_an_edit_of_a_profile_restarts_its_engine_alone(machine, front):
    before = pids(machine)
    file = machine.folder / "localmodels.toml"
    file.write_text(file.read_text().replace("[profiles.hello]", "[profiles.hello]\nctx = 512"))
    machine.run("apply")
    after = pids(machine)
    assert {name for name in before if before[name] != after[name]} == {"hello"}
    assert ask(front[1], "hi") == "Hello from here."


def test_another_port_of_the_gateway_restarts_nothing(machine, two, port):
    first, last = free_range(4)
    old, new = port(), port()
    del machine.environ["LMCTL_GATEWAY__ENABLED"]
    file = machine.folder / "localmodels.toml"
    table = f'[gateway]\nengine_ports = "{first}-{last}"\nport = '
    file.write_text(f"{file.read_text()}{table}{old}\n")
    machine.run("apply")
    before = pids(machine)
    file.write_text(file.read_text().replace(f"port = {old}", f"port = {new}"))
    plan = machine.run("plan").out
    assert f"~ update  program:gateway  (listen: 127.0.0.1:{old} → 127.0.0.1:{new})" in plan
    machine.run("apply")
    assert pids(machine) == before
    assert named(new, "world") == "Hello from here."
    until(lambda: status_of(old, "/health") == 0)


def test_engines_behind_the_gateway_demand_a_key_that_nobody_else_reads(machine, front):
    ports = listens(machine)
    for name in ("hello", "world"):
        file = machine.state() / "keys" / program_id(name)
        key = file.read_text().strip()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600 and stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        assert len(bytes.fromhex(key)) == 32
        assert status_of(ports[name], "/v1/models") == 401
        assert status_of(ports[name], "/v1/models", Authorization=f"Bearer {key}") == 200
        assert all(key not in " ".join(process.cmdline()) for process in machine.processes())
        said = machine.run("plan", "--json").out + machine.run("status", "--json").out + "".join(machine.said)
        assert key not in said
        kept = [path for path in machine.home.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]
        assert kept == [file]


def test_a_key_that_is_gone_is_made_anew_with_a_restart(machine, front):
    before = pids(machine)
    (machine.state() / "keys" / program_id("hello")).unlink()
    assert "↻ restart program:hello  (key: gone or damaged → made anew)" in machine.run("plan").out
    machine.run("apply", "world")
    assert pids(machine) == before
    machine.run("apply")
    after = pids(machine)
    assert {name for name in before if before[name] != after[name]} == {"hello"}
    until(lambda: ask(front[1], "hi") == "Hello from here.")


def test_switching_the_gateway_off_gives_engines_their_ports(machine, front):
    ports = listens(machine)
    machine.environ["LMCTL_GATEWAY__ENABLED"] = "false"
    plan = machine.run("plan").out
    assert "- delete  program:gateway" in plan
    assert f"listen: 127.0.0.1:{ports['hello']} → 127.0.0.1:{front[1]}" in plan
    assert "127.0.0.1" not in next(line for line in plan.splitlines() if "program:world" in line)
    machine.run("apply")
    assert listens(machine) == {"hello": front[1], "world": ports["world"]}
    assert ask(front[1], "hi") == ask(ports["world"], "hi") == "Hello from here."
    assert status_of(front[0], "/health") == 0
    assert not list((machine.state() / "keys").iterdir())
    machine.environ["LMCTL_GATEWAY__ENABLED"] = "true"
    machine.run("apply")
    assert listens(machine) == {**ports, "gateway": front[0]}
    assert ask(front[1], "hi") == "Hello from here."


def test_supervisord_starts_a_killed_gateway_again(machine, front):
    before = pids(machine)
    os.kill(before["gateway"], signal.SIGKILL)
    until(lambda: ask_or_none(front[1]) == "Hello from here.")
    after = pids(machine)
    assert {name for name in before if before[name] != after[name]} == {"gateway"}


def ask_or_none(port: int) -> str | None:
    try:
        return ask(port, "hi")
    except OSError:
        return None


def test_a_foreign_program_on_the_gateway_s_port_moves_no_engine(machine, two):
    machine.run("apply")
    before = pids(machine)
    number = machine.gateway()
    with socket.create_server(("127.0.0.1", number)):
        refused = machine.run("apply", code=9)
    assert f"error[E-PORT]: port {number}, which the gateway needs, is taken by pid {os.getpid()}" in refused.err
    assert "error[E-PORT]: hello stays as it is" in refused.err
    assert pids(machine) == {**before, "gateway": None}
    assert ask(two, "hi") == "Hello from here."


def test_a_second_declaration_is_told_whose_gateway_has_the_port(machine, front):
    other = machine.home / "other"
    other.mkdir()
    (other / "hello.gguf").write_bytes((machine.folder / "hello.gguf").read_bytes())
    (other / "localmodels.toml").write_text(f'version = 1\nname = "other"\n{profile("one", path="hello.gguf")}')
    refused = machine.run("-C", str(other), "apply", code=3)
    assert f"port {front[0]}, which the gateway needs, is taken by the gateway of declaration team" in refused.err
    assert "set another `port` in [gateway], or `enabled = false`" in refused.err
    machine.run("-C", str(other), "--set", "gateway.enabled=false", "apply")


def test_the_gateway_is_stopped_held_and_started_by_its_name(machine, front):
    assert "gateway" not in {row["profile"] for row in machine.run("status", "--json").data["profiles"]}
    assert machine.run("status", "gateway").out.splitlines()[2].split()[:2] == ["gateway", "healthy"]
    assert machine.run("stop", "gateway").out == "gateway stopped\n"
    assert machine.run("status", "gateway", code=9)
    assert "W-HELD" in machine.run("apply").err
    assert status_of(front[0], "/health") == 0
    machine.run("start", "gateway")
    before = pids(machine)
    assert ask(front[1], "hi") == "Hello from here."
    machine.run("restart", "gateway")
    after = pids(machine)
    assert {name for name in before if before[name] != after[name]} == {"gateway"}
    assert "answers for hello, world" in machine.run("logs", "gateway").out


def test_a_second_gateway_is_refused_in_one_line(machine, front):
    assert "E-BUSY" in error(machine.run("gateway", code=5))
    machine.environ["LMCTL_GATEWAY__ENABLED"] = "false"
    assert "set `enabled = true` in [gateway]" in error(machine.run("gateway", code=64))


def test_what_a_run_overrides_counts_for_the_gateway_as_well(machine, two, port):
    machine.gateway()
    words = ("--set", f"gateway.port={(number := port())}", "--set", 'profiles.world.aliases=["other"]')
    machine.run(*words, "apply")
    assert named(number, "other") == "Hello from here."
    assert machine.run(*words, "plan").out.startswith("Nothing to do")
    assert "program:gateway" in machine.run("plan").out


def test_the_gateway_answers_for_what_a_rollback_brought_back(machine, front, port):
    number, own = front
    machine.declare(profile("hello", path="hello.gguf", port=(other := port())))
    machine.run("apply")
    until(lambda: status_of(other, "/health") == 200)
    machine.run("rollback", "1", "--yes")
    until(lambda: status_of(own, "/health") == 200)  # it looks once a second
    assert ask(own, "hi") == named(number, "world") == "Hello from here."
    until(lambda: status_of(other, "/health") == 0)
    machine.run("apply")
    until(lambda: status_of(other, "/health") == 200 and status_of(own, "/health") == 0)
    assert ask(other, "hi") == "Hello from here."


def test_a_broken_file_keeps_no_rollback_from_being_answered_for(machine, front):
    file = machine.folder / "localmodels.toml"
    file.write_text(file.read_text().replace("[profiles.world]", "[profiles.renamed]"))
    machine.run("apply")
    file.write_text("[broken")
    machine.run("rollback", "1", "--yes")
    until(lambda: "world" in models(front[0]))
    os.kill(pids(machine)["gateway"], signal.SIGKILL)
    until(lambda: status_of(front[0], "/health") == 200)
    assert named(front[0], "world") == "Hello from here."


def test_a_run_about_one_profile_brings_the_gateway_that_it_is_reached_by(machine, two):
    machine.gateway()
    machine.run("apply", "hello")
    assert ask(two, "hi") == "Hello from here."
    assert set(listens(machine)) == {"hello", "gateway"}


def test_a_watcher_is_supervised_applies_what_is_saved_and_leaves_itself_alone(machine, two):
    machine.gateway()
    file = machine.folder / "localmodels.toml"
    text = file.read_text()
    file.write_text(f"{text}\n[watch]\nenabled = true\n")
    machine.run("apply")
    before = rows(machine)
    assert before["watch"]["state"] == before["gateway"]["state"] == "healthy"
    assert "E-BUSY" in error(machine.run("watch", code=5))
    edited = text.replace("[profiles.hello]", "[profiles.hello]\nctx = 512")
    file.write_text(f"{edited}\n[watch]\nenabled = true\n")
    until(lambda: pids(machine)["hello"] != before["hello"]["pid"])
    until(lambda: ask_or_none(two) == "Hello from here.")
    file.write_text(text)
    log = machine.state() / "logs/watch.log"
    until(lambda: "the watcher is to end" in log.read_text())
    after = pids(machine)
    assert [after[name] for name in ("watch", "gateway")] == [before[name]["pid"] for name in ("watch", "gateway")]
    machine.run("apply", "--wait")
    assert "watch" not in rows(machine)
    file.write_text(f"{text}\n[watch]\nenabled = true\n")
    machine.run("apply")
    machine.run("down", "--wait")
    until(lambda: not [process for process in machine.processes() if "lmctl" in " ".join(process.cmdline())])


def test_a_watcher_in_the_foreground_keeps_apply_from_starting_another(machine, two):
    machine.run("apply")
    watcher = machine.start("watch")
    assert watcher.stdout.readline() == "watching team; interrupt to end\n"
    file = machine.folder / "localmodels.toml"
    file.write_text(f"{file.read_text()}\n[watch]\nenabled = true\n")
    refused = machine.run("apply", "--wait", code=3)
    assert f"pid {watcher.pid} is a `lmctl watch` that somebody started" in refused.err
    watcher.send_signal(signal.SIGTERM)
    watcher.communicate(timeout=120)
    machine.run("apply", "--wait")
    assert rows(machine)["watch"]["state"] == "healthy"


def test_profiles_on_demand_wait_to_be_asked_for(machine, front):
    file = machine.folder / "localmodels.toml"
    file.write_text(file.read_text() + profile("later", path="hello.gguf", start="on-demand"))
    said = machine.run("apply").out
    assert "later: started when a request asks for it" in said
    assert rows(machine)["later"]["state"] == "waiting"
    machine.environ["LMCTL_GATEWAY__ENABLED"] = "false"
    assert 'later: start = "on-demand" counts as "manual" while the gateway is off' in machine.run("plan").out


def test_a_file_of_keys_that_others_can_read_moves_no_engine(machine, two):
    machine.run("apply")
    before, config = pids(machine), machine.home / ".config/lmctl"
    config.mkdir(parents=True)
    (config / "keys").write_text("a-key-that-nobody-guesses\n")
    (config / "keys").chmod(0o644)
    (config / "machine.toml").write_text('[gateway]\napi_keys_file = "keys"\n')
    number = machine.gateway()
    assert "error[E-PERM]" in machine.run("apply", code=8).err
    assert pids(machine) == {**before, "gateway": None}
    (config / "keys").chmod(0o600)
    machine.run("apply")
    assert (status_of(number, "/v1/models"), status_of(number, "/health")) == (401, 200)
    assert ask(two, "hi") == "Hello from here.", "a profile's own port asks for none, as before"
