"""One profile out of its layers: what each layer says, and what of it still holds after the stronger ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmctl.all_backends import BACKENDS
from lmctl.backend import COMMON_KEYS
from lmctl.config.layers import Layer, Tree
from lmctl.config.machines import CONDITIONS, Block
from lmctl.config.models import OwnKeys
from lmctl.config.positions import Path
from lmctl.record import record

KEYS = frozenset(OwnKeys.model_fields)
_WEIGHTS = ("model", "path", "source", "quant", "file", "revision", "convert")
_OF_ENGINE = ("lora", "draft", "mmproj", "extra_args", "env", "devices", "command", "health", "chat_template")
_MANY = frozenset(["sampling", "draft", "env", "convert"])
# backends whose issue has not landed: what reference.md's columns give them
LATER = {
    "vllm": COMMON_KEYS
    | {"ctx", "parallel", "batch", "lora", "chat_template", "embeddings", "rerank", "pooling", "sampling", "extra_args"}
    | {"dtype", "quantization", "tensor_parallel", "pipeline_parallel", "gpu_memory_utilization"},
    "ollama": KEYS,
    "llama-cpp-python": KEYS,
    "lmstudio": KEYS,
}


@record
class Part:
    """The keys that one layer, or one block of it, gives a profile; `path` is where they stand in that layer's tree."""

    layer: Layer
    path: Path
    keys: Tree
    block: Block | None = None  # of a `when` block: all of it, its conditions too


@dataclass(slots=True)
class Composed:
    """A profile's keys with the part that each came from; `refused` are keys that their backend does not have."""

    backend: str = "llama.cpp"
    keys: Tree = field(default_factory=dict)
    origin: dict[str, Part] = field(default_factory=dict)
    refused: list[tuple[Part, str, str]] = field(default_factory=list)  # part, key, backend
    parts: list[Part] = field(default_factory=list)  # those that hold, weakest first


@record
class Sources:
    """All that is said about one profile: below its overlays, the overlays, above them."""

    name: str
    defaults: tuple[Part, ...]
    below: tuple[Part, ...]
    blocks: tuple[Part, ...]
    above: tuple[Part, ...]

    @property
    def has_local(self) -> bool:
        """True when something else than the committed files speaks of the profile."""
        return any(not part.layer.committed for part in (*self.defaults, *self.blocks, *self.above))

    @property
    def conditions(self) -> list[Block]:
        return [part.block for part in self.blocks if part.block is not None]


def table(tree: Tree, *path: str) -> Tree:
    """Return the table at `path`, empty where there is none."""
    here: Any = tree
    for key in path:
        here = here.get(key) if isinstance(here, dict) else None
    return here if isinstance(here, dict) else {}


def gather(layers: Sequence[Layer]) -> dict[str, Sources]:
    """Return what every declared profile is made of, in the order of declaration."""
    defaults = tuple(Part(layer, ("defaults",), keys) for layer in layers if (keys := table(layer.tree, "defaults")))
    parts: dict[str, list[Part]] = {}
    for layer in layers:
        for name, keys in table(layer.tree, "profiles").items():
            parts.setdefault(name, []).append(Part(layer, ("profiles", name), keys))
    return {name: _sources(name, defaults, found) for name, found in parts.items()}


def _sources(name: str, defaults: tuple[Part, ...], parts: list[Part]) -> Sources:
    blocks: tuple[Part, ...] = ()
    for part in parts:
        if "when" in part.keys:  # arrays replace: the strongest layer that has blocks has them all
            blocks = tuple(_overlays(part))
    below = tuple(part for part in parts if part.layer.committed)
    above = tuple(part for part in parts if not part.layer.committed)
    return Sources(name, defaults, below, blocks, above)


def _overlays(part: Part) -> Iterator[Part]:
    for index, block in enumerate(part.keys["when"]):
        keys = {key: value for key, value in block.items() if key not in CONDITIONS}
        yield Part(part.layer, (*part.path, "when", index), keys, block)


def compose(sources: Sources, mask: int) -> Composed:
    """Return the profile where the blocks of `mask` hold."""
    result = Composed()
    for part in sources.defaults:
        for key, value in part.keys.items():
            _put(result, part, key, value)
    result.backend = result.keys.get("backend", result.backend)
    _skip_unknown(result)
    for part in sources.below:
        _layer(result, part)
    for index, part in enumerate(sources.blocks):
        if mask >> index & 1:
            _layer(result, part)
    for part in sources.above:
        _layer(result, part)
    return result


def known_keys(backend: str) -> frozenset[str]:
    """Return the keys that a profile of this backend may declare."""
    return BACKENDS[backend].KEYS if backend in BACKENDS else frozenset(LATER[backend])


def _layer(result: Composed, part: Part) -> None:
    result.parts.append(part)
    backend = part.keys.get("backend", result.backend)
    if backend != result.backend:
        result.backend = backend
        _drop(result, _OF_ENGINE)
        _skip_unknown(result)
    if any(key in part.keys for key in ("model", "path", "source")):
        _drop(result, _WEIGHTS)
    _drop(result, [{"quant": "file", "file": "quant"}.get(key, "") for key in part.keys])
    known = known_keys(backend)
    for key, value in part.keys.items():
        if key == "sampling" and backend in BACKENDS:
            odd = (name for name in value if name not in BACKENDS[backend].SAMPLING)
            result.refused += [(part, f"sampling.{name}", backend) for name in odd if key in known]
        if key in known:
            _put(result, part, key, value)
        elif key != "when":
            result.refused.append((part, key, backend))


def _drop(result: Composed, keys: Sequence[str]) -> None:
    for key in keys:
        if result.keys.pop(key, None) is not None:
            del result.origin[key]


def _skip_unknown(result: Composed) -> None:
    """Forget keys that the backend lacks: they come from [defaults], or were meant for the backend before."""
    _drop(result, [key for key in result.keys if key not in known_keys(result.backend)])


def _put(result: Composed, part: Part, key: str, value: Any) -> None:
    before = result.keys.get(key)
    result.keys[key] = {**before, **value} if key in _MANY and isinstance(before, dict) else value
    result.origin[key] = part
