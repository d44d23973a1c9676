"""What must not happen, whatever was done to the machine between two applies."""

from __future__ import annotations

from e2e_tools import ask, listening
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
    assert "E-NAME-TAKEN" in machine.run("apply", code=4).err
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
