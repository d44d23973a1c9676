"""How long lmctl takes to say that there is nothing to do, beside what Python and pydantic take to start.

    python bench/start.py [--rounds 15]

Everything runs in turn, round after round, as whole processes; medians of wall-clock time and their ratios are printed.
Twenty profiles are served for real, by the embedded engine, in a home of their own that is removed afterwards.
"""

from __future__ import annotations

import argparse
import compileall
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
WEIGHTS = REPOSITORY / "examples/quickstart/hello.gguf"
RUNNING, MANY = 20, 1000


def declare(folder: Path, name: str, count: int, start: str) -> None:
    """Write a declaration of `count` profiles that all serve the same tiny weights."""
    folder.mkdir()
    shutil.copy(WEIGHTS, folder)
    profiles = (
        f'[profiles.m{n}]\npath = "hello.gguf"\nport = {21000 + n}\nctx = 512\nstart = "{start}"\n'
        for n in range(count)
    )
    (folder / "localmodels.toml").write_text(f'version = 1\nname = "{name}"\n' + "".join(profiles))


def environment(home: Path) -> dict[str, str]:
    return {"HOME": str(home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}


def lmctl(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "lmctl", "-C", str(folder), *words]


def timed(command: list[str], home: Path) -> float:
    """Return the milliseconds of one run."""
    begin = time.perf_counter()
    subprocess.run(command, env=environment(home), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return (time.perf_counter() - begin) * 1000


def medians(commands: dict[str, list[str]], home: Path, rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each command; the first round does not count."""
    seen: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            elapsed = timed(command, home)
            if number:
                seen[name].append(elapsed)
    return {name: statistics.median(times) for name, times in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    compileall.compile_dir(REPOSITORY / "lmctl", quiet=1)
    with tempfile.TemporaryDirectory(prefix="lm") as name:
        home = Path(name)
        running, many = home / "running", home / "many"
        declare(running, "running", RUNNING, "always")
        declare(many, "many", MANY, "manual")
        try:
            timed(lmctl(running, "apply"), home)
            timed(lmctl(many, "lock"), home)
            report(
                medians(
                    {
                        "python -c pass": [sys.executable, "-c", "pass"],
                        "python -c 'import pydantic'": [sys.executable, "-c", "import pydantic"],
                        "lmctl --help": [sys.executable, "-m", "lmctl", "--help"],
                        f"lmctl plan, {RUNNING} profiles": lmctl(running, "plan"),
                        f"lmctl apply, {RUNNING} profiles": lmctl(running, "apply"),
                        f"lmctl plan, {MANY} profiles": lmctl(many, "plan"),
                    },
                    home,
                    rounds,
                )
            )
        finally:
            for folder in (running, many):
                subprocess.run(lmctl(folder, "down"), env=environment(home), check=False, stdout=subprocess.DEVNULL)


def report(found: dict[str, float]) -> None:
    """Print medians, then the ratios that the goals are about."""
    for name, median in found.items():
        print(f"{median:8.1f} ms  {name}")
    bare, pydantic, helping, planning, applying, many = found.values()
    each = (many - planning) / (MANY - RUNNING)
    rows = (
        ("plan / import pydantic", planning / pydantic, "at most 1.5"),
        ("--help / bare Python", helping / bare, "under 3"),
        ("no-op apply / plan", applying / planning, "at most 1.5"),
        (f"ms per profile more, {RUNNING} to {MANY}", each, "under 3"),
    )
    print("\n| figure | measured | goal |\n| --- | --- | --- |")
    for name, value, goal in rows:
        print(f"| {name} | {value:.2f} | {goal} |")


if __name__ == "__main__":
    main()
