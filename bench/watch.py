"""From a save to the new plan, and what a watcher and a gateway cost while nothing happens.

    python bench/watch.py [--profiles 20] [--saves 20] [--idle 120]

The profiles run for real, with the stand-in engine of bench/scale.py. A watcher that applies nothing hears of one save
after another; its time runs from before the save until its line with the new plan was read, less the debounce, in which
it waits on purpose. In turn with it `lmctl plan` is run, as a person would after the save. Then
watcher and gateway idle side by side, the engines below them: shares of one core, resident bytes. The idle time should
hold at least two looks of the watcher's (one a minute). What was started is ended and removed, also on Ctrl-C.
"""

from __future__ import annotations

import argparse
import compileall
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
from scale import REPOSITORY, Home, hub, timed

DEBOUNCE = 0.3  # seconds
MB = 1e6


@contextlib.contextmanager
def started(home: Home, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command of lmctl beside this, until the end."""
    command = [sys.executable, "-m", "lmctl", "-C", str(home.folder), *words]
    process = subprocess.Popen(
        command,
        env=home.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def event(process: subprocess.Popen[str], *, saved: bool) -> dict[str, Any]:
    """Return the next plan that a watcher tells; with `saved`, one that a save led to."""
    assert process.stdout is not None
    for line in process.stdout:
        told: dict[str, Any] = json.loads(line)
        if told.get("event") == "planned" and bool(told["files"]) == saved:
            return told
    raise SystemExit(f"the watcher ended with {process.wait()}")


def declare(home: Home, ctx: int, port: int) -> None:
    """Declare all profiles, the first one with a context; the watcher only tells."""
    home.declare(range(home.count), ctx)
    file = home.folder / "localmodels.toml"
    tables = f'[watch]\napply = "never"\ndebounce = "{DEBOUNCE * 1000:.0f}ms"\n[gateway]\nport = {port}\n'
    new = home.folder / "new.toml"
    new.write_text(file.read_text() + tables)
    new.replace(file)


def saves(home: Home, watcher: subprocess.Popen[str], port: int, count: int) -> dict[str, list[float]]:
    """Save again and again; return the seconds until the watcher told of it, and those of `lmctl plan`."""
    found: dict[str, list[float]] = {"watcher": [], "plan": []}
    for number in range(count):
        text, ctx = home.folder / "localmodels.toml", 1024 + 512 * (number % 2)
        declare(home, ctx, port)  # once aside, so that only the save itself is timed
        ready = text.read_text()
        event(watcher, saved=True)
        begin = time.perf_counter()
        text.write_text(ready.replace(f"ctx = {ctx}", f"ctx = {ctx + 256}", 1))
        told = event(watcher, saved=True)
        found["watcher"].append(time.perf_counter() - begin - DEBOUNCE)
        if [change["address"] for change in told["plan"]["changes"]] != ["program:m0"]:
            raise SystemExit(f"another plan than expected: {told}")
        found["plan"].append(timed(home.folder, home.environ, "plan")[0])
    return found


def used(process: psutil.Process) -> float:
    """Return the seconds of processor time that a process used with all of its threads, also those that ended."""
    times = process.cpu_times()
    return float(times.user + times.system)


def idle(processes: dict[str, psutil.Process], seconds: float) -> dict[str, tuple[float, float]]:
    """Return the share of a core that each process takes while nothing happens, and its resident bytes."""
    before = {name: used(process) for name, process in processes.items()}
    begin = time.perf_counter()
    time.sleep(seconds)
    took = time.perf_counter() - begin
    return {
        name: ((used(process) - before[name]) / took, float(process.memory_info().rss))
        for name, process in processes.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profiles", type=int, default=20)
    parser.add_argument("--saves", type=int, default=20)
    parser.add_argument("--idle", type=float, default=120.0, help="seconds")
    options = parser.parse_args()
    compileall.compile_dir(REPOSITORY / "lmctl", quiet=1)
    with tempfile.TemporaryDirectory(prefix="lm") as name, hub(Path(name) / "hub", options.profiles) as url:
        (Path(name) / "home").mkdir()
        home = Home(Path(name) / "home", url, options.profiles)
        try:
            port = home.first + options.profiles
            declare(home, 512, port)
            home.gateway = True
            home.run("apply", "apply")
            home.run("stop", "stop", "gateway")  # one that is started here can be looked at
            with started(home, "watch", "--json") as watcher, started(home, "-q", "gateway") as gateway:
                event(watcher, saved=False)
                seconds = saves(home, watcher, port, options.saves)
                found = idle({"watcher": one(watcher), "gateway": one(gateway)}, options.idle)
        finally:
            home.end()
    report(seconds, found)


def one(process: subprocess.Popen[str]) -> psutil.Process:
    if process.poll() is not None:
        raise SystemExit(f"{process.args!r} ended with {process.returncode}")
    return psutil.Process(process.pid)


def report(seconds: dict[str, list[float]], found: dict[str, tuple[float, float]]) -> None:
    """Print medians and what the processes cost, each alone and together."""
    saved = sorted(seconds["watcher"])
    share, memory = (sum(each[n] for each in found.values()) for n in (0, 1))
    rows = [
        (
            "from a save to the new plan, beside the debounce",
            f"{statistics.median(saved) * 1000:.0f} ms",
            "under 200 ms",
        ),
        ("the same, the slowest of all", f"{saved[-1] * 1000:.0f} ms", ""),
        ("`lmctl plan` after the same save", f"{statistics.median(seconds['plan']) * 1000:.0f} ms", ""),
        *((f"{name}, idle: of one core", f"{each[0] * 100:.3f} %", "") for name, each in found.items()),
        *((f"{name}, idle: resident", f"{each[1] / MB:.1f} MB", "") for name, each in found.items()),
        ("watcher and gateway together: of one core", f"{share * 100:.3f} %", "under 0.5 %"),
        ("watcher and gateway together: resident", f"{memory / MB:.1f} MB", "under 120 MB"),
    ]
    print("| figure | measured | goal |\n| --- | --- | --- |")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
