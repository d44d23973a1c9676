"""What the tests of hosts share: a loopback Hub, a transfer from it into a cache of the test's own, a supervisord."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from disks import Disk
from downloads import BIG, DATA, TOKEN, Waits, wanted
from hub import Hub
from supervised import Supervised

from lmctl.host import Fetch
from lmctl.hosts.endpoint import Endpoint
from lmctl.hosts.hub import HuggingFace
from lmctl.hosts.limits import Limits
from lmctl.hosts.transfer import HubTransfer


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as held:
        yield held


@pytest.fixture
def repo(hub: Hub) -> Hub:
    """A Hub that has the repository o/n with a small and a larger file."""
    hub.add("o/n", {"model.gguf": DATA, "big.gguf": BIG, "config.json": b"{}"})
    return hub


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def transfer(hub: Hub, tmp_path: Path, waits: Waits) -> Callable[..., HubTransfer]:
    """Make a transfer into tmp_path/hub; waits between tries take no time and are noted."""

    def make(**limits: Any) -> HubTransfer:
        held = Limits(**{"stall": 30.0, **limits})
        return HubTransfer(Endpoint(hub.url, TOKEN), tmp_path / "hub", tmp_path / "lmctl", held, stop=waits)

    return make


@pytest.fixture
def face(hub: Hub, waits: Waits) -> HuggingFace:
    return HuggingFace(Endpoint(hub.url, TOKEN), stop=waits)


@pytest.fixture
def want(hub: Hub) -> Callable[..., Fetch]:
    return lambda repo, path, revision="main", **changes: wanted(hub, repo, path, revision, **changes)


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


@pytest.fixture
def stack(home: Path) -> Iterator[Supervised]:
    with Supervised(home / "state") as held:
        yield held
