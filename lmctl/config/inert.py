"""Keys that are valid and have no effect yet, as a person would write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from lmctl.all_backends import BACKENDS
from lmctl.config.compose import Composed, table
from lmctl.config.layers import Layer

NAMED = ("engines",)
SINGLE = ("gateway.load_timeout", "watch.enabled")  # the others of these tables have an effect
KEYS = ("ttl", "max_concurrency", "max_queue", "source", "convert")

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def keys(layers: Sequence[Layer], machine: Layer | None, composed: Mapping[str, Composed]) -> tuple[str, ...]:
    """Return every declared key whose feature has not landed; with its value where only that one has no effect."""
    found = [*_of_tables(layers), *_of_machine(machine), *_of_profiles(composed)]
    return tuple(dict.fromkeys(found))


def _of_tables(layers: Sequence[Layer]) -> Iterator[str]:
    for key in SINGLE:
        head, _, name = key.partition(".")
        yield from (key for layer in layers if name in table(layer.tree, head))
    for key in NAMED:
        yield from (_dotted(key, name) for layer in layers for name in table(layer.tree, key))
    yield from (f"defaults.{key}" for layer in layers for key in table(layer.tree, "defaults") if key in KEYS)


def _of_machine(machine: Layer | None) -> Iterator[str]:
    tree = machine.tree if machine else {}
    later = (name for name in table(tree, "engines") if name not in BACKENDS)
    yield from (f"{_dotted('engines', name)} (machine.toml)" for name in later)


def _of_profiles(composed: Mapping[str, Composed]) -> Iterator[str]:
    for name, one in composed.items():
        if one.backend not in BACKENDS:
            yield f'{_dotted("profiles", name)}.backend = "{one.backend}"'
            continue
        own = (key for key in KEYS if key in one.keys and one.origin[key].path[0] != "defaults")
        yield from (f"{_dotted('profiles', name)}.{key}" for key in own)
        if one.keys.get("start") == "on-demand":
            yield f'{_dotted("profiles", name)}.start = "on-demand"'  # counts as "manual" until something demands it


def _dotted(table: str, name: str) -> str:
    return f"{table}.{name if _BARE.fullmatch(name) else json.dumps(name)}"
