"""Where a run of lmctl touches the disk or another process, found with strace, and a fault at one such point."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

SYSCALLS = (
    *("openat", "write", "pwrite64", "ftruncate", "fsync", "fdatasync", "flock", "chmod", "fchmod"),
    *("rename", "renameat2", "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "mkdir", "rmdir"),
    *("connect", "sendto"),
)
_STRACE = ["strace", "-D", "-I2", "-qq", "-e", "signal=none", "-o"]  # -I2: SIGTERM makes it let go
_CALL = re.compile(r"(\d+) +(\w+)\((.*)")
_CLONE = re.compile(r"(\d+) +clone3?\(.*CLONE_THREAD")
_RESUMED = re.compile(r"(\d+) +<\.\.\. clone3? resumed>.* = (\d+)")
_RESULT = re.compile(r" = (\d+)$")
_FOLDER = re.compile(r"AT_FDCWD<[^>]*>, ")
_PATH = re.compile(r'[<"](/[^>"]*)[>"]')


@dataclass(frozen=True)
class Point:
    """The `number`-th time that the main thread, or any thread on `path`, makes a system call."""

    call: str
    number: int
    path: str  # of the file, below the home; "" for a socket
    thread: bool = False

    def __str__(self) -> str:
        return f"{self.call} {self.number}{' of a thread' if self.thread else ''}: {self.path or 'a socket'}"


def available() -> str | None:
    """Return why faults cannot be injected here, None when they can."""
    strace = shutil.which("strace")
    if strace is None:
        return "there is no strace"
    done = subprocess.run([strace, "-qq", "-e", "trace=none", "true"], capture_output=True, text=True)
    return None if done.returncode == 0 else f"strace may not trace here: {done.stderr.strip()[:100]}"


def record(argv: Sequence[str], home: Path, log: Path, **how: Any) -> list[Point]:
    """Run lmctl to its end and return every point at which a fault could strike it, in order.

    What it starts (supervisord, launchers, engines) is not lmctl's own to be killed, and is left out.
    """
    calls = ",".join([*SYSCALLS, "clone", "clone3"])
    strace = [*_STRACE, str(log), "-f", "-y", "-s", "256", "-e", f"trace={calls}"]
    code = _run([*strace, *argv], log, **how)
    assert code == 0, f"the run to record ended with {code}"
    return _points(log.read_text(errors="replace").splitlines(), str(home))


def inject(point: Point, fault: str, argv: Sequence[str], home: Path, log: Path, **how: Any) -> tuple[int, bool]:
    """Run lmctl with a fault (`signal=KILL`, `error=EIO`) at one point.

    Return its exit code, -9 when it was killed, and whether it came to that point.
    """
    strace = [*_STRACE, str(log), "-e", f"trace={point.call}", "-e", f"inject={point.call}:{fault}:when={point.number}"]
    if point.thread:
        strace += ["-f", "-P", f"{home}{point.path}"]
    code = _run([*strace, *argv], log, **how)
    return code, code == -signal.SIGKILL or "(INJECTED)" in log.read_text(errors="replace")


def _run(argv: Sequence[str], log: Path, **how: Any) -> int:
    """Run a program under strace, which is its child (-D); once it ended, strace lets go of what it left running."""
    code = subprocess.run(argv, stdin=subprocess.DEVNULL, timeout=120, **how).returncode
    for process in psutil.process_iter(["cmdline"]):
        if (process.info["cmdline"] or [""])[0] == "strace" and str(log) in process.info["cmdline"]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
                process.wait(timeout=60)
    return code


def _points(lines: Sequence[str], home: str) -> list[Point]:
    threads = _threads(lines)
    seen: Counter[tuple[str, ...]] = Counter()
    points, of_main = [], set()
    for line in lines:
        match = _CALL.match(line)
        if not match or match[1] not in threads:
            continue
        (thread, call, rest), main = match.groups(), match[1] == threads[0]
        path = _path(call, rest, home)
        key = (thread, call) if main else (thread, call, path or "")
        seen[key] += 1
        if path is None or call.startswith("clone"):
            continue
        if main:
            of_main.add(path)
        points.append(Point(call, seen[key], path, thread=not main))
    # what the main thread touches as well is struck there
    return list(dict.fromkeys(p for p in points if not p.thread or (p.path and p.path not in of_main)))


def _threads(lines: Sequence[str]) -> list[str]:
    """Return the ids of the main thread and all threads of the first process."""
    threads, started = [lines[0].split()[0]], set()
    for line in lines:
        call, resumed = _CLONE.match(line), _RESUMED.match(line)
        if call and call[1] in threads:
            done = _RESULT.search(line)
            threads += [done[1]] if done else []
            started |= set() if done else {call[1]}
        elif resumed and resumed[1] in started:
            started.remove(resumed[1])
            threads.append(resumed[2])
    return threads


def _path(call: str, rest: str, home: str) -> str | None:
    """Return the file below the home that a call is about, "" for a socket, None where nothing is kept."""
    if call in ("connect", "sendto"):
        return "" if "AF_UNIX" in rest or call == "sendto" else None
    if call == "openat" and "O_CREAT" not in rest:
        return None
    found = _PATH.findall(_FOLDER.sub("", rest))
    if not found:
        return None
    path = found[1] if call in ("rename", "link", "symlink") and len(found) > 1 else found[0]
    # the index of SQLite's log is made anew by whoever comes next
    return None if not path.startswith(f"{home}/") or path.endswith("-shm") else path.removeprefix(home)
