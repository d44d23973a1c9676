"""What happens to files, processes and the disk while lmctl works, or while nobody looks."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from e2e.conftest import Ran
from e2e_tools import daemons, until
from stateful.world import WEIGHTS, Way, World, flipped, to_its_end
from sweep import points
from watch_tools import Watch

from lmctl.errors import PARTIAL, TERMINATED
from lmctl.mutex import holder

PAGE = 4096  # bytes
DISK = 24 << 20  # bytes of a home whose disk can be filled
HUBS: dict[str, dict[str, object]] = {  # how a Hub that is asked for bytes misbehaves
    "lies": {"flip": True},
    "cuts": {"cut": 100, "times": 2},
    "is gone": {"status": 404, "where": "all"},
    "breaks": {"raw": b"", "times": 2, "where": "all"},
}
STRIKES = {"kill": "signal=KILL", "no space": "error=ENOSPC", "bad disk": "error=EIO"}
_DISK = {"pwrite64": 160, "fdatasync": 35, "fsync": 27, "unlink": 19, "write": 17, "mkdir": 15, "rename": 14}
_OTHERS = {"flock": 25, "connect": 24, "sendto": 22, "fchmod": 13}
AT = {  # the system calls that a fault strikes, and how often an apply with much to do makes each (measured)
    "kill": _DISK | _OTHERS,
    "no space": {call: _DISK[call] for call in ("pwrite64", "write", "mkdir", "rename")},
    "bad disk": {call: _DISK[call] for call in ("fdatasync", "fsync", "rename")},
}


@functools.cache
def mounting() -> str | None:
    """Return why no small disk can be made here, None when it can."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            mount(Path(folder))
        except (OSError, subprocess.CalledProcessError) as error:
            return f"no tmpfs can be mounted: {error}"
        unmount(Path(folder))
    return None


def mount(folder: Path) -> None:
    argv = ["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=700", "tmpfs", str(folder)]
    subprocess.run(argv, check=True, capture_output=True)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], check=True, capture_output=True)


def killed_after(seconds: float) -> Way:
    """Run lmctl and kill it when it has run for so long, if it still does."""

    def run(world: World, words: tuple[str, ...]) -> Ran:
        process = world.machine.start(*words)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(seconds)
        process.kill()
        out, err = process.communicate(timeout=120)
        return Ran(process.returncode, out, err)

    return run


def struck(strike: str, call: str, number: int) -> Way:
    """Run lmctl with a fault at the `number`-th time that its main thread makes a system call."""

    def run(world: World, words: tuple[str, ...]) -> Ran:
        argv, log, output = [sys.executable, "-m", "lmctl", *words], world.folder / "strace", world.folder / "output"
        where = {"cwd": world.machine.folder, "env": world.machine.env()}
        with output.open("w") as stream:
            point = points.Point(call, number, "")
            fault = STRIKES[strike]
            code, _ = points.inject(point, fault, argv, world.home, log, **where, stdout=stream, stderr=stream)
        world.machine.said.append(output.read_text())
        return Ran(code, "", output.read_text())

    return run


def on_full_disk(pages: int) -> Way:
    """Run lmctl while the disk of its home has room for so many pages of 4 KiB and no more."""

    def run(world: World, words: tuple[str, ...]) -> Ran:
        ballast = world.home / "ballast"
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(0, _free(world.home) - pages * PAGE) or 1)
        try:
            return to_its_end(world, words)
        finally:
            ballast.unlink()

    return run


def watched(world: World, words: tuple[str, ...]) -> Ran:
    """Let a watcher do what it wants to, and end it once it is at rest: what it did is what an apply does in part."""
    watch = Watch(world.machine)
    seen, since = 0, time.monotonic()

    def rests() -> bool:
        nonlocal seen, since
        if len(watch.events) != seen or holder(world.machine.state() / "apply.lock"):
            seen, since = len(watch.events), time.monotonic()
        return watch.process.poll() is not None or (seen > 1 and time.monotonic() - since > 1.0)

    until(rests)
    code, err = watch.end()
    return Ran(PARTIAL if code == TERMINATED else code, json.dumps(watch.events), err)


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def kill_supervisord(world: World) -> None:
    """Kill it, and wait until it is gone."""
    found = daemons(world.machine)
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    until(lambda: not {*found} & {process.pid for process in world.machine.processes()})
    world.tell(f"killed supervisord {found}")


SPOILS = ("delete", "delete content", "flip", "flip unseen")  # what becomes of weights


def spoil(world: World, name: str, how: str) -> None:
    """Delete weights, or flip a bit of them; `flip unseen` leaves their modification time as it was."""
    path = world.place(name)
    if path is None or not path.exists():
        return
    if how == "delete":
        path.unlink()
    elif how == "delete content":
        path.resolve().unlink()  # of a link of the cache the link stays
    else:
        before = path.stat()
        path.resolve().write_bytes(flipped(WEIGHTS[name].content))
        world.spoiled.add(path.resolve())
        later = 0 if how == "flip unseen" else 10**9  # nanoseconds
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + later))
    world.tell(f"{how} {path}")


def lose_declaration(world: World, how: str) -> None:
    """Leave a declaration that cannot be read: gone, empty, or saved in the middle of a line."""
    path = world.machine.folder / "localmodels.toml"
    if how == "gone":
        path.unlink(missing_ok=True)
    else:
        path.write_text("" if how == "empty" else 'version = 1\nname = "te')
    world.unread = True
    world.tell(f"the declaration is {how}")


# what somebody's editor makes of supervisord.conf
EDITS: dict[str, Callable[[str], str]] = {
    "remark": lambda text: text + "; mine\n",
    "another time to stop": lambda text: text.replace("stopwaitsecs=10", "stopwaitsecs=99", 1),
    "a program less": lambda text: re.sub(r"\[program:[^[]*", "", text, count=1),
    "a program more": lambda text: text + "\n[program:mine]\ncommand=sleep 600\n",
    "half of it": lambda text: text[: len(text) // 2],
    "nothing": lambda text: "",
}


def edit_conf(world: World, how: str) -> bool:
    """Edit supervisord.conf; return whether its text changed."""
    path = world.machine.state() / "supervisord.conf"
    before = path.read_text() if path.exists() else ""
    after = EDITS[how](before)
    if not before or before == after:
        return False
    path.write_text(after)
    world.edited = True
    world.tell(f"edited supervisord.conf: {how}")
    return True
