"""examples/air-gapped: packed where there is a Hub, carried to a home without one, and served there."""

from __future__ import annotations

import subprocess

from e2e_tools import ask
from weights.hello import hello


def test_what_was_packed_here_runs_there_without_a_hub(machine, example, hub, on_path):
    hub.add("Qwen/Qwen3-0.6B-GGUF", {"Qwen3-0.6B-Q8_0.gguf": hello("Carried on a disk.")})
    ports = example("air-gapped")
    archive = machine.home / "models.tar"

    def run(*command, **environ):
        env = {**machine.env(), **environ}
        return subprocess.run(command, env=env, check=True, capture_output=True, text=True, cwd=machine.home).stdout

    run("sh", str(machine.folder / "bundle"), str(archive))
    assert machine.profiles()["small"]["pid"] is None
    machine.run("down")

    hub.requests.clear()
    there = machine.home / "there"
    there.mkdir()
    machine.environ["HOME"] = str(there)
    run("tar", "-xf", str(archive), "unpack")
    try:
        said = run("sh", str(machine.home / "unpack"), str(archive), str(there / "models"))
        assert "✓ create  program:small" in said
        assert ask(ports["small"], "hi") == "Carried on a disk."
        assert hub.requests == []
    finally:
        machine.run("-C", str(there / "models"), "down")
