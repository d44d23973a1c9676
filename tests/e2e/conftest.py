"""lmctl as a person runs it: a process of its own in an empty home, with the real supervisord and engines."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import canary
import psutil
import pytest
from e2e_tools import HELLO, listeners, profile
from fakes.hub import Hub
from fakes.ports import free_port, free_range
from watch_tools import Watch, team_of_two
from weights.hello import hello

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Ran:
    """What one command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.out)

    @property
    def data(self) -> dict[str, Any]:
        return self.json["data"]


class Heard(subprocess.Popen[str]):
    """A process whose output is kept for the search for the token."""

    said: list[str]

    def communicate(self, *given: Any, **named: Any) -> tuple[str, str]:
        out, err = super().communicate(*given, **named)
        self.said += [str(out or ""), str(err or "")]
        return out, err


@dataclass
class Machine:
    """An empty home, a token that nobody may see, and a folder with a declaration in it."""

    home: Path
    folder: Path
    # engines listen on their own ports unless a test asks for the gateway: nobody's tests share its port
    environ: dict[str, str] = field(default_factory=lambda: {"LMCTL_GATEWAY__ENABLED": "false"})
    said: list[str] = field(default_factory=list)  # all that lmctl printed
    before: list[str] = field(default_factory=list)  # what stands before a command: another user's, other mounts

    def env(self) -> dict[str, str]:
        base = {"HOME": str(self.home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TMPDIR": str(self.home)}
        return {**base, "HF_TOKEN": canary.TOKEN, **self.environ}

    def start(self, *words: str, **how: Any) -> subprocess.Popen[str]:
        """Start lmctl and return the running process."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        process = Heard(
            [*self.before, sys.executable, "-m", "lmctl", *words],
            **{"cwd": self.folder, "env": self.env(), "text": True, **streams, **how},
        )
        process.said = self.said
        return process

    def run(self, *words: str, code: int | None = 0, **how: Any) -> Ran:
        """Run lmctl to its end; `code` None accepts any exit code."""
        process = self.start(*words, **how)
        out, err = process.communicate(timeout=120)
        ran = Ran(process.returncode, out or "", err or "")
        if code is not None:
            assert ran.code == code, f"lmctl {' '.join(words)} ended with {ran.code}\n{out}\n{err}"
        assert "Traceback" not in ran.err, ran.err
        return ran

    def declare(self, text: str, name: str = "team") -> Path:
        """Write localmodels.toml with a head and `text` below it."""
        file = self.folder / "localmodels.toml"
        file.write_text(f'version = 1\nname = "{name}"\n{text}')
        return file

    def hello(self, sentence: str = "Hello from here.", file: str = "hello.gguf") -> Path:
        """Write tiny weights that answer with a sentence."""
        path = self.folder / file
        path.write_bytes(hello(sentence))
        return path

    def gateway(self) -> int:
        """Have a gateway from the next apply on, and engines behind it, all on free ports; return the gateway's."""
        port, (first, last) = free_port(), free_range(8)
        said = {"ENABLED": "true", "PORT": str(port), "ENGINE_PORTS": f'"{first}-{last}"'}
        self.environ.update({f"LMCTL_GATEWAY__{key}": value for key, value in said.items()})
        return port

    def foreground(self) -> None:
        """Have engines behind a gateway of what is declared now, which the test starts itself."""
        first, last = free_range(8)
        self.environ.update({"LMCTL_GATEWAY__ENABLED": "true", "LMCTL_GATEWAY__ENGINE_PORTS": f'"{first}-{last}"'})
        self.run("stop", "gateway")

    def state(self, name: str = "team") -> Path:
        return self.home / ".local/state/lmctl" / name

    def profiles(self) -> dict[str, dict[str, Any]]:
        """Return what status says, by profile."""
        return {row["profile"]: row for row in self.run("status", "--json").data["profiles"]}

    def processes(self) -> list[psutil.Process]:
        """Return every process that was started with this home."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("HOME") == str(self.home) and process.pid != os.getpid():
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return found


@contextmanager
def machine_in(home: Path) -> Iterator[Machine]:
    """A machine whose programs are all gone at the end, and whose token is nowhere."""
    folder = home / "repo"
    folder.mkdir()
    machine = Machine(home, folder)
    yield machine
    seen = list(canary.in_processes(machine.processes()))
    open_to_others = [
        one for process in machine.processes() for one in listeners(process) if one.laddr.ip != "127.0.0.1"
    ]
    for record in (home / ".local/state/lmctl/declarations").glob("*.json"):
        file = json.loads(record.read_text())["file"]
        if Path(file).exists():
            machine.run("--config", file, "down", "--wait", code=None)
    left = [process for process in machine.processes() if process.pid != os.getppid()]
    for process in left:
        process.send_signal(signal.SIGKILL)
    psutil.wait_procs(left, timeout=10)
    stand_ins = [p for p in left if "lmctl" in " ".join(_cmdline(p))]
    assert not stand_ins, f"left running: {stand_ins}"
    seen += [*canary.in_files(home), *canary.in_texts(machine.said)]
    assert not seen, f"the token is in: {seen}"
    assert not open_to_others, f"not on loopback: {open_to_others}"


@pytest.fixture
def machine(home: Path) -> Iterator[Machine]:
    """A machine for one test."""
    with machine_in(home) as machine:
        yield machine


@pytest.fixture(scope="module")
def lasting_machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    """A machine for all tests of a file, which only ask what runs there."""
    with machine_in(tmp_path_factory.mktemp("h")) as machine:
        yield machine


@pytest.fixture
def declared(machine: Machine) -> Machine:
    """A machine with one profile that does not run."""
    machine.hello()
    machine.declare(HELLO)
    return machine


@pytest.fixture
def served(machine: Machine, port: Callable[[], int]) -> int:
    """A local profile, hello, that runs; its port."""
    machine.hello()
    number = port()
    machine.declare(profile("hello", path="hello.gguf", port=number))
    machine.run("apply")
    return number


def _cmdline(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


@pytest.fixture
def port() -> Callable[[], int]:
    """Return ports that nobody listens on, each once."""
    return free_port


@pytest.fixture
def hub(machine: Machine) -> Iterator[Hub]:
    """A loopback Hub that the machine's HF_ENDPOINT names."""
    with Hub() as hub:
        machine.environ["HF_ENDPOINT"] = hub.url
        yield hub


@pytest.fixture
def team(machine: Machine, tmp_path: Path, port: Callable[[], int]) -> Machine:
    """Two profiles of a stand-in engine that run, each in a file of its own."""
    team_of_two(machine, tmp_path, port)
    return machine


@pytest.fixture
def watch(team: Machine) -> Iterator[Watch]:
    """A watcher that found everything as declared."""
    watch = Watch(team)
    watch.next("planned")
    yield watch
    if watch.process.poll() is None:
        code, err = watch.end()
        assert code == 143, err
        assert "Traceback" not in err
