"""Which running models make way for one that is asked for. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from lmctl.gateway.demand import Fits


def victims(asked: str, staying: frozenset[str], evictable: Sequence[str], fits: Fits) -> tuple[str, ...] | None:
    """Return which of `evictable` have to go so that `asked` fits beside the rest of `staying`.

    `evictable` is in the order in which they go. None: it does not fit even when all of them are gone. Nobody goes who
    need not: what went early is kept after all where a later, larger one makes room enough. Where it is not known what
    fits, it does.
    """

    def enough(gone: Sequence[str]) -> bool:
        return fits(staying.difference(gone) | {asked}) is not False

    gone: list[str] = []
    for name in evictable:
        if enough(gone):
            break
        gone.append(name)
    if not enough(gone):
        return None
    for name in gone[::-1]:
        rest = [one for one in gone if one != name]
        if enough(rest):
            gone = rest
    return tuple(gone)
