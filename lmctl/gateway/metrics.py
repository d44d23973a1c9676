"""What the gateway counts of each profile since it runs, in the words of Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from lmctl.gateway.accounting import Counts
from lmctl.gateway.demand import Standing
from lmctl.gateway.keeper import Counts as Events

KIND = b"text/plain; version=0.0.4; charset=utf-8"
# Seconds: from an answer out of a cache to one that a large model writes for minutes.
_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class Histogram:
    """Seconds by upper bounds, as Prometheus wants them: how many up to each, and their sum."""

    def __init__(self) -> None:
        self._counts, self._sum = [0] * (len(_BOUNDS) + 1), 0.0

    def add(self, seconds: float) -> None:
        """Count one."""
        self._counts[bisect_left(_BOUNDS, seconds)] += 1
        self._sum += seconds

    def told(self) -> tuple[list[tuple[str, float]], float]:
        """Return the cumulated buckets and the sum."""
        total, buckets = 0, []
        for bound, count in zip((*map(str, _BOUNDS), "+Inf"), self._counts, strict=True):
            total += count
            buckets.append((bound, float(total)))
        return buckets, self._sum


class Tally:
    """What is counted of one profile or cloud. Whoever serves a request adds to it; nothing is locked: one thread."""

    def __init__(self) -> None:
        self.requests: dict[tuple[str, int], int] = {}  # (endpoint, status) -> how many
        self.tokens_in = self.tokens_cached = self.tokens_out = 0
        self.duration, self.first = Histogram(), Histogram()
        self.running = 0  # requests under way, the waiting ones too

    def add(self, endpoint: str, status: int, counts: Counts, seconds: float, first: float | None) -> None:
        """Count a request that ended; `first` is the seconds to its first token."""
        key = endpoint, status
        self.requests[key] = self.requests.get(key, 0) + 1
        self.tokens_in += counts.tokens_in or 0
        self.tokens_cached += counts.tokens_cached or 0
        self.tokens_out += counts.tokens_out or 0
        self.duration.add(seconds)
        if first is not None:
            self.first.add(first)


class Kept(Protocol):
    """How profiles are, and what happened to them."""

    @property
    def counts(self) -> Mapping[str, Events]: ...

    def states(self) -> Mapping[str, Standing]: ...


class _Collected:
    """The registry's view of the tallies."""

    def __init__(self, tallies: Mapping[str, Tally], keeper: Kept) -> None:
        self._tallies, self._keeper = tallies, keeper

    def collect(self) -> Iterator[Metric]:
        yield from _counted(self._tallies)
        yield from _stood(self._keeper)


def _counted(tallies: Mapping[str, Tally]) -> Iterator[Metric]:
    requests = CounterMetricFamily("lmctl_requests", "Requests that ended.", labels=["profile", "endpoint", "status"])
    tokens = CounterMetricFamily("lmctl_tokens", "Tokens, as engines tell them.", labels=["profile", "kind"])
    duration = HistogramMetricFamily("lmctl_request_duration_seconds", "Whole requests.", labels=["profile"])
    first = HistogramMetricFamily(
        "lmctl_time_to_first_token_seconds", "Until the first token of a stream.", labels=["profile"]
    )
    running = GaugeMetricFamily("lmctl_requests_running", "Requests under way.", labels=["profile"])
    for profile, tally in tallies.items():
        for (endpoint, status), count in tally.requests.items():
            requests.add_metric([profile, endpoint, str(status)], count)
        kinds = {"in": tally.tokens_in, "cached": tally.tokens_cached, "out": tally.tokens_out}
        for kind, count in kinds.items():
            tokens.add_metric([profile, kind], count)
        duration.add_metric([profile], *tally.duration.told())
        first.add_metric([profile], *tally.first.told())
        running.add_metric([profile], tally.running)
    yield from (requests, tokens, duration, first, running)


def _stood(keeper: Kept) -> Iterator[Metric]:
    state = GaugeMetricFamily("lmctl_profile_state", "1 for the state that it is in.", labels=["profile", "state"])
    waiting = GaugeMetricFamily("lmctl_queue", "Requests that wait for a slot.", labels=["profile"])
    active = GaugeMetricFamily("lmctl_slots_used", "Slots in use.", labels=["profile"])
    events = CounterMetricFamily(
        "lmctl_programs", "Starts, evictions, stops for idling, failed starts.", labels=["profile", "event"]
    )
    for profile, one in keeper.states().items():
        state.add_metric([profile, one.state], 1)
        waiting.add_metric([profile], one.waiting)
        active.add_metric([profile], one.in_flight)
    for profile, counts in keeper.counts.items():
        told = {"start": counts.starts, "eviction": counts.evictions}
        told |= {"idle": counts.ttl_stops, "failure": counts.failures}
        for event, count in told.items():
            events.add_metric([profile, event], count)
    yield from (state, waiting, active, events)


def render(tallies: Mapping[str, Tally], keeper: Kept) -> bytes:
    """Return what Prometheus reads; KIND is its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(tallies, keeper))
    return generate_latest(registry)
