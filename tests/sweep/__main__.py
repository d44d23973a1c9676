"""Strike lmctl at every point of an apply, and tell what came of it: sh scripts/sweep --help."""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from fakes.hub import Hub
from sweep.run import FAULTS, Struck, points_of, strike
from sweep.scenes import SCENES, fill, free_ports


def main() -> int:
    parser = argparse.ArgumentParser(prog="sh scripts/sweep", description=__doc__)
    parser.add_argument("--fault", choices=FAULTS, action="append", help="default: all")
    parser.add_argument("--scene", choices=SCENES, action="append", help="default: all")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="every K-th point only")
    parser.add_argument("--seed", type=int, default=0, help="which of K neighbouring points")
    asked = parser.parse_args()
    print(f"{'scene':9}{'fault':8}{'points':>7}{'struck':>8}{'torn':>6}{'not settled':>13}", flush=True)
    kinds = [(scene, fault) for scene in asked.scene or SCENES for fault in asked.fault or FAULTS]
    wrong = [sweep(scene, fault, asked.every, asked.seed) for scene, fault in kinds]
    return 1 if any(wrong) else 0


def sweep(scene: str, fault: str, every: int, seed: int) -> list[Struck]:
    """Strike at every `every`-th point of one scene; print a row of the table and return what went wrong."""
    with tempfile.TemporaryDirectory(prefix="sweep") as folder, Hub() as hub:
        fill(hub)
        points = points_of(scene, fault, Path(folder, "record"), hub, free_ports())
        chosen = points[random.Random(seed).randrange(every) :: every]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            tasks = [
                pool.submit(strike, scene, fault, point, Path(folder, str(number)), hub, free_ports())
                for number, point in enumerate(chosen)
            ]
            done = [task.result() for task in tasks]
    wrong = [struck for struck in done if struck.wrong]
    kinds = Counter("torn" if any(w.startswith("torn") for w in struck.wrong) else "other" for struck in wrong)
    hit = sum(struck.hit for struck in done)
    print(f"{scene:9}{fault:8}{len(done):7}{hit:8}{kinds['torn']:6}{kinds['other']:13}", flush=True)
    for struck in wrong:
        print(f"  at {struck.point}: {'; '.join(struck.wrong)}", flush=True)
    return wrong


if __name__ == "__main__":
    sys.exit(main())
