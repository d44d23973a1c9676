"""Weights that are split over several files: which names belong to one set."""

from __future__ import annotations

import re

SHARD = re.compile(r"(?P<prefix>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<suffix>\.gguf|\.safetensors)", re.I)


def shard_names(path: str) -> tuple[str, ...]:
    """Return the paths of all shards of the set that `path` belongs to, in order; `path` alone when it is no shard."""
    found = SHARD.fullmatch(path)
    if found is None:
        return (path,)
    prefix, total, suffix = found["prefix"], found["total"], found["suffix"]
    return tuple(f"{prefix}-{number:05}-of-{total}{suffix}" for number in range(1, int(total) + 1)) or (path,)
