"""Listings of repositories made of names, and what is chosen of them."""

from __future__ import annotations

import pytest

from lmctl.errors import LmctlError
from lmctl.host import Listing, RemoteFile
from lmctl.selection import select
from lmctl.spec import Wanted

REPO, COMMIT = "owner/name", "0" * 40
GIB = 1 << 30


def listing(*paths: str, size: int = GIB) -> Listing:
    return Listing(REPO, "main", COMMIT, tuple(RemoteFile(path, size, "a" * 64, "b" * 40) for path in paths))


def shards(stem: str, total: int, ending: str = "gguf") -> list[str]:
    return [f"{stem}-{number:05}-of-{total:05}.{ending}" for number in range(1, total + 1)]


def gguf(selection: str, role: str = "weights") -> Wanted:
    return Wanted(f"{REPO}@main:{selection}", REPO, "main", selection, "gguf", role)  # type: ignore[arg-type]


MLX = Wanted(f"{REPO}@main:mlx", REPO, "main", "mlx", "mlx")


def chosen(repository: Listing, wanted: Wanted) -> list[tuple[str, str]]:
    return [(file.path, role) for file, role in select(repository, wanted)]


def paths(repository: Listing, wanted: Wanted) -> list[str]:
    return [path for path, _ in chosen(repository, wanted)]


def refused(repository: Listing, wanted: Wanted) -> LmctlError:
    with pytest.raises(LmctlError) as caught:
        select(repository, wanted)
    assert "\n" not in str(caught.value)
    return caught.value
