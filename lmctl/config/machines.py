"""Which `when` blocks hold: on this machine, and together on any machine that could exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from lmctl.config.globs import matches, together
from lmctl.config.values import comparison
from lmctl.spec import Hardware

Block = dict[str, Any]
Platform = tuple[str, str, str]  # os, arch, accelerator
CONDITIONS = ("os", "arch", "accelerator", "host", "memory", "gpu_memory")
_ARCHES = ("x86_64", "arm64")
_PLATFORMS = (
    *(("darwin", arch, kind) for arch in _ARCHES for kind in ("metal", "none")),
    *(("linux", arch, kind) for arch in _ARCHES for kind in ("none", "cuda", "rocm", "vulkan")),
)
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    ">=": int.__ge__,
    "<=": int.__le__,
    "==": int.__eq__,
    ">": int.__gt__,
    "<": int.__lt__,
}


def here(blocks: Sequence[Block], hardware: Hardware) -> int:
    """Return the blocks that hold on this machine, as bits."""
    platform = (hardware.os, hardware.arch, hardware.accelerator)
    mask = _platform(blocks, platform) & _host(blocks, hardware.host)
    return mask & _memory(blocks, "memory", hardware.ram) & _memory(blocks, "gpu_memory", sum(hardware.gpus))


def anywhere(blocks: Sequence[Block]) -> Mapping[int, tuple[Platform, ...]]:
    """Return every set of blocks that some machine satisfies together, as bits, and the platforms of such machines."""
    if not blocks:
        return {0: _PLATFORMS}
    memory = {_memory(blocks, "memory", size) for size in _sizes(blocks, "memory")}
    rest = {a & b for a in memory for b in _hosts(blocks)}
    found: dict[int, dict[Platform, None]] = {}
    for mask, platforms in _devices(blocks).items():
        for other in rest:
            found.setdefault(mask & other, {}).update(platforms)
    return {mask: tuple(platforms) for mask, platforms in found.items()}


def _devices(blocks: Sequence[Block]) -> Mapping[int, dict[Platform, None]]:
    """Return which blocks hold as far as platforms and their GPUs decide, each set with its platforms."""
    if not _asked(blocks, "os", "arch", "accelerator", "gpu_memory"):
        return {(1 << len(blocks)) - 1: dict.fromkeys(_PLATFORMS)}
    found: dict[int, dict[Platform, None]] = {}
    gpu_sizes = _sizes(blocks, "gpu_memory")
    for platform in _PLATFORMS:
        for size in (0,) if platform[2] == "none" else gpu_sizes:
            mask = _platform(blocks, platform) & _memory(blocks, "gpu_memory", size)
            found.setdefault(mask, {})[platform] = None
    return found


def _asked(blocks: Sequence[Block], *keys: str) -> bool:
    return any(key in block for block in blocks for key in keys)


def _bits(holds: Iterable[bool]) -> int:
    return sum(1 << index for index, held in enumerate(holds) if held)


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def _platform(blocks: Sequence[Block], platform: Platform) -> int:
    wanted = tuple(zip(("os", "arch", "accelerator"), platform, strict=True))
    return _bits(all(key not in block or value in _listed(block[key]) for key, value in wanted) for block in blocks)


def _host(blocks: Sequence[Block], host: str) -> int:
    return _bits("host" not in b or any(matches(glob, host) for glob in _listed(b["host"])) for b in blocks)


def _memory(blocks: Sequence[Block], key: str, size: int) -> int:
    return _bits(key not in block or _holds(block[key], size) for block in blocks)


@cache
def _parsed(text: str) -> tuple[str, int]:
    return comparison(text)


def _holds(text: str, size: int) -> bool:
    operator, bound = _parsed(text)
    return _COMPARE[operator](size, bound)


def _sizes(blocks: Sequence[Block], key: str) -> list[int]:
    """Return sizes that lie on, just below and just above every bound."""
    bounds = {_parsed(block[key])[1] for block in blocks if key in block}
    return sorted({max(0, bound + step) for bound in bounds for step in (-1, 0, 1)}) or [1]


def _hosts(blocks: Sequence[Block]) -> set[int]:
    """Return for every possible host name which blocks it satisfies."""
    globs = sorted({glob for block in blocks if "host" in block for glob in _listed(block["host"])})
    masks = set()
    for matched in together(tuple(globs)):
        masks.add(_bits("host" not in b or any(glob in matched for glob in _listed(b["host"])) for b in blocks))
    return masks
