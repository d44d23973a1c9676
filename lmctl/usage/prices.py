"""What tokens cost elsewhere, and what they would have cost: estimates, because every model counts its own tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from importlib.resources import files

from lmctl.front import Cloud
from lmctl.record import record
from lmctl.usage.rows import CLOUD, LOCAL
from lmctl.usage.sums import Sums, together

USUAL = ("gpt-5", "gpt-5-mini", "claude-haiku-4.5")  # compared with where nothing else is declared
DECLARED = "declared"  # the source of a price that the configuration says


@record
class Price:
    """USD per million tokens; None: not known. `date` is when `source` said so, empty for a declared one."""

    name: str
    read: float | None
    write: float | None
    source: str = DECLARED
    date: str = ""

    def cost(self, sums: Sums) -> float | None:
        """Return what the tokens cost in USD, None where a price or the count of tokens is not known."""
        if sums.tokens_in is None and sums.tokens_out is None:
            return None if sums.requests is None or sums.uncounted else 0.0
        parts = ((sums.tokens_in or 0, self.read), (sums.tokens_out or 0, self.write))
        if any(tokens and price is None for tokens, price in parts):
            return None
        return sum(tokens * (price or 0.0) for tokens, price in parts) / 1e6


@record
class Routing:
    """What ran where. `everything` is what all of it would have cost at each price; `mix` what it did cost."""

    targets: Mapping[str, tuple[Sums, float | None]]  # local first, then cloud:NAME
    mix: float | None
    everything: tuple[tuple[Price, float | None], ...]


def known() -> Mapping[str, Price]:
    """Return the reference prices by name."""
    import tomllib  # nobody who only counts asks

    tree = tomllib.loads(files("lmctl.usage").joinpath("prices.toml").read_text("utf-8"))
    return {name: Price(name, one["in"], one["out"], one["source"], one["date"]) for name, one in tree.items()}


def declared(clouds: Iterable[Cloud]) -> dict[str, Price]:
    """Return what declared clouds cost, as far as it is declared."""
    told = (cloud for cloud in clouds if cloud.price_in is not None or cloud.price_out is not None)
    return {cloud.name: Price(cloud.name, cloud.price_in, cloud.price_out) for cloud in told}


def compared(names: Iterable[str], clouds: Iterable[Cloud]) -> tuple[tuple[Price, ...], tuple[str, ...]]:
    """Return the prices to compare with, and those of `names` that no price is known for.

    A declared price counts before a reference of the same name; with no `names` the declared ones and USUAL are taken.
    """
    own = declared(clouds)
    every = {**known(), **own}
    wanted = tuple(dict.fromkeys(names)) or tuple(dict.fromkeys((*own, *USUAL)))
    return tuple(every[name] for name in wanted if name in every), tuple(name for name in wanted if name not in every)


def routing(targets: Mapping[str, Sums], clouds: Iterable[Cloud], against: Iterable[Price]) -> Routing:
    """Return what `targets` cost, and what it would have cost had all gone to each of `against`; what ran here: 0."""
    own = declared(clouds)
    costs: dict[str, tuple[Sums, float | None]] = {}
    for target in sorted(targets, key=lambda target: (target != LOCAL, target)):
        price = own.get(target.removeprefix(CLOUD))
        costs[target] = targets[target], 0.0 if target == LOCAL else price.cost(targets[target]) if price else None
    told = [cost for _, cost in costs.values()]
    mix = None if None in told else sum(cost for cost in told if cost is not None)
    total = together(targets.values())
    return Routing(costs, mix, tuple((price, price.cost(total)) for price in against))
