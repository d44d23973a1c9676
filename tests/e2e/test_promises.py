"""What must not happen, whatever was done to the machine between two applies."""

from __future__ import annotations

import os
import sys

from e2e_tools import ask, listeners, listening, profile
from fakes.ports import free_range

HELLO = '[profiles.{name}]\npath = "{name}.gguf"\nport = {port}\n'


def test_weights_that_failed_their_check_are_not_started_by_a_new_supervisord(machine, port):
    machine.hello("The first one.", "a.gguf")
    weights = machine.hello("The second one.", "b.gguf")
    first, second = port(), port()
    machine.declare(HELLO.format(name="a", port=first) + HELLO.format(name="b", port=second))
    machine.run("apply")
    machine.run("down")
    with weights.open("ab") as file:
        file.write(b"X")
    ran = machine.run("apply", code=3)
    assert "b (blocked)" in ran.out or "program:b  (blocked)" in ran.out
    assert ask(first, "hi") == "The first one."
    assert listening(second) is None
    assert machine.profiles()["b"]["state"] != "healthy"


def test_starting_one_profile_starts_no_other(machine, port):
    machine.hello("The first one.", "a.gguf")
    machine.hello("The second one.", "b.gguf")
    first, second = port(), port()
    machine.declare(HELLO.format(name="a", port=first) + HELLO.format(name="b", port=second))
    machine.run("apply")
    machine.run("down")
    machine.run("start", "a")
    assert ask(first, "hi")
    assert listening(second) is None
    machine.run("apply")
    assert ask(second, "hi")


def test_two_that_exclude_each_other_are_never_started_at_once(machine, port):
    machine.hello("The first one.", "a.gguf")
    machine.hello("The second one.", "b.gguf")
    number = port()
    text = "".join(HELLO.format(name=name, port=number) + 'start = "manual"\n' for name in "ab")
    machine.declare(text)
    machine.run("apply")
    assert "cannot run at once" in machine.run("start", "a", "b", code=65).err
    assert listening(number) is None


def test_a_server_never_seen_healthy_is_waited_for_again(machine, port):
    script = machine.folder / "mute.py"
    script.write_text("import signal; signal.pause()")
    machine.declare(
        f'[profiles.mute]\nbackend = "command"\nport = {port()}\nstart_timeout = "1s"\n'
        f'command = ["python3", "{script}"]\n'
    )
    allow = machine.home / ".config/lmctl"
    allow.mkdir(parents=True)
    (allow / "machine.toml").write_text('[allow]\nteam = ["command"]\n')
    assert "E-UNHEALTHY" in machine.run("apply", code=9).err
    assert "health: not seen yet" in machine.run("plan").out
    assert "E-UNHEALTHY" in machine.run("apply", code=9).err


def test_a_folder_that_moved_takes_its_name_along(machine, port):
    machine.hello()
    machine.declare(f'[profiles.hello]\npath = "hello.gguf"\nport = {port()}\nstart = "manual"\n')
    machine.run("apply")
    moved = machine.home / "moved"
    machine.folder.rename(moved)
    machine.folder = moved
    for command in (["plan"], ["apply"]):
        refused = machine.run(*command, code=4).err
        assert "E-NAME-TAKEN" in refused
        assert "which is gone" in refused and "`lmctl apply --take --dry-run` shows what it then does" in refused
    assert "hello" in machine.run("apply", "--take", "--dry-run").out
    machine.run("apply", "--take")
    assert "E-NAME-TAKEN" not in machine.run("plan").err


def test_profiles_without_a_port_never_share_one(machine, port):
    machine.hello()
    ports = '[gateway]\nengine_ports = "{}-{}"\n'.format(*free_range(9))
    machine.declare(ports + '[profiles.one]\npath = "hello.gguf"\n[profiles.two]\npath = "hello.gguf"\n')
    machine.run("apply")
    other = machine.home / "other"
    other.mkdir()
    (other / "hello.gguf").write_bytes((machine.folder / "hello.gguf").read_bytes())
    text = f'version = 1\nname = "other"\n{ports}[profiles.three]\npath = "hello.gguf"\n'
    (other / "localmodels.toml").write_text(text)
    machine.run("-C", str(other), "apply")
    rows = [*machine.run("status", "--json").data["profiles"]]
    rows += machine.run("-C", str(other), "status", "--json").data["profiles"]
    assert len({row["url"] for row in rows}) == 3
    assert {row["state"] for row in rows} == {"healthy"}


ASKING = [
    ("E-BIND", 'bind = "0.0.0.0"'),
    ("E-BIND", 'host = "::"'),
    ("E-FLAG", 'extra_args = ["--host", "0.0.0.0"]'),
    ("E-FLAG", 'extra_args = ["--hos=0.0.0.0"]'),
    ("E-ENV", 'env = { LLAMA_ARG_HOST = "0.0.0.0" }'),
]


def test_everything_listens_on_loopback_whatever_the_files_ask_for(machine, port):
    """Also where this machine's owner allows everything that can be allowed."""
    machine.hello()
    allow = machine.home / ".config/lmctl"
    allow.mkdir(parents=True)
    (allow / "machine.toml").write_text('[allow]\nteam = ["command", "env", "flags", "remote_code"]\n')
    declared = HELLO.format(name="hello", port=(number := port()))
    for code, asked in ASKING:
        machine.declare(f"{declared}{asked}\n")
        assert f"error[{code}]" in machine.run("apply", code=65).err
        machine.run("trust", "--yes", code=65)
    machine.declare(declared)
    for variable in ("LLAMA_ARG_HOST", "HOST", "LMCTL_BIND", "LMCTL_HOST"):
        machine.environ[variable] = "0.0.0.0"
    machine.run("apply")
    assert ask(number, "hi")
    found = [(one.laddr.ip, one.laddr.port) for process in machine.processes() for one in listeners(process)]
    assert found == [("127.0.0.1", number)]


SERVER = "import http.server as h, sys; h.test(h.SimpleHTTPRequestHandler, port=int(sys.argv[1]), bind='127.0.0.1')"


def test_a_secret_in_a_command_stands_in_no_plan_history_ledger_or_cache(machine, port):
    """Only the declaration and the launcher's own file hold it; another secret restarts the program all the same."""
    number, pids = port(), []
    marks = [b"sk-" + letter * 40 for letter in (b"A", b"B")]
    for mark, word in zip(marks, ("swordfish", "mackerel"), strict=True):
        command = [sys.executable, "-c", SERVER, "{port}", mark.decode(), "--api-key", word]
        machine.declare(profile("own", backend="command", command=command, health="/", port=number))
        machine.run("trust", "--yes")
        shown = machine.run("plan", "--out", str(machine.home / f"{word}.plan")).out
        machine.run("apply")
        pids.append(machine.profiles()["own"]["pid"])
    assert "↻ restart program:own  (command: " in shown
    assert pids[0] != pids[1]
    machine.declare(profile("own", backend="command", command=[*command[:-1], "haddock"], health="/", port=number))
    machine.run("trust", "--yes")
    assert "--api-key: (hidden) → (hidden, changed)" in machine.run("plan").out
    machine.run("drift", "--record", code=2)
    for words in ("history", "history --json", "history 2", "history 2 --json", "status", "config", "drift"):
        machine.run(*words.split(), code=None)
    secrets = [*marks, b"swordfish", b"mackerel", b"haddock"]
    assert not [said for said in machine.said for secret in secrets[:2] if secret.decode() in said]
    files = [path for path in machine.home.rglob("*") if path.is_file() and path.parent.name != "programs"]
    files.remove(machine.folder / "localmodels.toml")
    assert {path.name for path in files} >= {"ledger.db", "mackerel.plan"}
    assert not [str(path) for path in files for secret in secrets[:2] if secret in path.read_bytes()]
    kept = [path for path in files if path.name != "trust.json"]  # what a person trusted is shown to its last word
    assert not [str(path) for path in kept for secret in secrets if secret in path.read_bytes()]


def test_what_lmctl_keeps_is_for_its_user_alone(machine, port):
    machine.hello()
    machine.declare(HELLO.format(name="hello", port=port()) + 'env = { MY_OWN = "1" }\n')
    for words in (("trust", "--yes"), ("apply",), ("plan",), ("stop", "hello")):
        machine.run(*words, preexec_fn=lambda: os.umask(0))
    kept = [
        machine.home / ".local/state/lmctl",
        machine.home / ".cache/lmctl",
        machine.home / ".cache/huggingface/lmctl",
    ]
    paths = [path for folder in kept for path in (folder, *folder.rglob("*")) if path.exists()]
    assert {path.name for path in paths} >= {
        "trust.json",
        "ledger.db",
        "supervisord.conf",
        "programs",
        "logs",
        "s.sock",
    }
    assert [f"{path} {path.stat().st_mode:o}" for path in paths if path.stat().st_mode & 0o077] == []
