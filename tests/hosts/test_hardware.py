"""This machine's facts, read from trees of files that look like other machines."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from lmctl.errors import LmctlError
from lmctl.hosts import sysctl
from lmctl.hosts.hardware import System, detect
from lmctl.record import replace
from lmctl.spec import Hardware

GIB = 1 << 30
BOX = System("Linux", "x86_64", "box", 64 * GIB, frozenset(range(8)))
Tree = Callable[[Mapping[str, str]], Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    def make(files: Mapping[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path / "root"

    return make


def cpus(siblings: Mapping[int, str]) -> dict[str, str]:
    return {f"sys/devices/system/cpu/cpu{n}/topology/thread_siblings_list": f"{t}\n" for n, t in siblings.items()}


def v2(path: str, **files: str) -> dict[str, str]:
    named = {name.replace("__", "/").replace("_", "."): text for name, text in files.items()}
    top = {"proc/self/cgroup": f"0::{path}\n", "sys/fs/cgroup/cgroup.controllers": "cpu memory"}
    return top | {f"sys/fs/cgroup/{name}": text for name, text in named.items()}


def test_a_bare_tree(tree: Tree, tmp_path: Path) -> None:
    assert detect(tmp_path, tree({}), BOX) == Hardware("linux", "x86_64", "box", 64 * GIB, "none", (), 8)


@pytest.mark.parametrize(
    ("machine", "arch"), [("aarch64", "arm64"), ("arm64", "arm64"), ("AMD64", "x86_64"), ("riscv64", "riscv64")]
)
def test_architectures(machine: str, arch: str, tree: Tree, tmp_path: Path) -> None:
    assert detect(tmp_path, tree({}), replace(BOX, machine=machine)).arch == arch


@pytest.mark.parametrize("name", ["Windows", "FreeBSD"])
def test_I61_other_systems(name: str, tmp_path: Path) -> None:
    with pytest.raises(LmctlError) as refused:
        detect(tmp_path, tmp_path, replace(BOX, name=name))
    assert refused.value.code == "E-PLATFORM"
    assert "WSL2" in str(refused.value)


def test_I61_a_python_without_uname(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "uname")
    with pytest.raises(LmctlError) as refused:
        detect(tmp_path, tmp_path)
    assert refused.value.code == "E-PLATFORM"


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(v2("/", memory_max="max"), 64 * GIB, id="no-limit"),
        pytest.param(v2("/", memory_max=str(8 * GIB)), 8 * GIB, id="container"),
        pytest.param(v2("/a/b", a__b__memory_max=str(4 * GIB)), 4 * GIB, id="own-group"),
        pytest.param(v2("/a/b", a__memory_max=str(2 * GIB), a__b__memory_max="max"), 2 * GIB, id="group-above"),
        pytest.param(v2("/", memory_max=str(128 * GIB)), 64 * GIB, id="more-than-there-is"),
        pytest.param(v2("/gone/from/here", memory_max=str(8 * GIB)), 8 * GIB, id="path-of-another-namespace"),
        pytest.param(v2("/", memory_max="nonsense"), 64 * GIB, id="nonsense"),
        pytest.param({"proc/self/cgroup": "garbage\n::\n"}, 64 * GIB, id="garbage"),
        pytest.param(
            {
                "proc/self/cgroup": "4:memory:/job\n0::/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/memory/job/memory.limit_in_bytes": str(3 * GIB),
            },
            3 * GIB,
            id="version-1",
        ),
        pytest.param(
            {
                "proc/self/cgroup": "4:cpu,memory:/job\n0::/job\n",
                "sys/fs/cgroup/cpu,memory/job/memory.limit_in_bytes": str(6 * GIB),
                "sys/fs/cgroup/unified/job/memory.max": str(5 * GIB),
            },
            5 * GIB,
            id="both-versions",
        ),
    ],
)
def test_memory_is_what_the_groups_leave(files: Mapping[str, str], expected: int, tree: Tree, tmp_path: Path) -> None:
    assert detect(tmp_path, tree(files), BOX).ram == expected


PAIRS = cpus({n: f"{n % 4},{n % 4 + 4}" for n in range(8)})


@pytest.mark.parametrize(
    ("files", "allowed", "expected"),
    [
        pytest.param({}, range(8), 8, id="no-topology"),
        pytest.param(PAIRS, range(8), 4, id="hyperthreads-are-one-core"),
        pytest.param(PAIRS, [0, 4], 1, id="one-pair-allowed"),
        pytest.param(PAIRS, [0, 1, 6], 3, id="three-cores-allowed"),
        pytest.param(PAIRS | {"sys/devices/cpu_core/cpus": "0-1,4-5\n"}, range(8), 2, id="performance-cores"),
        pytest.param(PAIRS | {"sys/devices/cpu_core/cpus": "0"}, [2, 3], 2, id="none-of-them-allowed"),
        pytest.param(PAIRS | v2("/", cpu_max="max 100000"), range(8), 4, id="no-quota"),
        pytest.param(PAIRS | v2("/", cpu_max="250000 100000"), range(8), 2, id="quota-of-two-and-a-half"),
        pytest.param(PAIRS | v2("/", cpu_max="50000 100000"), range(8), 1, id="quota-of-a-half"),
        pytest.param(PAIRS | v2("/a/b", a__cpu_max="100000 100000"), range(8), 1, id="quota-above"),
        pytest.param(
            PAIRS
            | {
                "proc/self/cgroup": "2:cpu,cpuacct:/job\n",
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            range(8),
            2,
            id="quota-of-version-1",
        ),
    ],
)
def test_cores(files: Mapping[str, str], allowed: list[int], expected: int, tree: Tree, tmp_path: Path) -> None:
    assert detect(tmp_path, tree(files), replace(BOX, cpus=frozenset(allowed))).cores == expected


# ---- accelerators ----

NVIDIA = {
    "proc/driver/nvidia/gpus/0000:01:00.0/information": "",
    "dev/nvidia0": "",
    "dev/nvidia1": "",
    "dev/nvidiactl": "",
}
NVIDIA |= {"proc/sys/kernel/random/boot_id": "one\n"}


def smi(folder: Path, text: str) -> tuple[Path, dict[str, str]]:
    """An nvidia-smi that counts its runs, and the environment to find it."""
    program = folder / "nvidia-smi"
    program.write_text(f'#!/bin/sh\necho "$@" >>"{folder}/runs"\nenv >"{folder}/env"\n{text}\n')
    program.chmod(0o755)
    return folder / "runs", {"PATH": f"{folder}:/usr/bin:/bin", "HF_TOKEN": "hf_canary", "HOME": "/h"}


def test_nvidia_is_asked_once_per_boot(tree: Tree, tmp_path: Path) -> None:
    runs, ask = smi(tmp_path, "echo 24564; echo 81559")
    cache = tmp_path / "cache"
    first = detect(cache, tree(NVIDIA), BOX, ask=ask)
    assert (first.accelerator, first.gpus) == ("cuda", (24564 << 20, 81559 << 20))
    assert detect(cache, tree(NVIDIA), BOX, ask=ask) == first
    assert runs.read_text() == "--query-gpu=memory.total --format=csv,noheader,nounits\n"
    (cache / "gpus.json").write_text('{"key": 1}')
    assert detect(cache, tree(NVIDIA), BOX, ask=ask) == first
    detect(cache, tree(NVIDIA | {"proc/sys/kernel/random/boot_id": "two"}), BOX, ask=ask)
    detect(cache, tree(NVIDIA | {"dev/nvidia2": ""}), BOX, ask=ask)
    assert len(runs.read_text().splitlines()) == 4
    assert "hf_canary" not in (tmp_path / "env").read_text()


def test_nothing_is_run_for_a_look(tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, ask = smi(tmp_path, "echo 24564")
    monkeypatch.setenv("PATH", ask["PATH"])
    cache = tmp_path / "cache"
    unknown = detect(cache, tree(NVIDIA), BOX)
    assert (unknown.accelerator, unknown.gpus, runs.exists(), cache.exists()) == ("cuda", (), False, False)
    asked = detect(cache, tree(NVIDIA), BOX, ask=ask)
    assert detect(cache, tree(NVIDIA), BOX) == asked
    assert len(runs.read_text().splitlines()) == 1


@pytest.mark.parametrize("path", [".", "", "bin", ".:bin:"], ids=["dot", "empty", "relative", "several"])
def test_a_program_of_the_folder_is_never_run(
    path: str, tree: Tree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bin").mkdir()
    inner, _ = smi(tmp_path / "bin", "echo 1")
    runs, ask = smi(tmp_path, "echo 1")
    monkeypatch.chdir(tmp_path)
    assert detect(tmp_path / "cache", tree(NVIDIA), BOX, ask=ask | {"PATH": path}).gpus == ()
    assert (runs.exists(), inner.exists()) == (False, False)


@pytest.mark.parametrize(
    "text",
    ["exit 9", "echo 'No devices were found'", "echo '[N/A]'", "kill -9 $$"],
    ids=["fails", "none", "N/A", "killed"],
)
def test_nvidia_that_does_not_tell_is_asked_once(text: str, tree: Tree, tmp_path: Path) -> None:
    runs, ask = smi(tmp_path, text)
    for _ in range(2):
        found = detect(tmp_path / "cache", tree(NVIDIA), BOX, ask=ask)
        assert (found.accelerator, found.gpus) == ("cuda", ())
    assert len(runs.read_text().splitlines()) == 1
    (tmp_path / "new").mkdir()
    _, ask = smi(tmp_path / "new", "echo 24564")  # another driver was installed
    assert detect(tmp_path / "cache", tree(NVIDIA), BOX, ask=ask).gpus == (24564 << 20,)


def test_nvidia_without_its_tool(tree: Tree, tmp_path: Path) -> None:
    found = detect(tmp_path, tree({"dev/nvidia0": ""}), BOX, ask={"PATH": str(tmp_path)})
    assert (found.accelerator, found.gpus) == ("cuda", ())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param({"dev/kfd": ""}, ("rocm", ()), id="no-memory-told"),
        pytest.param(
            {
                "dev/kfd": "",
                "sys/class/drm/card0/device/mem_info_vram_total": f"{16 * GIB}\n",
                "sys/class/drm/card1/device/mem_info_vram_total": "0\n",
                "sys/class/drm/card1-DP-1/status": "connected",
            },
            ("rocm", (16 * GIB,)),
            id="one-card",
        ),
        pytest.param({"sys/class/drm/card0/device/mem_info_vram_total": "1"}, ("none", ()), id="a-card-without-rocm"),
    ],
)
def test_amd(files: Mapping[str, str], expected: tuple[str, tuple[int, ...]], tree: Tree, tmp_path: Path) -> None:
    found = detect(tmp_path, tree(files), BOX)
    assert (found.accelerator, found.gpus) == expected


APPLE = {"hw.memsize": 48 * GIB, "hw.perflevel0.physicalcpu": 10, "hw.physicalcpu": 14}


@pytest.mark.parametrize(
    ("machine", "answers", "expected"),
    [
        pytest.param("arm64", APPLE, ("metal", (48 * GIB,), 10), id="unified-memory"),
        pytest.param("arm64", APPLE | {"iogpu.wired_limit_mb": 40960}, ("metal", (40 * GIB,), 10), id="wired-limit"),
        pytest.param("arm64", APPLE | {"iogpu.wired_limit_mb": 0}, ("metal", (48 * GIB,), 10), id="no-wired-limit"),
        pytest.param("x86_64", {"hw.memsize": 48 * GIB, "hw.physicalcpu": 6}, ("none", (), 6), id="intel"),
    ],
)
def test_apple(
    machine: str,
    answers: Mapping[str, int],
    expected: tuple[str, tuple[int, ...], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sysctl, "number", answers.get)
    found = detect(tmp_path, tmp_path, System("Darwin", machine, "mac", 48 * GIB, frozenset(range(14))))
    assert (found.os, found.accelerator, found.gpus, found.cores) == ("darwin", *expected)
    assert found.ram == 48 * GIB


# ---- the real one ----


def test_this_machine(tmp_path: Path) -> None:
    found = detect(tmp_path)
    assert found.os == sys.platform
    assert 0 < found.ram <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 1 <= found.cores <= (os.cpu_count() or 1)
