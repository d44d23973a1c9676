"""What tests of downloads share: sample content, who is told, and the wish to stop."""

from __future__ import annotations

import threading
from typing import Any

from hub import MIB, Hub, Pattern

from lmctl.host import Fetch, Fetched, Progress
from lmctl.spec import LockedFile

TOKEN = "hf_canary"
DATA = bytes(range(256)) * 800  # 204,800 bytes
BIG = Pattern(3 * MIB)
PARTS = {"split": MIB, "span": MIB, "connections": 2}  # fetches BIG in three ranges


class Waits(threading.Event):
    """A wish to stop that notes every wait and lets no time pass."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0)
        return self.is_set()


def nothing(progress: Progress) -> None:
    """Tell nobody."""


def none(fetched: Fetched) -> None:
    """Record nothing."""


def wanted(hub: Hub, repo: str, path: str, revision: str = "main", **changes: Any) -> Fetch:
    """Return the fetch of a file as a lock names it."""
    file = hub.file(repo, path, revision)
    fields = {"size": file.size, "sha256": file.sha256, "blob": None if file.lfs else file.blob, **changes}
    return Fetch(repo, revision, hub.repos[repo].refs[revision], LockedFile(path, "weights", **fields))
