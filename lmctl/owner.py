"""A machine: what it is, and what its owner says of it. Bytes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lmctl.record import NOTHING, record


@record
class Hardware:
    """This machine, as overlays and the memory verdict see it; None where it is not known."""

    os: str  # linux | darwin
    arch: str  # x86_64 | arm64
    host: str
    ram: int  # bytes that may be used: the smaller of physical memory and the cgroup's limit
    accelerator: str = "none"  # none | metal | cuda | rocm | vulkan
    gpus: tuple[int, ...] = ()  # bytes of memory per device
    cores: int = 1  # performance cores within the cgroup quota


@record
class Machine:
    """machine.toml: what a committed file must never decide."""

    endpoint: str | None = None
    token_file: Path | None = None
    hub_cache: Path | None = None
    binaries: Mapping[str, str] = NOTHING  # by backend
    bind: str = "127.0.0.1"
    allow: Mapping[str, tuple[str, ...]] = NOTHING  # by declaration
    weight_roots: tuple[Path, ...] = ()
    memory_reserve: int = 4 << 30
    memory_gpu: int | None = None
    prune_max_bytes: int = 200 << 30
    connections: int = 4
    files: int = 3
    rate: int | None = None  # bytes per second
    log_max_bytes: int | None = 20 << 20  # None: not known, and what was written stays
