"""Which blocks hold together on some machine, and only those."""

from __future__ import annotations

import fnmatch
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmctl.config.globs import matches, together
from lmctl.config.machines import anywhere, here
from lmctl.spec import Hardware

GIB = 1 << 30


@given(st.text(st.sampled_from("ab-?*[]!"), max_size=6), st.text(st.sampled_from("abc-"), max_size=6))
def test_globs_match_as_fnmatch_does(glob, name):
    assert matches(glob, name) == fnmatch.fnmatchcase(name, glob)


@given(st.lists(st.text(st.sampled_from("ab?*"), min_size=1, max_size=4), min_size=1, max_size=3, unique=True))
def test_globs_together_are_those_that_one_name_matches(globs):
    names = ("".join(letters) for length in range(1, 6) for letters in product("abc", repeat=length))
    seen = {frozenset(glob for glob in globs if fnmatch.fnmatchcase(name, glob)) for name in names}
    assert seen <= together(tuple(globs))
    if all(len(glob) < 3 for glob in globs):  # then names of five letters show every combination
        assert seen == together(tuple(globs))


def test_many_overlapping_globs_end():
    globs = tuple(f"*{a}*{b}*" for a in "abcdefgh" for b in "ijklmnop" if a != b)
    assert together(globs) >= {frozenset()}


def test_many_names_are_told_apart():
    names = tuple(f"host-{number:03}" for number in range(500))
    assert together((*names, "host-00?")) == {
        frozenset(),
        frozenset(["host-00?"]),
        *(frozenset([name, "host-00?"] if name.startswith("host-00") else [name]) for name in names),
    }


ANYWHERE = {
    "no-blocks": ([], {0}),
    "one": ([{"os": "darwin"}], {0, 1}),
    "always": ([{}], {1}),
    "exclusive": ([{"os": "darwin"}, {"os": "linux"}], {0b01, 0b10}),
    "metal-is-apples": ([{"os": "linux", "accelerator": "metal"}], {0}),
    "cuda-is-not": ([{"os": "darwin", "accelerator": "cuda"}], {0}),
    "memory-steps": ([{"memory": ">= 8 GiB"}, {"memory": ">= 32 GiB"}], {0b00, 0b01, 0b11}),
    "memory-that-is-never": ([{"memory": "< 0"}], {0}),
    "memory-between": ([{"memory": "> 8 GiB"}, {"memory": "< 8 GiB"}], {0b00, 0b01, 0b10}),
    "no-gpu-no-memory": ([{"accelerator": "none", "gpu_memory": ">= 1 GiB"}], {0}),
    "gpu-memory": ([{"accelerator": "cuda"}, {"gpu_memory": ">= 1 GiB"}], {0b00, 0b01, 0b10, 0b11}),
    "hosts": ([{"host": "a"}, {"host": "b"}], {0b00, 0b01, 0b10}),
    "hosts-that-overlap": ([{"host": "gpu-*"}, {"host": "*-01"}], {0b00, 0b01, 0b10, 0b11}),
    "host-within-another": ([{"host": "gpu-01"}, {"host": "gpu-*"}], {0b00, 0b10, 0b11}),
    "any-host": ([{"host": "*"}], {1}),
}


@pytest.mark.parametrize(("blocks", "expected"), ANYWHERE.values(), ids=ANYWHERE)
def test_blocks_that_hold_together_somewhere(blocks, expected):
    assert set(anywhere(blocks)) == expected


BLOCK = st.fixed_dictionaries(
    {},
    optional={
        "os": st.sampled_from(["linux", "darwin"]),
        "arch": st.sampled_from(["x86_64", "arm64"]),
        "accelerator": st.sampled_from(["none", "metal", "cuda"]),
        "memory": st.sampled_from([">= 8 GiB", "< 16 GiB", "== 8 GiB"]),
        "gpu_memory": st.sampled_from([">= 8 GiB", "> 0"]),
        "host": st.sampled_from(["a*", ["a", "b"], "*b"]),
    },
)


@given(st.lists(BLOCK, max_size=4))
def test_no_machine_is_forgotten(blocks):
    """Every machine of a grid sees a set of blocks that was counted, and every counted set is seen by one."""
    seen = set()
    platforms = [("linux", "none"), ("linux", "cuda"), ("darwin", "metal"), ("darwin", "none"), ("linux", "rocm")]
    for (os, kind), arch, ram, gpu in product(platforms, ("x86_64", "arm64"), (1, 8, 9, 16), (1, 8)):
        for host in ("a", "b", "ab", "ac", "c"):
            gpus = () if kind == "none" else (gpu * GIB,)
            seen.add(here(blocks, Hardware(os, arch, host, ram * GIB, kind, gpus)))
    found = set(anywhere(blocks))
    assert seen <= found
    zero = {
        here(blocks, Hardware("linux", a, h, r * GIB, "cuda"))
        for a in ("x86_64", "arm64")
        for h in ("a", "c")
        for r in (1, 8)
    }
    assert zero <= found
    if not any("gpu_memory" in block for block in blocks):
        assert found == seen
