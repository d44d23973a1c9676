"""Whether the profiles that run together fit this machine's memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from lmctl.fit.needs import Need
from lmctl.record import record
from lmctl.spec import Hardware


@record
class Verdict:
    """Bytes; `ram` and `gpu` are what models may use, `need` the total of each profile, `total` that of all together.

    `fits` is None where it cannot be told. Compute buffers are not counted; the reserve is there for them.
    """

    fits: bool | None
    ram: int
    gpu: tuple[int, ...]
    need: Mapping[str, int]
    total: int
    notes: tuple[str, ...] = ()


def verdict(
    needs: Mapping[str, Need], exclusive: Iterable[Collection[str]], hardware: Hardware, reserve: int
) -> Verdict:
    """Return whether `needs`, by profile, fit together in RAM less `reserve` and the memory of the GPUs.

    Of the profiles of one group of `exclusive` the largest counts. One that is in two groups counts in the first,
    so the total may be too large, never too small. On Metal GPUs use the RAM, and are not counted again.
    """
    groups = [frozenset(group) for group in exclusive]
    gpus = () if hardware.accelerator == "metal" else hardware.gpus
    ram = max(hardware.ram - reserve, 0)
    notes = tuple(f"{name}: {need.note}" for name, need in needs.items() if need.note)
    fits = _fits(needs, groups, ram, sum(gpus))
    total = _together(needs, groups, lambda need: need.total)
    return Verdict(fits, ram, gpus, {name: need.total for name, need in needs.items()}, total, notes)


def _fits(needs: Mapping[str, Need], groups: list[frozenset[str]], ram: int, gpu: int) -> bool | None:
    def together(measure: Callable[[Need], int]) -> int:
        return _together(needs, groups, measure)

    if together(lambda need: need.total) > ram + gpu:
        return False
    if gpu:
        # what is declared for GPUs must fit there; the rest, and what the engine decides on, may all stay in RAM
        on_gpu = together(lambda need: need.gpu or 0)
        in_ram = together(lambda need: need.total - need.gpu if need.gpu is not None else 0)
        if on_gpu > gpu or in_ram > ram:
            return False
        if together(lambda need: need.total - (need.gpu or 0)) > ram:
            return None
    return True if all(need.known for need in needs.values()) else None


def _together(needs: Mapping[str, Need], groups: list[frozenset[str]], measure: Callable[[Need], int]) -> int:
    """Return the most that `measure` can add up to, with one member of each group running."""
    alone: dict[str | frozenset[str], int] = {}
    for name, need in needs.items():
        key = next((group for group in groups if name in group), name)
        alone[key] = max(alone.get(key, 0), measure(need))
    return sum(alone.values())
