"""Verdicts on profiles that run together."""

from __future__ import annotations

import pytest

from lmctl.fit import Need, verdict
from lmctl.spec import Hardware

GiB = 1 << 30


def machine(ram: int, gpus: tuple[int, ...] = (), accelerator: str = "cuda") -> Hardware:
    return Hardware(os="linux", arch="x86_64", host="h", ram=ram, accelerator=accelerator, gpus=gpus)


def test_profiles_that_run_together_are_added_up_against_ram_less_the_reserve() -> None:
    needs = {"a": Need(4 * GiB, kv=GiB), "b": Need(6 * GiB)}
    found = verdict(needs, [], machine(16 * GiB), 5 * GiB)
    assert (found.fits, found.ram, found.total) == (True, 11 * GiB, 11 * GiB)
    assert found.need == {"a": 5 * GiB, "b": 6 * GiB}
    assert verdict(needs, [], machine(16 * GiB - 1), 5 * GiB).fits is False
    assert verdict({}, [], machine(GiB), 4 * GiB).fits is True


def test_of_an_exclusive_group_the_largest_counts() -> None:
    needs = {"a": Need(4), "b": Need(6), "c": Need(1)}
    assert verdict(needs, [{"a", "b", "stopped"}], machine(7), 0).fits is True
    assert verdict(needs, [{"a", "b"}], machine(6), 0).fits is False
    assert verdict(needs, [{"a", "b"}, {"b", "c"}], machine(99), 0).total == 7  # b and c cannot, yet c may run with a


def test_an_unknown_need_is_no_promise_but_may_be_a_refusal() -> None:
    needs = {"a": Need(4), "b": Need(5, known=False, note="no memory formula")}
    found = verdict(needs, [], machine(9), 0)
    assert found.fits is None and found.notes == ("b: no memory formula",)
    assert verdict(needs, [], machine(8), 0).fits is False


@pytest.mark.parametrize(
    ("need", "ram", "gpus", "fits"),
    [
        pytest.param(Need(10, gpu=8), 4, (4, 4), True, id="declared-fits"),
        pytest.param(Need(10, gpu=9), 9, (4, 4), False, id="declared-too-much-for-gpu"),
        pytest.param(Need(10, gpu=2), 7, (9,), False, id="declared-rest-too-much-for-ram"),
        pytest.param(Need(10), 10, (4,), True, id="engine-decides-ram-alone-is-enough"),
        pytest.param(Need(10), 8, (4,), None, id="engine-decides-both-are-needed"),
        pytest.param(Need(10), 5, (4,), False, id="engine-decides-too-much-for-both"),
        pytest.param(Need(10, gpu=10), 9, (), False, id="no-gpu-here"),
        pytest.param(Need(10, gpu=10), 10, (), True, id="no-gpu-here-ram-is-enough"),
    ],
)
def test_memory_of_gpus_counts_for_what_is_offloaded(
    need: Need, ram: int, gpus: tuple[int, ...], fits: bool | None
) -> None:
    assert verdict({"a": need}, [], machine(ram, gpus), 0).fits is fits


def test_on_metal_the_gpu_has_no_memory_of_its_own() -> None:
    found = verdict({"a": Need(10, gpu=10)}, [], machine(9, (9,), "metal"), 0)
    assert found.fits is False and found.gpu == ()
