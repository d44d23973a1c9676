"""The main job with a local file: declare, plan, apply, ask, edit, apply, prune, down."""

from __future__ import annotations

import os
import socket
import urllib.request
from pathlib import Path

import pytest
from e2e_tools import ask, exhaust, listening


def _snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_declared_file_is_locked_verified_started_and_answers(machine, port):
    machine.hello("Hello from a model.")
    number = port()
    machine.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {number}\n')
    planned = machine.run("plan")
    assert "+ create  lock:path=hello.gguf" in planned.out
    applied = machine.run("apply")
    assert "✓ create  program:hello" in applied.out
    assert ask(number, "hi") == "Hello from a model."
    row = machine.profiles()["hello"]
    assert (row["state"], row["drift"], row["url"]) == ("healthy", "none", f"http://127.0.0.1:{number}")
    assert row["memory"] > 1 << 20
    assert listening(number) == "127.0.0.1"
    machine.run("status", "hello")
    assert "Nothing to do" in machine.run("plan").out


def test_F17_applying_twice_writes_nothing_and_restarts_nothing(machine, port):
    machine.hello()
    machine.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {port()}\n')
    machine.run("apply")
    files, pid = _snapshot(machine.home), machine.profiles()["hello"]["pid"]
    logs = machine.state() / "logs"
    assert "Nothing to do" in machine.run("apply").out
    after = _snapshot(machine.home)
    changed = {path for path in files.keys() | after.keys() if files.get(path) != after.get(path)}
    assert not {path for path in changed if not path.startswith(str(logs))}
    assert machine.profiles()["hello"]["pid"] == pid


def test_F31_an_edit_restarts_exactly_what_it_touches(machine, port):
    machine.hello()
    one, two = port(), port()
    text = '[profiles.one]\npath = "hello.gguf"\nport = {}\nctx = {}\n[profiles.two]\npath = "hello.gguf"\nport = {}\n'
    machine.declare(text.format(one, 1024, two))
    machine.run("apply")
    before = machine.profiles()
    machine.declare(text.format(one, 2048, two))
    planned = machine.run("plan", "--json", "--detailed-exitcode", code=2).data
    assert [(c["verb"], c["address"], c["cause"]) for c in planned["changes"]] == [
        ("restart", "program:one", [{"field": "ctx", "before": 1024, "after": 2048}])
    ]
    machine.run("apply")
    after = machine.profiles()
    assert after["one"]["pid"] != before["one"]["pid"]
    assert after["two"]["pid"] == before["two"]["pid"]
    machine.declare(text.format(one, 2048, two) + "# only a comment\n")
    machine.run("plan", "--detailed-exitcode", code=0)


def test_a_removed_profile_stops_and_the_rest_goes_on(machine, port):
    machine.hello()
    keep = f'[profiles.keep]\npath = "hello.gguf"\nport = {port()}\n'
    machine.declare(keep + f'[profiles.drop]\npath = "hello.gguf"\nport = {(gone := port())}\n')
    machine.run("apply")
    pid = machine.profiles()["keep"]["pid"]
    machine.declare(keep)
    assert "- delete  program:drop" in machine.run("plan").out
    machine.run("apply")
    assert machine.profiles()["keep"]["pid"] == pid
    assert listening(gone) is None


def test_F21_an_emptied_configuration_never_removes_anything(machine, port):
    machine.hello()
    file = machine.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {(number := port())}\n')
    machine.run("apply")
    text = file.read_text()
    file.write_text("")
    machine.run("apply", code=65)
    file.unlink()
    machine.run("apply", code=65)
    file.write_text(text)
    assert ask(number, "hi")


def test_F74_a_taken_port_is_named_with_its_holder_and_nothing_else_stops(machine, port):
    machine.hello()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", number := port()))
        taken.listen()
        machine.declare(
            f'[profiles.blocked]\npath = "hello.gguf"\nport = {number}\n'
            f'[profiles.free]\npath = "hello.gguf"\nport = {(other := port())}\n'
        )
        ran = machine.run("apply", code=3)
        assert f"error[E-PORT]: port {number} is taken by pid {os.getpid()}" in ran.err
        assert ask(other, "hi")
    machine.run("apply")
    assert ask(number, "hi")


def test_stop_holds_and_start_lifts(machine, port):
    machine.hello()
    machine.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {(number := port())}\n')
    machine.run("apply")
    machine.run("stop", "hello")
    assert listening(number) is None
    assert "W-HELD" in machine.run("plan").err
    assert "Nothing to do" in machine.run("apply").out
    machine.run("status", "hello", code=9)
    machine.run("start", "hello")
    assert ask(number, "hi")
    pid = machine.profiles()["hello"]["pid"]
    machine.run("restart", "hello")
    assert machine.profiles()["hello"]["pid"] != pid


def test_naming_a_held_profile_in_apply_lifts_its_hold(machine, port):
    machine.hello()
    machine.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {(number := port())}\n')
    machine.run("apply")
    machine.run("stop", "hello")
    machine.run("apply", "hello")
    assert ask(number, "hi")


def test_profiles_on_one_port_take_turns(machine, port):
    machine.hello("First model.", "one.gguf")
    machine.hello("Second model.", "two.gguf")
    number = port()
    machine.declare(
        f'[profiles.one]\npath = "one.gguf"\nport = {number}\nstart = "manual"\n'
        f'[profiles.two]\npath = "two.gguf"\nport = {number}\nstart = "manual"\n'
    )
    machine.run("apply")
    assert listening(number) is None
    machine.run("start", "one")
    assert ask(number, "hi") == "First model."
    assert "stopping one" in machine.run("start", "two").err
    assert ask(number, "hi") == "Second model."
    assert machine.profiles()["one"]["state"] == "stopped"


def test_a_saved_plan_is_applied_once_and_refused_when_the_world_moved(machine, port):
    machine.hello()
    machine.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {port()}\n')
    machine.run("lock")
    machine.run("plan", "--out", "saved.json")
    machine.run("apply", "--plan", "saved.json")
    ran = machine.run("apply", "--plan", "saved.json", code=4)
    assert "E-PLAN-STALE" in ran.err
    (machine.folder / "broken.json").write_text("{}")
    machine.run("apply", "--plan", "broken.json", code=64)


def test_a_locked_apply_refuses_what_the_lock_lacks(machine, port):
    machine.hello()
    machine.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {port()}\n')
    refused = machine.run("apply", "--locked", code=66)
    assert "E-LOCK-STALE" in refused.err
    assert not (machine.folder / "localmodels.lock").exists()
    row = machine.profiles()["hello"]
    assert (row["state"], row["drift"]) == ("stopped", "not locked")
    machine.run("lock")
    machine.run("apply", "--locked")
    assert machine.profiles()["hello"]["state"] == "healthy"


def test_a_local_file_that_changed_is_refused_and_the_running_model_stays(machine, port):
    machine.hello("Old words.")
    machine.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {(number := port())}\n')
    machine.run("apply")
    new = machine.folder / "new.gguf"
    machine.hello("New words.", "new.gguf")
    new.replace(machine.folder / "hello.gguf")
    ran = machine.run("apply", code=None)
    assert ran.code in (66, 3)
    assert "lmctl lock --upgrade" in ran.err
    assert ask(number, "hi") == "Old words."
    machine.run("lock", "--upgrade")
    machine.run("apply")
    assert ask(number, "hi") == "New words."


def test_the_name_of_another_folder_is_refused_until_it_is_taken(machine, port):
    machine.hello()
    machine.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {port()}\n')
    machine.run("apply")
    other = machine.home / "other"
    other.mkdir()
    for name in ("localmodels.toml", "localmodels.lock", "hello.gguf"):
        (other / name).write_bytes((machine.folder / name).read_bytes())
    assert "E-NAME-TAKEN" in machine.run("-C", str(other), "plan", code=4).err
    machine.run("-C", str(other), "apply", code=4)
    machine.run("-C", str(other), "apply", "--take")
    machine.run("apply", code=4)


def test_a_model_that_nothing_declares_runs_until_it_is_stopped(machine, port):
    machine.hello("Nobody declared me.", "loose.gguf")
    number = port()
    said = machine.run("start", "--model", "loose.gguf", "--port", str(number)).out
    assert said.endswith("loose is declared nowhere: `lmctl stop loose` ends it.\n")
    assert ask(number, "hi") == "Nobody declared me."
    assert list(machine.profiles()) == ["loose"]
    machine.run("stop", "loose")
    assert listening(number) is None
    assert "loose" not in machine.profiles()


def test_a_model_can_be_saved_as_a_profile_when_it_is_started(machine, port):
    machine.hello("Saved now.", "loose.gguf")
    file = machine.declare("# my models\n", name="mine")
    number = port()
    said = machine.run("start", "--model", "loose.gguf", "--port", str(number), "--save", "kept").out
    assert said.endswith("Declared profile kept in localmodels.toml; `lmctl stop kept` stops it.\n")
    assert ask(number, "hi") == "Saved now."
    assert "# my models" in file.read_text()
    assert "[profiles.kept]" in file.read_text()


def test_down_stops_everything_and_apply_brings_it_back(machine, port):
    machine.hello()
    machine.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {(number := port())}\n')
    machine.run("apply")
    machine.run("down")
    assert listening(number) is None
    assert machine.processes() == []
    assert "is not running" in machine.run("down").out
    machine.run("apply")
    assert ask(number, "hi")


def test_F68_down_ends_what_a_killed_daemon_left_running(machine, port):
    machine.hello()
    machine.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {(number := port())}\n')
    machine.run("apply")
    os.kill(machine.run("status", "--json").data["supervisord"], 9)
    assert ask(number, "hi")
    machine.run("down")
    assert (listening(number), machine.processes()) == (None, [])
    machine.run("apply")
    assert ask(number, "hi")


def test_F65_status_and_plan_work_while_the_daemon_is_not_there(machine, port):
    machine.hello()
    machine.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {port()}\n')
    assert "supervisord is not running" in machine.run("status").out
    machine.run("apply")
    machine.run("down")
    row = machine.profiles()["hello"]
    assert (row["state"], row["drift"]) == ("stopped", "pending start")
    assert "start   program:hello" in machine.run("plan").out
    assert machine.run("stop", "hello").out == "hello was not running, and is held now\n"


def test_an_engine_that_cannot_load_its_weights_is_reported_with_its_last_words(machine, port):
    (machine.folder / "command.py").write_text("import sys; print('no such tensor'); sys.exit(3)")
    machine.declare(
        f'[profiles.broken]\nbackend = "command"\nport = {port()}\n'
        f'command = ["python3", "{machine.folder}/command.py"]\n'
    )
    config = machine.home / ".config/lmctl"
    config.mkdir(parents=True)
    (config / "machine.toml").write_text('[allow]\nteam = ["command"]\n')
    process = machine.start("apply")
    exhaust(machine, "broken")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 9, out + err
    assert "E-CRASHLOOP" in err
    assert "no such tensor" in err
    assert machine.profiles()["broken"]["state"] == "crash-loop"


@pytest.mark.parametrize("path", ["/v1/models", "/health"])
def test_the_engine_answers_no_web_origin(machine, port, path):
    machine.hello()
    machine.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {(number := port())}\n')
    machine.run("apply")
    request = urllib.request.Request(f"http://127.0.0.1:{number}{path}", headers={"Origin": "https://evil.example"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request) as answer:
        assert answer.headers.get("Access-Control-Allow-Origin") in (None, "")
