"""examples/team: one locks, everybody has the same; groups, overlays, a machine's own wishes, and upgrades."""

from __future__ import annotations

import tomllib

import pytest
from e2e_tools import ask
from weights import mlx
from weights.hello import hello

GGUF, MLX, CHAT = (
    "bartowski/Qwen2.5-Coder-7B-Instruct-GGUF",
    "mlx-community/Qwen2.5-Coder-7B-Instruct-4bit",
    "Qwen/Qwen3-8B-GGUF",
)


def coders(answer: str) -> dict[str, bytes]:
    """Return both quants: which one is used depends on the memory of the machine that runs the test."""
    return {f"Qwen2.5-Coder-7B-Instruct-{quant}.gguf": hello(answer) for quant in ("Q4_K_M", "Q8_0")}


@pytest.fixture
def published(hub):
    """The repositories that the example names, with tiny weights."""
    hub.add(GGUF, coders("First code."))
    hub.add(MLX, mlx.files("Code on Apple."))
    hub.add(CHAT, {"Qwen3-8B-Q4_K_M.gguf": hello("Let us talk.")})
    return hub


def test_the_lock_holds_what_every_machine_of_the_team_may_ask_for(machine, example, published):
    example("team")
    machine.run("lock")
    lock = tomllib.loads((machine.folder / "localmodels.lock").read_text())
    ids = [artifact["id"] for artifact in lock["artifact"]]
    assert ids == [f"{CHAT}@main:Q4_K_M", f"{GGUF}@main:Q4_K_M", f"{GGUF}@main:Q8_0", f"{MLX}@main:mlx"]
    machine.run("lock", "--check")


def test_a_colleague_gets_exactly_what_was_locked(machine, example, published):
    ports = example("team")
    machine.run("lock")
    published.add(GGUF, coders("Better code."))
    machine.run("apply", "--locked")
    assert ask(ports["code"], "hi") == "First code."
    machine.run("lock", "--upgrade", "code")
    machine.run("apply")
    assert ask(ports["code"], "hi") == "Better code."


def test_starting_one_large_model_stops_the_other(machine, example, published):
    ports = example("team")
    machine.run("lock")
    published.requests.clear()
    machine.run("apply")
    assert not published.asked(f"/{CHAT}/resolve/", "GET"), "fetched before it was started"
    assert "stopping code" in machine.run("start", "chat").err
    assert ask(ports["chat"], "hi") == "Let us talk."
    assert machine.profiles()["code"]["state"] == "stopped"


def test_one_machine_may_want_something_else(machine, example, published):
    example("team")
    machine.run("lock")
    machine.run("apply")
    (machine.folder / "localmodels.local.toml").write_text("[profiles.code]\nctx = 4096\n")
    assert "↻ restart program:code  (ctx: 8192 → 4096)" in machine.run("plan").out
    said = machine.run("config", "--explain", "profiles.code.ctx").out
    assert "localmodels.local.toml:2" in said
    machine.run("apply")
    machine.run("lock", "--check")
