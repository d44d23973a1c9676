"""Refusals that need more than one key: what a profile must and must not combine, and what profiles share."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from lmctl.config.compose import Composed, Part, known_keys, table
from lmctl.config.layers import Layer, Tree
from lmctl.config.make import place_of
from lmctl.config.positions import Path
from lmctl.config.values import port_range
from lmctl.errors import Place, Problem, escape
from lmctl.portable import same_name

_PLAIN_CACHE = ("f32", "f16", "bf16")


def profile(name: str, composed: Composed, systems: frozenset[str], *, whole: bool = True) -> Iterator[Problem]:
    """Yield what is wrong with one profile, as it is where its overlays hold; `systems` are those of such machines.

    Of a profile that is not `whole` nothing is said that a key which was left out could have prevented.
    """
    keys = composed.keys
    named = [key for key in ("model", "path", "source") if key in keys]
    if len(named) > 1:
        what = f"profile {name} declares {' and '.join(named)}; they exclude each other"
        yield Problem("E-CONFLICT", what, "keep one", place_of(composed, named[1]))
    if whole and not named and composed.backend != "command":
        what = f"profile {name} names no weights"
        yield Problem("E-KEY", what, "add `model` or `path`", place_of(composed, ""))
    if whole and composed.backend == "command" and "command" not in keys:
        yield Problem("E-KEY", f"profile {name} has no `command`", "add it", place_of(composed, "backend"))
    if "quant" in keys and "file" in keys:
        yield Problem("E-CONFLICT", "quant and file exclude each other", "keep one", place_of(composed, "file"))
    for key in ("quant", "file", "revision"):
        if key in keys and "path" in keys:
            yield Problem("E-CONFLICT", f"{key} belongs to a model on the Hub", "remove it", place_of(composed, key))
    if keys.get("cache_type_v", "f16") not in _PLAIN_CACHE and keys.get("flash_attn") is False:
        what = "a quantized cache_type_v needs flash attention"
        yield Problem("E-CONFLICT", what, "remove `flash_attn = false`", place_of(composed, "cache_type_v"))
    if composed.backend == "vllm" and systems == {"darwin"}:
        yield Problem("E-PLATFORM", "backend: vllm does not run on darwin", "use mlx", place_of(composed, "backend"))
    if whole:
        yield from _refused(composed)


def _refused(composed: Composed) -> Iterator[Problem]:
    for part, key, backend in composed.refused:
        has = [name for name in ("llama.cpp", "mlx", "vllm", "command") if key.partition(".")[0] in known_keys(name)]
        fix = f"remove it; {', '.join(has)} {'has' if len(has) == 1 else 'have'} it" if has else "remove it"
        place = part.layer.place((*part.path, *key.split(".")))
        yield Problem("E-KEY", f"{key}: backend {backend} has no such key", fix, place)


def only_overridden(composed: Composed) -> bool:
    """Return whether no file declares the profile, and what overrides it names nothing that could be served."""
    served = ("model", "path", "source", "command")
    return not any(part.layer.committed for part in composed.parts) and not any(key in composed.keys for key in served)


def unknown_profile(name: str, composed: Composed, declared: Collection[str]) -> Problem:
    near = difflib.get_close_matches(name, sorted(declared), n=1)
    fix = f"did you mean `{near[0]}`?" if near else "correct the name, or add `model` or `path`"
    last = composed.parts[-1]
    return Problem("E-REF", f"there is no profile '{escape(name, 70)}'", fix, last.layer.place(last.path))


def names(layers: Sequence[Layer]) -> Iterator[Problem]:
    """Yield profiles that two committed files declare, and names that only case or normal form tells apart."""
    first: dict[str, tuple[str, Place, bool]] = {}
    for layer in layers:
        for name in table(layer.tree, "profiles"):
            place = layer.place(("profiles", name))
            known = first.setdefault(same_name(name), (name, place, layer.committed))
            if known[0] != name:
                what = (
                    f"names '{escape(name)}' and '{escape(known[0])}' ({known[1]}) collide ignoring case or normal form"
                )
                yield Problem("E-NAME", what, "rename one", place)
            elif known[1] != place and known[2] and layer.committed:
                what = f"profile {name} is declared twice, first in {known[1]}"
                yield Problem("E-CONFLICT", what, "keep one of them", place)


def files(composed: Iterable[Composed]) -> Iterator[Problem]:
    """Yield files that only case or normal form tells apart: of one repository, or local ones."""
    first: dict[tuple[object, ...], tuple[str, Place | None]] = {}
    for one in composed:
        for key, of in (("file", ("model", "revision")), ("path", ()), ("mmproj", ())):
            value, place = one.keys.get(key), place_of(one, key)
            if isinstance(value, str):
                same = (key == "file", *(str(one.keys.get(name)) for name in of), same_name(value))
                known = first.setdefault(same, (value, place))
                if known[0] != value:
                    shown = f"'{escape(value, 80)}' and '{escape(known[0], 80)}' ({known[1]})"
                    what = f"files {shown} are one where case or normal form do not count"
                    yield Problem("E-PATH", what, "rename one", place)


def aliases(composed: Mapping[str, Composed]) -> Iterator[Problem]:
    owners = {same_name(name): name for name in composed}
    for name, one in composed.items():
        for alias in one.keys.get("aliases", ()):
            owner = owners.setdefault(same_name(alias), name)
            if owner != name:
                what = f"alias '{escape(alias)}' of profile {name} already names profile {owner}"
                yield Problem("E-CONFLICT", what, "remove one of them", place_of(one, "aliases"))


def ports(composed: Mapping[str, Composed], gateway: Tree | None, place: Place) -> Iterator[Problem]:
    """Yield ports that clash: with the gateway, with the engines' range, or of two profiles that always run.

    Without `gateway` it is not known what it says, and nothing is said about it.
    """
    low, high = port_range(gateway.get("engine_ports", "28000-28999")) if gateway is not None else (0, -1)
    front = gateway.get("port", 8080) if gateway is not None and gateway.get("enabled", True) else None
    if front is not None and low <= front <= high:
        yield Problem("E-CONFLICT", f"gateway.port {front} lies inside engine_ports", "choose another", place)
    always: dict[int, str] = {}
    for name, one in composed.items():
        port = one.keys.get("port")
        if port is None:
            continue
        where = place_of(one, "port")
        if port == front:
            fix = "choose another port, or set `enabled = false` in [gateway]"
            yield Problem("E-CONFLICT", f"port {port} of profile {name} is the gateway's", fix, where)
        if low <= port <= high:
            what = f"port {port} of profile {name} lies inside gateway.engine_ports {low}-{high}"
            yield Problem("E-CONFLICT", what, "choose another port", where)
        if one.keys.get("start", "always") == "always":
            other = always.setdefault(port, name)
            if other != name:
                shown = f"{other} ({place_of(composed[other], 'port')})"
                what = f'profiles {shown} and {name} both have start = "always" on port {port}'
                yield Problem("E-CONFLICT", what, 'set start = "manual" in one', where)


class Merged:
    """A table of all layers laid over each other, with the place of each key."""

    def __init__(self, layers: Sequence[Layer], *path: str) -> None:
        self.parts = [Part(layer, path, keys) for layer in layers if (keys := table(layer.tree, *path))]
        self.keys: Tree = {}
        for part in self.parts:
            self.keys.update(part.keys)

    def parts_of(self, key: str) -> list[Part]:
        """Return the parts that declare `key`, weakest first."""
        return [part for part in self.parts if key in part.keys]

    def place(self, *path: str | int) -> Place:
        """Return where the strongest layer declares `path` of this table."""
        for part in reversed(self.parts):
            if not path or path[0] in part.keys:
                return part.layer.place((*part.path, *path))
        return Place("localmodels.toml")


def references(
    layers: Sequence[Layer], composed: Mapping[str, Composed], names: Collection[str], clouds: Collection[str]
) -> Iterator[Problem]:
    """Yield names of profiles and clouds that nothing declares; `names` and `clouds` are all that are declared."""
    known = {*names, *(alias for one in composed.values() for alias in one.keys.get("aliases", ()))}
    gateway, router = Merged(layers, "gateway"), Merged(layers, "router")
    if "default" in gateway.keys and gateway.keys["default"] not in known:
        yield _unknown("gateway.default", gateway.keys["default"], gateway.place("default"))
    if "cloud" in router.keys and router.keys["cloud"] not in clouds:
        yield _unknown("router.cloud", router.keys["cloud"], router.place("cloud"), "[cloud] entry")
    for task, name in router.keys.get("tasks", {}).items():
        if name not in known:
            yield _unknown(f"router.tasks.{task}", name, router.place("tasks", task))
    for one in composed.values():
        for name in one.keys.get("fallback", ()):
            if name not in clouds:
                yield _unknown("fallback", name, place_of(one, "fallback"), "[cloud] entry")


def table_names(layers: Sequence[Layer], key: str) -> dict[str, Path]:
    """Return the names below a table, in the order of declaration."""
    return {name: (key, name) for layer in layers for name in table(layer.tree, key)}


def groups(layers: Sequence[Layer], composed: Mapping[str, Composed], names: Collection[str]) -> Iterator[Problem]:
    """Yield members that are not among the declared `names`, and what excludes each other and always runs."""
    for name in table_names(layers, "groups"):
        group = Merged(layers, "groups", name)
        members: list[Any] = group.keys.get("members", [])
        for member in members:
            if member not in names:
                yield _unknown(f"groups.{name}", member, group.place("members"))
        running = [m for m in members if m in composed and composed[m].keys.get("start", "always") == "always"]
        if group.keys.get("exclusive", True) and len(set(running)) > 1:
            what = f'groups.{name}: profiles {", ".join(running)} exclude each other and all have start = "always"'
            yield Problem("E-CONFLICT", what, 'set start = "manual" in all but one', group.place("members"))


def _unknown(key: str, name: str, place: Place | None, what: str = "profile") -> Problem:
    return Problem("E-REF", f"{escape(key)}: there is no {what} '{escape(name, 70)}'", "correct the name", place)
