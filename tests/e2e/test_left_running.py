"""What runs can be seen and stopped whatever the configuration says; waiting for another lmctl can be ended."""

from __future__ import annotations

import fcntl
import json
import signal
import socket
import subprocess
import sys

import pytest
from e2e_tools import ask, listening, profile
from weights import mlx

from lmctl.spec import program_id


def emptied(machine) -> str:
    machine.declare("# nothing\n")
    return "E-EMPTY"


def broken(machine) -> str:
    machine.declare("[profiles.hello\n")
    return "E-TOML"


def untrusted(machine) -> str:
    machine.declare(profile("hello", backend="command", command=["true"], port=8091))
    return "E-TRUST"


def deleted(machine) -> str:
    (machine.folder / "localmodels.toml").unlink()
    return "E-FILE"


@pytest.mark.parametrize("spoil", [emptied, broken, untrusted, deleted], ids=["empty", "syntax", "trust", "deleted"])
def test_what_runs_is_shown_and_stopped_whatever_became_of_its_configuration(machine, served, spoil):
    code = spoil(machine)
    shown = machine.run("status", "hello", "--json")
    (row,) = shown.data["profiles"]
    assert (row["profile"], row["state"], row["url"]) == ("hello", "healthy", f"http://127.0.0.1:{served}")
    assert [one["code"] for one in shown.json["warnings"]] == [code]
    assert f"warning[{code}]" in machine.run("logs", "hello").err
    assert ask(served, "hi")  # looking stops nothing
    machine.run("apply", code=None)
    assert ask(served, "hi")
    machine.run("stop", "nobody", code=64)
    assert f"warning[{code}]" in machine.run("stop", "hello").err
    assert listening(served) is None
    assert f"warning[{code}]" in machine.run("down").err
    assert machine.processes() == []


def test_a_configuration_that_never_ran_is_refused_as_ever(machine):
    for spoil, code in ((emptied, "E-EMPTY"), (broken, "E-TOML")):
        spoil(machine)
        for words in (("status",), ("down",), ("stop", "hello"), ("logs", "hello")):
            assert f"error[{code}]" in machine.run(*words, code=65).err


def test_a_profile_that_was_taken_out_and_still_runs_is_shown_and_stopped(machine, port, served):
    machine.declare(profile("other", path="hello.gguf", port=port(), start="manual"))
    rows = machine.profiles()
    assert (rows["hello"]["state"], rows["hello"]["drift"]) == ("healthy", "not declared")
    machine.run("stop", "hello")
    assert listening(served) is None


def test_stopping_an_undeclared_model_starts_no_daemon(machine, port, served):
    machine.hello("Loose.", "loose.gguf")
    machine.run("start", "--model", "loose.gguf", "--port", str(port()))
    machine.run("down")
    machine.run("stop", "loose")
    assert machine.processes() == []
    assert "loose" not in machine.profiles()
    assert machine.processes() == []


def test_undeclared_models_alone_are_asked_where_they_listen_whatever_stood_in_for_a_declaration_before(machine, port):
    machine.gateway()
    left = machine.state("undeclared") / "declaration" / "localmodels.toml"
    left.parent.mkdir(parents=True)
    machine.state("undeclared").chmod(0o700)
    left.write_text('version = 1\nname = "undeclared"\n')
    machine.hello("Loose.", "loose.gguf")
    machine.run("start", "--model", "loose.gguf", "--port", str(number := port()))
    assert ask(number, "hi") == "Loose."
    assert len(list((machine.state("undeclared") / "programs").iterdir())) == 1
    assert machine.run("plan").out.startswith("Nothing to do")
    machine.run("stop", "loose")


def test_stopping_an_undeclared_model_leaves_the_rest_as_machine_toml_wanted_it(machine, port, served):
    file = machine.home / ".config/lmctl/machine.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[logs]\nmax_bytes = "3 MiB"\n')
    machine.run("apply")
    machine.hello("Loose.", "loose.gguf")
    machine.run("start", "--model", "loose.gguf", "--port", str(port()))
    conf = machine.state() / "supervisord.conf"
    sizes = {line for line in conf.read_text().splitlines() if line.startswith("stdout_logfile_maxbytes")}
    pid = machine.profiles()["hello"]["pid"]
    file.write_text("[broken")
    assert "warning[E-TOML]" in machine.run("stop", "loose").err
    assert {line for line in conf.read_text().splitlines() if line.startswith("stdout_logfile_maxbytes")} == sizes
    file.write_text('[logs]\nmax_bytes = "3 MiB"\n')
    assert "Nothing to do" in machine.run("plan").out
    assert machine.profiles()["hello"]["pid"] == pid


def test_an_undeclared_model_is_stopped_whatever_machine_toml_says(machine, port):
    machine.hello("Loose.", "loose.gguf")
    machine.run("start", "--model", "loose.gguf", "--port", str(number := port()))
    file = machine.home / ".config/lmctl/machine.toml"
    file.parent.mkdir(parents=True)
    file.write_text("[broken")
    assert machine.profiles()["loose"]["state"] == "healthy"
    assert "warning[E-TOML]" in machine.run("stop", "loose").err
    assert listening(number) is None
    machine.run("down")
    assert machine.processes() == []


def test_restart_refuses_before_anything_stops(machine, port, served):
    pid = machine.profiles()["hello"]["pid"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", number := port()))
        taken.listen()
        machine.declare(profile("hello", path="hello.gguf", port=number))
        assert "error[E-PORT]" in machine.run("restart", "hello", code=9).err
    machine.declare(profile("hello", path="hello.gguf", port=served))
    assert machine.profiles()["hello"]["pid"] == pid
    with (machine.folder / "hello.gguf").open("ab") as file:
        file.write(b"\0")
    machine.run("restart", "hello", code=None)
    assert machine.profiles()["hello"]["pid"] == pid
    assert ask(served, "hi")


def test_restart_replaces_what_runs_and_starts_what_does_not(machine, served):
    pid = machine.profiles()["hello"]["pid"]
    done = machine.run("restart", "hello", "--json").data
    assert [(one["verb"], one["cause"][0]["after"]) for one in done["changes"]] == [("restart", "restart asked for")]
    assert machine.profiles()["hello"]["pid"] not in (None, pid)
    machine.run("stop", "hello")
    machine.run("restart", "hello")
    assert ask(served, "hi")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize(
    "words",
    [
        ("stop", "hello"),
        ("down", "--wait"),
        ("restart", "hello", "--wait"),
        ("apply", "--wait"),
    ],
    ids=lambda words: words[0],
)
def test_waiting_for_another_lmctl_is_told_and_ends_at_once(machine, port, served, words, number, code):
    machine.hello("Another one.", "other.gguf")
    machine.declare(
        profile("hello", path="hello.gguf", port=served) + profile("other", path="other.gguf", port=(other := port()))
    )
    lock = (machine.folder / "localmodels.lock").read_bytes()
    with (machine.state() / "lock").open("r+") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.truncate(0)
        held.write(json.dumps({"pid": 1, "command": "lmctl apply", "since": "2026-01-01 00:00:00"}))
        held.flush()
        process = machine.start(*words)
        said = process.stderr.readline()
        assert said == "waiting for another lmctl: pid 1, `lmctl apply`, since 2026-01-01 00:00:00\n"
        process.send_signal(number)
        process.communicate(timeout=120)
        assert process.returncode == code
    assert ask(served, "hi")
    assert listening(other) is None
    assert (machine.folder / "localmodels.lock").read_bytes() == lock


def test_init_then_a_model_that_nothing_declares(machine, port):
    machine.run("init", "--name", "mine")
    machine.hello("Loose.", "loose.gguf")
    machine.run("start", "--model", "loose.gguf", "--port", str(number := port()))
    assert ask(number, "hi") == "Loose."
    assert list(machine.profiles()) == ["loose"]
    machine.run("stop", "loose")
    machine.run("status", code=None)


def test_a_model_that_nothing_declares_is_no_business_of_the_declaration_s_files(machine, port, served):
    machine.hello("Loose.", "loose.gguf")
    before = sorted(path.name for path in machine.folder.iterdir())
    for _ in range(2):
        machine.run("start", "--model", "loose.gguf", "--port", str(port()))
        checked = machine.run("lock", "--check")
        assert (checked.out, checked.err) == ("The lock is up to date.\n", "")
        assert machine.run("validate", "--json").data["profiles"] == ["hello"]
        assert "Nothing to do" in machine.run("plan").out
        machine.run("stop", "loose")
        assert machine.run("lock", "--check").err == ""
        machine.hello("Loose again.", "loose.gguf")  # another file now: what is gone is not compared with it
    assert sorted(path.name for path in machine.folder.iterdir()) == before


def test_where_nothing_is_declared_nothing_is_left_running(machine, port):
    for name in ("one", "two"):
        machine.hello(file=f"{name}.gguf")
        machine.run("start", "--model", f"{name}.gguf", "--port", str(port()))
    machine.run("stop", "one")
    assert machine.profiles()["two"]["state"] == "healthy"
    machine.run("stop", "two")
    assert machine.processes() == []


def test_a_declared_profile_counts_before_an_undeclared_one_of_its_name(machine, port, served):
    machine.hello("Loose.", "loose.gguf")
    machine.run("start", "--model", "loose.gguf", "--port", str(port()))
    machine.declare(
        profile("hello", path="hello.gguf", port=served) + profile("Loose", path="hello.gguf", port=(number := port()))
    )
    ran = machine.run("apply")
    assert "the undeclared model loose is ignored" in ran.err
    assert ask(number, "hi") == "Hello from here."
    machine.declare(profile("hello", path="hello.gguf", port=served) + profile("loose", path="hello.gguf", port=number))
    machine.run("apply")
    machine.run("stop", "loose")
    assert machine.profiles()["loose"]["state"] == "held"
    assert "ignored" not in machine.run("plan").err


def test_the_name_of_the_declaration_that_stands_in_is_reserved(machine):
    machine.hello()
    machine.declare(profile("hello", path="hello.gguf", start="manual"), name="undeclared")
    assert "error[E-NAME]" in machine.run("plan", code=65).err


def test_status_asks_what_runs_also_where_nothing_is_decided_about_it(machine, served):
    (machine.folder / "hello.gguf").touch()
    row = machine.run("status", "hello", "--json").data["profiles"][0]
    assert (row["state"], row["drift"]) == ("healthy", "weights touched")
    (machine.folder / "hello.gguf").rename(machine.folder / "away")
    row = machine.run("status", "hello", "--json").data["profiles"][0]
    assert (row["state"], row["drift"]) == ("healthy", "weights missing")


def test_an_apply_that_names_a_manual_profile_lifts_its_hold(machine, port):
    machine.hello()
    machine.declare(profile("hello", path="hello.gguf", port=port(), start="manual"))
    machine.run("start", "hello")
    machine.run("stop", "hello")
    machine.run("apply")
    assert machine.profiles()["hello"]["state"] == "held"
    machine.run("apply", "hello")
    assert machine.profiles()["hello"]["state"] == "stopped"
    starts = machine.state() / "starts" / program_id("hello")
    assert not starts.exists() or "hold" not in starts.read_text()
    assert "Nothing to do" in machine.run("apply", "hello").out


def test_a_long_start_says_what_it_waits_for(machine, port):
    import llama_server

    program = llama_server.install(machine.home)
    llama_server.set_mode(program, "slow_load")
    config = machine.home / ".config/lmctl/machine.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[engines."llama.cpp"]\nbinary = "{program}"\n')
    machine.hello()
    machine.declare(profile("hello", path="hello.gguf", port=port()))
    process = machine.start("apply")
    while "hello: waiting for" not in (said := process.stderr.readline()):
        assert process.poll() is None
    assert "the model is being loaded" in said
    llama_server.set_mode(program, None)
    process.communicate(timeout=120)
    assert process.returncode == 0


def test_LMCTL_DEBUG_is_the_flag(machine):
    machine.environ["LMCTL_DEBUG"] = "1"
    process = machine.start("plan")
    _, err = process.communicate(timeout=120)
    assert "Traceback" in err and "error[E-FILE]" in err
    machine.environ["LMCTL_DEBUG"] = "0"
    assert "Traceback" not in machine.run("plan", code=65).err


def test_a_plan_that_is_nested_without_end_is_no_plan(machine, served):
    (machine.folder / "deep.json").write_text("[" * 200_000)
    ran = machine.run("apply", "--plan", "deep.json", code=64)
    assert "error[E-USAGE]: deep.json is no saved plan" in ran.err


def test_a_dry_run_checks_whose_name_it_is(machine, served):
    other = machine.home / "other"
    other.mkdir()
    for name in ("localmodels.toml", "localmodels.lock", "hello.gguf"):
        (other / name).write_bytes((machine.folder / name).read_bytes())
    assert "E-NAME-TAKEN" in machine.run("-C", str(other), "apply", "--dry-run", code=4).err
    machine.run("-C", str(other), "apply", "--dry-run", "--take")


def test_verify_misses_what_should_be_there(machine, port):
    machine.hello()
    machine.hello("Later.", "later.gguf")
    machine.declare(
        profile("hello", path="hello.gguf", port=port(), start="manual")
        + profile("later", path="later.gguf", port=port(), start="manual", fetch="start")
    )
    machine.run("lock")
    (machine.folder / "later.gguf").unlink()
    machine.run("verify")
    (machine.folder / "hello.gguf").unlink()
    for words in (("verify",), ("verify", "--deep")):
        ran = machine.run(*words, code=65)
        assert "error[E-FILE]" in ran.err and "hello.gguf is missing — put it back as it was locked" in ran.err
        assert "later.gguf" not in ran.err


def test_a_quick_verify_reads_the_headers_of_safetensors_too(machine, port):
    folder = mlx.write(machine.folder / "apple", "Hello from MLX.")
    machine.declare(profile("apple", path="apple", backend="mlx", port=port(), start="manual"))
    machine.run("lock")
    machine.run("verify")
    with (folder / "model.safetensors").open("r+b") as file:
        file.seek(8)
        file.write(b"no JSON!")
    ran = machine.run("verify", "--json", code=6)
    assert "E-SAFETENSORS" in {one["code"] for one in ran.json["errors"]}


def test_status_looks_at_all_programs_once(machine, port):
    names = [f"p{n}" for n in range(8)]
    machine.hello()
    machine.declare("".join(profile(name, path="hello.gguf", port=port(), start="manual") for name in names))
    machine.run("lock")
    calls = "import sys\nfrom lmctl import addresses, cli\ncount = 0\nbefore = addresses.listens\n"
    calls += "def listens(case):\n    global count\n    count += 1\n    return before(case)\n"
    calls += "addresses.listens = listens\nsys.argv = ['lmctl', '-q', 'status']\ncli.main()\nprint(count)\n"
    done = subprocess.run(
        [sys.executable, "-c", calls], cwd=machine.folder, env=machine.env(), capture_output=True, text=True, timeout=60
    )
    assert 0 < int(done.stdout.splitlines()[-1]) < len(names), done.stderr
