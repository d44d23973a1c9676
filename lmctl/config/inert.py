"""Keys that are valid and have no effect yet, as a person would write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from lmctl.all_backends import BACKENDS
from lmctl.config.compose import Composed, table
from lmctl.config.layers import Layer

NAMED = ("engines",)
KEYS = ("source", "convert")

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def keys(layers: Sequence[Layer], machine: Layer | None, composed: Mapping[str, Composed]) -> tuple[str, ...]:
    """Return every declared key whose feature has not landed; with its value where only that one has no effect."""
    found = [*_of_tables(layers), *_of_machine(machine), *_of_profiles(composed)]
    return tuple(dict.fromkeys(found))


def _of_tables(layers: Sequence[Layer]) -> Iterator[str]:
    for key in NAMED:
        yield from (_dotted(key, name) for layer in layers for name in table(layer.tree, key))


def _of_machine(machine: Layer | None) -> Iterator[str]:
    tree = machine.tree if machine else {}
    later = (name for name in table(tree, "engines") if name not in BACKENDS)
    yield from (f"{_dotted('engines', name)} (machine.toml)" for name in later)


def _of_profiles(composed: Mapping[str, Composed]) -> Iterator[str]:
    for name, one in composed.items():
        if one.backend not in BACKENDS:
            yield f'{_dotted("profiles", name)}.backend = "{one.backend}"'
            continue
        yield from (f"{_dotted('profiles', name)}.{key}" for key in KEYS if key in one.keys)


def _dotted(table: str, name: str) -> str:
    return f"{table}.{name if _BARE.fullmatch(name) else json.dumps(name)}"
