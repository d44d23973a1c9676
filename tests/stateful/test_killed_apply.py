"""Apply killed at one moment after the other, then left alone: it converges, and nothing of the killed ones shows.

`pytest -n 0 tests/stateful --hypothesis-profile=long` kills a hundred times, at other moments in every run.
"""

from __future__ import annotations

import contextlib
import random
import subprocess

from e2e_tools import profile
from fakes.hub import Hub
from hypothesis import settings
from sweep import judge
from sweep.scenes import fill, free_ports, scene

_LONG = settings.get_current_profile_name() == "long"
_TIMES = 100 if _LONG else 15
_LATEST = 1.5  # seconds into a run


def test_F18_apply_killed_again_and_again_converges_once_it_is_left_alone(tmp_path):
    seed = random.randrange(1 << 32) if _LONG else 18
    print(f"seed {seed}")  # shown when it fails
    moments = random.Random(seed)
    with Hub() as hub:
        fill(hub)
        with scene("nothing", tmp_path, hub, free_ports()) as made:
            for time in range(_TIMES):
                if moments.random() < 0.3:  # so that there is something to do, also once a run came to its end
                    mine = profile("mine", path="mine.gguf", port=made.ports[0], ctx=512 + 256 * time)
                    hubs = profile("hub", model="org/b-GGUF", quant="Q8_0", port=made.ports[1])
                    kept = profile("keep", model="org/keep-GGUF", quant="Q4_K_M", port=made.ports[2])
                    made.machine.declare(mine + hubs + kept)
                _kill(made, moments.uniform(0.0, _LATEST))
                assert judge.torn(made.home) == []
            between = made.engines()
            made.machine.run("apply", "--prune", "--yes")
            assert judge.torn(made.home) + judge.unsettled(made, between) == []


def _kill(made, seconds: float) -> None:
    """Run apply and kill it after so many seconds; one that was quicker has to have ended well."""
    process = made.machine.start("apply", "--yes")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    process.kill()
    out, err = process.communicate(timeout=120)
    assert process.returncode in (0, -9), f"ended with {process.returncode}: {out}{err}"
    assert "Traceback" not in err, err
