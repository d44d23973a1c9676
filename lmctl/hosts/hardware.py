"""This machine: memory, cores and accelerators, within what its cgroup leaves; read from files, quickly."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from lmctl import launch
from lmctl.errors import LmctlError
from lmctl.paths import make_private, write_atomic
from lmctl.record import record, replace
from lmctl.spec import Hardware

_ARCH = {"aarch64": "arm64", "amd64": "x86_64"}
_MIB = 1 << 20
_ASK_TIMEOUT = 10.0  # seconds that nvidia-smi may take

Sysctl = Callable[[str], int | None]


@record
class System:
    """What the kernel answers without a file: `ram` in bytes, `cpus` the numbers of those this process may run on."""

    name: str  # Linux, Darwin
    machine: str
    host: str
    ram: int
    cpus: frozenset[int]


def this_system() -> System:
    """Ask the kernel."""
    about = os.uname()
    try:
        ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        ram = 0  # a macOS that does not know the name: its sysctl knows the number
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return System(about.sysname, about.machine, about.nodename, ram, frozenset(cpus))


def detect(
    cache: Path,
    root: Path = Path("/"),
    system: System | None = None,
    *,
    ask: Mapping[str, str] | None = None,
) -> Hardware:
    """Return this machine's hardware; every file is read below `root`. Raises E-PLATFORM on Windows and others.

    No file tells the memory of NVIDIA devices: with `ask`, this process's environment, nvidia-smi is run for it, once
    per boot, and its answer kept in `cache`. Without, nothing is run and the answer is what the cache holds.
    """
    if not hasattr(os, "uname"):
        raise _unsupported("Windows")
    system = system or this_system()
    os_name = system.name.lower()
    if os_name not in {"linux", "darwin"}:
        raise _unsupported(system.name)
    arch = system.machine.lower()
    hardware = Hardware(os_name, _ARCH.get(arch, arch), system.host, system.ram, cores=len(system.cpus))
    return _on_darwin(hardware, _number) if os_name == "darwin" else _on_linux(hardware, cache, root, system, ask)


def _unsupported(name: str) -> LmctlError:
    return LmctlError("E-PLATFORM", f"lmctl does not run on {name}", fix="use Linux or macOS; on Windows, WSL2")


def _on_darwin(hardware: Hardware, ask: Sysctl) -> Hardware:
    """Memory is shared with the GPU on Apple's chips, up to the wired limit where the owner set one."""
    cores = ask("hw.perflevel0.physicalcpu") or ask("hw.physicalcpu") or hardware.cores
    ram = ask("hw.memsize") or hardware.ram
    if hardware.arch != "arm64":
        return replace(hardware, ram=ram, cores=cores)
    wired = (ask("iogpu.wired_limit_mb") or 0) * _MIB
    return replace(hardware, ram=ram, cores=cores, accelerator="metal", gpus=(wired or ram,))


def _number(name: str) -> int | None:
    from lmctl.hosts import sysctl  # ctypes: needed on macOS alone

    return sysctl.number(name)


def _on_linux(hardware: Hardware, cache: Path, root: Path, system: System, ask: Mapping[str, str] | None) -> Hardware:
    ram = min([hardware.ram, *_memory_limits(root)])
    cores = min([_cores(root, system.cpus), *(max(1, int(quota)) for quota in _quotas(root))])
    accelerator, gpus = _accelerator(cache, root, ask)
    return replace(hardware, ram=ram, cores=cores, accelerator=accelerator, gpus=gpus)


def _cores(root: Path, allowed: frozenset[int]) -> int:
    """Return the performance cores among the CPUs this process may use: one per pair of hyperthreads."""
    performance = _cpu_list(_text(root / "sys/devices/cpu_core/cpus")) & allowed or allowed
    folder = root / "sys/devices/system/cpu"
    siblings = {_text(folder / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in performance}
    return max(1, len(siblings))


def _cpu_list(text: str) -> frozenset[int]:
    """Return the numbers of a list such as `0-3,8`."""
    spans = [part.partition("-") for part in text.split(",") if part]
    return frozenset(cpu for first, _, last in spans for cpu in range(int(first), int(last or first) + 1))


def _memory_limits(root: Path) -> Iterator[int]:
    """Yield the limits of this process's control group and of those around it, in bytes; `max` is none."""
    for folder in (*_groups(root, ""), *_groups(root, "memory")):
        for name in ("memory.max", "memory.limit_in_bytes"):
            if (limit := _text(folder / name)).isdigit():
                yield int(limit)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the CPUs' worth of time that each control group around this process leaves."""
    for folder in _groups(root, ""):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)
    for folder in _groups(root, "cpu"):
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
        if quota.isdigit() and period.isdigit():
            yield int(quota) / int(period)


def _groups(root: Path, controller: str) -> list[Path]:
    """Return the folders of this process's control group and its ancestors: version 2 for "", else version 1's."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, path = [*line.split(":", 2), "", ""][:3]
        if controller not in names.split(","):
            continue
        top = root / "sys/fs/cgroup" / names
        if not controller and not (top / "cgroup.controllers").exists():
            top = top / "unified"  # version 2 beside version 1
        group = top / path.strip("/")
        return [group, *(parent for parent in group.parents if parent.is_relative_to(top))]
    return []


def _accelerator(cache: Path, root: Path, ask: Mapping[str, str] | None) -> tuple[str, tuple[int, ...]]:
    """Return the accelerator and the bytes of memory per device; (cuda, ()) where the driver does not tell."""
    if (root / "proc/driver/nvidia/gpus").is_dir() or (root / "dev/nvidia0").exists():
        return "cuda", _nvidia_memory(cache, root, ask)
    if (root / "dev/kfd").exists():
        totals = sorted((root / "sys/class/drm").glob("card*/device/mem_info_vram_total"))
        return "rocm", tuple(int(text) for text in map(_text, totals) if text.isdigit() and int(text) > 0)
    return "none", ()


def _nvidia_memory(cache: Path, root: Path, ask: Mapping[str, str] | None) -> tuple[int, ...]:
    devices = sorted(path.name for path in (root / "dev").glob("nvidia[0-9]*"))
    key = [_text(root / "proc/sys/kernel/random/boot_id"), *devices]
    file = cache / "gpus.json"
    program = _nvidia_smi(ask.get("PATH", "")) if ask is not None else None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a cache that cannot be read is no cache
        note = json.loads(file.read_bytes())
        gpus = tuple(int(size) for size in note["gpus"])
        if note["key"] == key and (gpus or program is None or note["asked"] == program):
            return gpus  # none, when the same program did not tell before
    if ask is None or program is None:
        return ()
    gpus = _ask_nvidia(program, ask)
    with contextlib.suppress(LmctlError, OSError):
        note = {"key": key, "gpus": gpus, "asked": program}
        write_atomic(make_private(cache) / file.name, json.dumps(note).encode())
    return gpus


def _nvidia_smi(path: str) -> str | None:
    """Return the program as PATH has it; folders relative to wherever lmctl is called would let anybody choose it."""
    places = (f"{folder}/nvidia-smi" for folder in path.split(os.pathsep) if folder.startswith("/"))
    return next((place for place in places if os.access(place, os.X_OK) and Path(place).is_file()), None)


def _ask_nvidia(program: str, environ: Mapping[str, str]) -> tuple[int, ...]:
    """Return the memory of each NVIDIA device in bytes, as nvidia-smi tells; empty when it does not."""
    import subprocess  # asked once per boot

    try:
        done = subprocess.run(
            [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"],
            cwd="/",
            env=launch.inherited(environ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_ASK_TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(int(line) * _MIB for line in done.stdout.split() if line.isdigit()) if done.returncode == 0 else ()


def _text(path: Path) -> str:
    """Return a small file of the kernel's, stripped; empty when there is none."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
