"""Three profiles, of a local file and of the Hub, on a machine of their own: brought up from nothing, or changed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
from e2e.conftest import Machine
from e2e_tools import profile
from fakes import llama_server
from fakes.hub import Hub
from fakes.ports import free_port
from weights.hello import hello

SCENES = ("nothing", "change")
_QUANTS = {"b-Q4_K_M.gguf": hello("Of the Hub."), "b-Q8_0.gguf": hello("Of the Hub, and larger.")}


@dataclass
class Scene:
    """A machine whose next `lmctl apply` has work of every kind to do."""

    machine: Machine
    hub: Hub
    ports: list[int]
    name: str

    @property
    def home(self) -> Path:
        return self.machine.home

    @property
    def argv(self) -> list[str]:
        return [sys.executable, "-m", "lmctl", "apply", "--prune", "--yes"]

    @property
    def where(self) -> dict[str, object]:
        """Return the folder and the environment in which it runs."""
        return {"cwd": self.machine.folder, "env": self.machine.env()}

    def prepare(self) -> None:
        """Declare the three; in a change they run already, one of them as it stays."""
        a, b, c, d = self.ports
        kept = profile("keep", model="org/keep-GGUF", quant="Q4_K_M", port=c)
        if self.name == "change":
            old = profile("mine", path="mine.gguf", port=a, ctx=512) + profile("old", path="old.gguf", port=d)
            self.machine.declare(old + profile("hub", model="org/b-GGUF", quant="Q4_K_M", port=b) + kept)
            self.machine.run("apply")
        new = profile("mine", path="mine.gguf", port=a, ctx=1024)
        self.machine.declare(new + profile("hub", model="org/b-GGUF", quant="Q8_0", port=b) + kept)

    def engines(self) -> dict[int, tuple[str, str]]:
        """Return the running engines by pid: the profile, and the hash of what it was started with."""
        found = {}
        for process in self.machine.processes():
            try:
                command, environ = process.cmdline(), process.environ()
            except psutil.Error:
                continue
            if "--alias" in command:
                found[process.pid] = (command[command.index("--alias") + 1], environ.get("LMCTL_HASH", ""))
        return found

    def close(self) -> None:
        """End everything of this machine."""
        self.machine.run("down", "--wait", code=None)
        for process in self.machine.processes():
            process.kill()
            process.wait(timeout=30)


@contextmanager
def scene(name: str, folder: Path, hub: Hub, ports: list[int]) -> Iterator[Scene]:
    """Make a scene below `folder`, which is empty; everything that ran in it is gone afterwards."""
    home = folder / "h"
    machine = Machine(home, home / "repo", {"HF_ENDPOINT": hub.url, "LMCTL_GATEWAY__ENABLED": "false"})
    machine.folder.mkdir(parents=True)
    for file in ("mine.gguf", "old.gguf"):
        machine.hello(f"From {file}.", file)
    engine = llama_server.install(home)
    config = home / ".config/lmctl/machine.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[engines."llama.cpp"]\nbinary = "{engine}"\n')
    made = Scene(machine, hub, ports, name)
    try:
        made.prepare()
        yield made
    finally:
        made.close()


def fill(hub: Hub) -> None:
    """Put on a Hub what the scenes declare."""
    hub.add("org/b-GGUF", _QUANTS)
    hub.add("org/keep-GGUF", {"keep-Q4_K_M.gguf": hello("I stay.")})


def free_ports() -> list[int]:
    """Return four ports that nobody else is given."""
    return [free_port() for _ in range(4)]
