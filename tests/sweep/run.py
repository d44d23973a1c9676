"""One fault at one point of one scene: strike, look, apply again, look again."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from fakes.hub import Hub
from sweep import judge
from sweep.points import Point, inject, record
from sweep.scenes import scene

_WRITES = {"openat", "write", "pwrite64", "ftruncate", "mkdir", "symlink", "link", "rename"}
FAULTS = {  # what strace injects, and at which calls; "" are all
    "kill": ("signal=KILL", frozenset[str]()),
    "eio": ("error=EIO", frozenset(["fsync", "fdatasync", "rename"])),
    "enospc": ("error=ENOSPC", frozenset(_WRITES)),
}
_REFUSED = {8, 3}  # disk; or in part, where another change went well


@dataclass
class Struck:
    """What came of a fault at a point."""

    scene: str
    fault: str
    point: Point
    hit: bool = False
    wrong: list[str] = field(default_factory=list)


def points_of(name: str, fault: str, folder: Path, hub: Hub, ports: list[int]) -> list[Point]:
    """Return the points of a scene at which a fault of this kind can strike."""
    with scene(name, folder, hub, ports) as made:
        log, quiet = folder / "log", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        points = record(made.argv, made.home, log, **made.where, **quiet)
    shutil.rmtree(folder)
    _, calls = FAULTS[fault]
    return [point for point in points if not calls or point.call in calls]


def strike(name: str, fault: str, point: Point, folder: Path, hub: Hub, ports: list[int]) -> Struck:
    """Run apply with the fault, then without; return what is wrong."""
    struck = Struck(name, fault, point)
    with scene(name, folder, hub, ports) as made:
        before = made.engines()
        how, _ = FAULTS[fault]
        with (folder / "output").open("w") as output:
            code, struck.hit = inject(
                point, how, made.argv, made.home, folder / "log", **made.where, stdout=output, stderr=output
            )
        text = (folder / "output").read_text()
        if fault == "kill" and code not in (0, -9):
            struck.wrong.append(f"ended with {code}: {text[-300:]}")
        if fault != "kill" and (code not in {0, *_REFUSED} or "Traceback" in text or "E-BUG" in text):
            struck.wrong.append(f"ended with {code}: {text[-300:]}")
        struck.wrong += judge.torn(made.home) + judge.died(before, made)
        between = made.engines()
        again = subprocess.run(made.argv, **made.where, capture_output=True, text=True, timeout=120)
        if again.returncode != 0:
            struck.wrong.append(f"the next apply ended with {again.returncode}: {again.stderr[-300:]}")
        struck.wrong += judge.torn(made.home) + judge.died(before, made) + judge.unsettled(made, between)
    shutil.rmtree(folder)
    return struck
