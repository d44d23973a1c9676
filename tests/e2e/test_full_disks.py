"""A disk without room, a real one: it is said with what is needed and what is free, and what runs goes on."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import canary
import pytest
from e2e_tools import profile, until
from fakes.llama_server import install
from kinds import own_files
from weights.hello import hello

pytestmark = pytest.mark.needs("tmpfs")

MIB = 1 << 20
REPO, FILE = "org/hello-GGUF", "hello-Q4_K_M.gguf"


class Disk:
    """A small file system, as the commands of one machine see it."""

    def __init__(self, folder: Path, before: list[str]) -> None:
        self.folder, self._before = folder, before

    def sh(self, script: str) -> str:
        """Return what a shell prints that runs in the file system's folder."""
        argv = [*self._before, "sh", "-euc", f"cd {shlex.quote(str(self.folder))}\n{script}"]
        done = subprocess.run(argv, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fill(self, left: int = 0) -> None:
        """Take all room but `left` KiB."""
        self.sh(f"dd if=/dev/zero of=ballast bs=4096 2>/dev/null || true; truncate -s -{left}K ballast")

    def free(self) -> None:
        self.sh("rm -f ballast")

    def files(self, names: str = "*") -> list[str]:
        return sorted(self.sh(f"find . -type f -name {shlex.quote(names)}").split())


@pytest.fixture
def mount(machine) -> Iterator[Callable[[Path, str], Disk]]:
    """Give a folder of the machine a file system of its own, which ends with the test."""
    with ExitStack() as stack:
        disks = []

        def mount(folder: Path, size: str) -> Disk:
            folder.mkdir(parents=True)
            script = f"mount -t tmpfs -o size={size} none {shlex.quote(str(folder))}"
            machine.before = stack.enter_context(own_files(script, machine.folder))
            disks.append(Disk(folder, machine.before))
            return disks[-1]

        yield mount
        for disk in disks:
            disk.free()
            machine.run("down", "--wait", code=None)
            assert disk.sh(f"grep -rl {canary.TOKEN} . || true") == ""
    machine.before = []


@pytest.fixture
def engine(machine) -> None:
    """A stand-in engine first on PATH."""
    folder = machine.home / "bin"
    folder.mkdir()
    install(folder)
    machine.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def kept(machine, engine, port) -> Iterator[str]:
    """The TOML of a profile that the test starts, and that is to run on untouched whatever else happens."""
    machine.hello()
    yield profile("kept", path="hello.gguf", port=port())


def running(machine) -> tuple[str, int]:
    row = machine.profiles()["kept"]
    return row["state"], row["pid"]


def test_F04_a_full_state_folder_is_told_and_the_next_apply_does_what_is_left(machine, mount, kept, port):
    disk, other = mount(machine.home / ".local/state/lmctl", "1M"), port()
    machine.declare(kept)
    machine.run("apply")
    before = running(machine)
    for left in (0, 32, 40, 48):  # KiB: what does not fit is the ledger's index, a snapshot, the ledger, programs
        machine.declare(kept + profile(f"more{left}", path="hello.gguf", port=other))
        disk.fill(left)
        written = set(disk.files())
        ran = machine.run("apply", code=None)
        assert ran.code == 8 or (ran.code, left) == (3, 48), left  # the other one was right
        for said in ran.err.splitlines():
            assert said.startswith(f"error[E-SPACE]: {disk.folder}/"), left
            assert " are needed, " in said and " are free — free some space" in said, left
        new = {name for name in {*disk.files()} - written if not name.endswith(("-wal", "-shm", ".log"))}
        assert disk.files("*.tmp") == [] and (left == 48 or not new), left
        assert machine.run("plan").err == "", "the ledger can still be read"
        assert running(machine) == before, left
        disk.free()
        machine.run("apply")
        assert machine.profiles()[f"more{left}"]["state"] == "healthy", left
        assert running(machine) == before, left
    disk.fill()
    ran = machine.run("stop", "kept", code=8)
    assert ran.out == "kept stopped\n" and "run it again; until then what was stopped may be started again" in ran.err
    assert machine.profiles()["kept"]["state"] in {"stopped", "held"}, "a hold that fits is written"
    disk.free()
    machine.run("stop", "kept")
    machine.run("apply")
    assert machine.profiles()["kept"]["state"] == "held"
    machine.run("start", "kept")
    disk.fill()
    machine.run("down", "--wait")
    assert machine.profiles()["kept"]["state"] == "stopped"


def test_F53_what_will_not_fit_is_refused_before_anything_is_fetched(machine, mount, kept, hub, port):
    disk = mount(machine.home / ".cache/huggingface", "4M")
    hub.add(REPO, {FILE: hello("Large.") + bytes(4 * MIB - 443_000), "hello-Q8_0.gguf": hello("Small.")})
    far = profile("far", model=REPO, quant="Q4_K_M", port=port())
    machine.declare(far)
    machine.run("lock")
    locked = disk.files()
    hub.requests.clear()
    ran = machine.run("apply", code=8)
    assert "error[E-SPACE]: 4.2 MiB are needed on " in ran.err and "(5 % to spare), 4.0 MiB are free" in ran.err
    assert f"4.0 MiB  {FILE}" in ran.err
    assert (hub.asked(FILE), disk.files()) == ([], locked)
    machine.declare(kept)
    machine.run("apply")
    before = running(machine)
    machine.declare(kept + far)
    machine.run("apply", code=3)
    assert running(machine) == before
    machine.declare(kept + profile("far", model=REPO, quant="Q8_0", port=port()))
    machine.run("apply")
    assert running(machine) == before


def test_F54_a_disk_that_others_fill_ends_the_download_and_the_next_one_goes_on(machine, mount, kept, hub, port):
    disk = mount(machine.home / ".cache/huggingface", "16M")
    data = hello("Large.") + bytes(12 * MIB)
    hub.add(REPO, {FILE: data})
    machine.declare(kept)
    machine.run("apply")
    before = running(machine)
    machine.declare(kept + profile("far", model=REPO, quant="Q4_K_M", port=port()))
    machine.run("lock")
    hub.fault(REPO, FILE, stall=5 * MIB)
    hub.requests.clear()
    process = machine.start("apply")
    until(lambda: disk.files("*.json") or process.poll() is not None)  # the journal of what arrived
    disk.fill()
    hub.heal()
    hub.hang_up()  # the rest comes now
    out, err = process.communicate(timeout=120)
    assert process.returncode == 3, out + err  # the other one was right
    assert "error[E-SPACE]: " in err and " MiB are needed, 0 B are free — free some space" in err
    assert len(hub.asked(FILE, "GET")) <= 4, "tried again and again"
    assert running(machine) == before
    assert disk.files("*.tmp") == []
    disk.free()
    hub.requests.clear()
    machine.run("apply")
    ranges = [one.headers["range"] for one in hub.asked(FILE, "GET")]
    assert ranges and "bytes=0-" not in "".join(ranges), "what was there came again"
    assert machine.profiles()["far"]["state"] == "healthy"
    assert running(machine) == before
