"""A Hugging Face cache of a test's own, with files placed in it, and a store over it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lmctl.host import Fetch
from lmctl.hosts import placing
from lmctl.hosts.store import DiskStore
from lmctl.spec import Artifact, LockedFile, Machine, Wanted

COMMIT = "c" * 40
OTHER = "d" * 40


def locked(path: str, content: bytes, blob: str | None = None) -> LockedFile:
    return LockedFile(path, "weights", len(content), hashlib.sha256(content).hexdigest(), blob)


def artifact(*files: LockedFile, commit: str | None = COMMIT) -> Artifact:
    return Artifact("o/n@main:Q4_K_M", "gguf", commit, {}, files)


ONE = locked("m.gguf", b"GGUF1")
TWO = locked("sub/config.json", b"{}", "b" * 40)
WANTED = Wanted("o/n@main:Q4_K_M", "o/n", "main", "Q4_K_M", "gguf")


class Disk:
    """A cache, the other programs' folders, and a store over them."""

    def __init__(self, tmp: Path) -> None:
        self.home, self.hub, self.own = tmp / "home", tmp / "hf/hub", tmp / "hf/lmctl"
        self.root = tmp / "weights"
        machine = Machine(weight_roots=(self.root,))
        self.store = DiskStore(self.hub, self.own, self.home, {}, machine)
        self.repo = self.hub / "models--o--n"

    def place(self, content: bytes, file: LockedFile, commit: str = COMMIT, repo: str = "o/n") -> Path:
        partial = self.own / "partial" / file.sha256
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        return placing.place(partial, self.hub, self.own, Fetch(repo, "main", commit, file))

    def put(self, path: Path, content: bytes) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def remove(self, blob: Path) -> int:
        signature = self.store.signature(blob)
        assert signature is not None
        return self.store.remove(blob, signature, self.store.links(blob))
