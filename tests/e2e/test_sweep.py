"""A fault at every k-th point of an apply; `sh scripts/sweep` strikes at all of them."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

import pytest
from fakes.hub import Hub
from sweep.run import points_of, strike
from sweep.scenes import SCENES, fill, free_ports

import lmctl

_MANY = {"kill": 6, "eio": 2, "enospc": 3}  # points of each scene


def _seed() -> str:
    """Return the digest of lmctl's own code: another choice with every change of it, the same one when it fails."""
    sources = sorted(Path(lmctl.__file__).parent.rglob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:12]


@pytest.mark.needs("strace")
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("fault", ["F1-kill", "F3-eio", "F4-enospc"])
def test_a_fault_at_any_point_tears_nothing_and_the_next_apply_converges(fault, scene, tmp_path):
    seed, kind = _seed(), fault.partition("-")[2]
    print(f"seed {seed}")  # shown when it fails
    with Hub() as hub:
        fill(hub)
        found = points_of(scene, kind, tmp_path / "record", hub, free_ports())
        assert len(found) > 20, "hardly anything is written: the points are not seen any more"
        chosen = random.Random(f"{seed}{scene}{fault}").sample(found, _MANY[kind])
        done = [strike(scene, kind, point, tmp_path / str(n), hub, free_ports()) for n, point in enumerate(chosen)]
    assert {str(struck.point): struck.wrong for struck in done if struck.wrong} == {}
    assert any(struck.hit for struck in done)
