"""What the tests of hosts share: a loopback Hub, and a transfer from it into a cache of the test's own."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "fakes"))

from hub import Hub

from lmctl.host import Fetch
from lmctl.hosts.endpoint import Endpoint
from lmctl.hosts.limits import Limits
from lmctl.hosts.transfer import HubTransfer
from lmctl.spec import LockedFile

TOKEN = "hf_canary"


class Waits(threading.Event):
    """A wish to stop that notes every wait and lets no time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0)
        return self.is_set()


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as held:
        yield held


@pytest.fixture
def waits() -> Waits:
    return Waits()


@pytest.fixture
def transfer(hub: Hub, tmp_path: Path, waits: Waits) -> Callable[..., HubTransfer]:
    """Make a transfer into tmp_path/hub; waits between tries take no time and are noted."""

    def make(**limits: Any) -> HubTransfer:
        held = Limits(**{"stall": 5.0, **limits})
        return HubTransfer(Endpoint(hub.url, TOKEN), tmp_path / "hub", tmp_path / "lmctl", held, stop=waits)

    return make


def wanted(hub: Hub, repo: str, path: str, revision: str = "main", **changes: Any) -> Fetch:
    """Return the fetch of a file as a lock names it."""
    file = hub.file(repo, path, revision)
    fields = {"size": file.size, "sha256": file.sha256, "blob": None if file.lfs else file.blob, **changes}
    return Fetch(repo, revision, hub.repos[repo].refs[revision], LockedFile(path, "weights", **fields))


@pytest.fixture
def want(hub: Hub) -> Callable[..., Fetch]:
    return lambda repo, path, revision="main", **changes: wanted(hub, repo, path, revision, **changes)
