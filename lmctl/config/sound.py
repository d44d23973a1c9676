"""What can be judged further although something is wrong: the layers without it, and what is not known for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from lmctl.config.layers import Inputs, Layer, Tree
from lmctl.config.positions import Path
from lmctl.record import record

Fault = tuple[Layer, Path]  # something wrong, by its path from the declaration's root


@record
class Sound:
    """Layers whose every key is valid. Of what was left out nothing may be said to be missing."""

    layers: tuple[Layer, ...]
    machine: Layer | None
    names: frozenset[str]  # of every profile that is declared anywhere
    partly: frozenset[str] = frozenset()  # profiles that lack what is wrong with them
    never: frozenset[str] = frozenset()  # profiles of which too little is known
    gateway: bool = True  # whether all that is said about the gateway is known
    trust: bool = True  # whether it is known what this machine allows


def leave_out(inputs: Inputs, faults: Iterable[Fault]) -> Sound:
    """Return what is left of the layers without `faults`."""
    names = frozenset(inputs.unread | {name for layer in inputs.layers for name in _profiles(layer.tree)})
    by_layer: dict[int, list[Path]] = {}
    for layer, path in faults:
        by_layer.setdefault(id(layer), []).append(path)
    in_machine = inputs.machine_unread or id(inputs.machine) in by_layer
    paths = [path for layer, path in faults if layer is not inputs.machine]
    of_profiles = [path for path in paths if path[0] == "profiles" and len(path) > 1]
    partly = inputs.unread | {str(path[1]) for path in of_profiles}
    never = {str(path[1]) for path in of_profiles if len(path) == 2 or path[2] == "backend"}
    return Sound(
        tuple(_without(layer, by_layer.get(id(layer), [])) for layer in inputs.layers),
        None if in_machine else inputs.machine,
        names,
        partly=names if any(path[0] == "defaults" for path in paths) else frozenset(partly),
        never=names if ("defaults", "backend") in paths else frozenset(never),
        gateway=all(path[0] != "gateway" for path in paths),
        trust=not in_machine and all(path[0] != "name" for path in paths),
    )


def _profiles(tree: Tree) -> Iterable[str]:
    found = tree.get("profiles")
    return found if isinstance(found, dict) else ()


def _without(layer: Layer, faults: list[Path]) -> Layer:
    """Return the layer without the keys that are wrong: of profiles a key each, of other tables an entry each."""
    if not faults:
        return layer
    tree = _copy(layer.tree, 3)
    for fault in faults:
        path = fault[: 3 if fault[0] == "profiles" else 2]
        here: Any = tree
        for part in path[:-1]:
            here = here.get(part) if isinstance(here, dict) else None
        if isinstance(here, dict):
            here.pop(path[-1], None)
    return Layer(layer.file, layer.kind, tree, layer.folder, layer.text, layer.prefix)


def _copy(tree: Any, depth: int) -> Any:
    return {key: _copy(held, depth - 1) for key, held in tree.items()} if depth and isinstance(tree, dict) else tree
