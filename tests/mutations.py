"""Remove one guard of lmctl at a time and see that the test which holds it fails.

    python tests/mutations.py                     every guard of tests/cases/guards.toml
    python tests/mutations.py trust transfer      those whose name contains one of these words
    python tests/mutations.py --count 5 [--seed N]  as many, chosen by a seed that is printed

Each guard is removed in a copy of the package; the tests run against the copy.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests/cases/guards.toml"
FAILED = 1  # pytest's exit code when tests ran and failed; any other means that they could not run


@dataclass(frozen=True)
class Guard:
    """A guard: what of `file` it is (`has`, written there once), what is left without it, and the test that fails."""

    name: str
    file: str
    has: str
    becomes: str
    test: str
    rule: int | None = None  # of the eight rules of prune

    def removed(self, text: str) -> str:
        """Return the text of the file without the guard. Raises ValueError unless it is there exactly once."""
        if text.count(self.has) != 1:
            raise ValueError(f"{self.name}: {self.file} holds it {text.count(self.has)} times: {self.has!r}")
        return text.replace(self.has, self.becomes)


def guards() -> tuple[Guard, ...]:
    """Return the table."""
    return tuple(Guard(**entry) for entry in tomllib.loads(TABLE.read_text())["guard"])


def chosen(count: int, seed: int) -> tuple[Guard, ...]:
    """Return `count` guards, the same for the same seed and table."""
    every = guards()
    return tuple(random.Random(seed).sample(every, min(count, len(every))))


def survives(guard: Guard) -> str:
    """Return why removing the guard went unnoticed, empty when its test fails as it must."""
    with TemporaryDirectory(prefix="lmctl-mutation-") as folder:
        shutil.copytree(ROOT / "lmctl", Path(folder, "lmctl"), ignore=shutil.ignore_patterns("__pycache__"))
        file = Path(folder, guard.file)
        file.write_text(guard.removed(file.read_text()))
        environ = {**os.environ, "PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": "1"}
        module = ".".join(Path(guard.file).with_suffix("").parts)
        told = f"import {module} as m; assert m.__file__.startswith({folder!r}), m.__file__"
        loaded = subprocess.run(
            [sys.executable, "-P", "-c", told], cwd=ROOT, env=environ, capture_output=True, text=True
        )
        if loaded.returncode:
            return f"{guard.name}: what is left is no Python:\n{loaded.stderr}"
        argv = [sys.executable, "-P", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", guard.test]
        ran = subprocess.run(argv, cwd=ROOT, env=environ, capture_output=True, text=True)
    if ran.returncode == FAILED:
        return ""
    return (
        f"{guard.name}: {guard.test} ended with {ran.returncode} without it:\n{ran.stdout[-2000:]}{ran.stderr[-500:]}"
    )


def check(some: Sequence[Guard], jobs: int) -> Iterable[tuple[Guard, str]]:
    """Yield each guard with what `survives` says of it."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from zip(some, pool.map(survives, some), strict=True)


def main(arguments: Sequence[str]) -> int:
    """Run from the command line; return 1 when a guard can go unnoticed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="only guards whose name contains one of them")
    parser.add_argument("--count", type=int, help="as many, chosen by the seed")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--jobs", type=int, default=1, help="side by side (1)")
    args = parser.parse_args(arguments)
    some = chosen(args.count, args.seed) if args.count else guards()
    some = tuple(guard for guard in some if not args.words or any(word in guard.name for word in args.words))
    if args.count:
        print(f"seed {args.seed}")
    unnoticed = 0
    for guard, why in check(some, args.jobs):
        unnoticed += bool(why)
        print(f"{'UNNOTICED' if why else 'noticed  '} {guard.name}", why, sep="\n" if why else "", flush=True)
    print(f"{len(some)} guards removed in turn, unnoticed: {unnoticed}")
    return int(unnoticed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
