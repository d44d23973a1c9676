"""What /metrics tells, as Prometheus itself reads it."""

from __future__ import annotations

from fakes.slots import Unbounded
from prometheus_client.parser import text_string_to_metric_families

from lmctl.gateway.accounting import Counts
from lmctl.gateway.demand import Standing
from lmctl.gateway.keeper import Counts as Events
from lmctl.gateway.metrics import Tally, render


def read(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(text.decode())
    return {(one.name, tuple(sorted(one.labels.items()))): one.value for family in families for one in family.samples}


def test_requests_tokens_and_times_are_told_per_profile():
    tally = Tally()
    tally.add("chat", 200, Counts(7, 2, 3), 0.2, 0.02)
    tally.add("chat", 200, Counts(), 400.0, None)
    tally.add("chat", 503, Counts(), 0.0, None)
    tally.running = 2
    told = read(render({"hello": tally}, Unbounded()))
    hello = ("profile", "hello")
    assert told["lmctl_requests_total", (("endpoint", "chat"), hello, ("status", "200"))] == 2
    assert told["lmctl_requests_total", (("endpoint", "chat"), hello, ("status", "503"))] == 1
    assert told["lmctl_tokens_total", (("kind", "in"), hello)] == 7
    assert told["lmctl_tokens_total", (("kind", "cached"), hello)] == 2
    assert told["lmctl_tokens_total", (("kind", "out"), hello)] == 3
    assert told["lmctl_requests_running", (hello,)] == 2
    assert told["lmctl_request_duration_seconds_count", (hello,)] == 3
    assert told["lmctl_request_duration_seconds_sum", (hello,)] == 400.2
    assert told["lmctl_request_duration_seconds_bucket", (("le", "0.25"), hello)] == 2
    assert told["lmctl_request_duration_seconds_bucket", (("le", "300.0"), hello)] == 2
    assert told["lmctl_request_duration_seconds_bucket", (("le", "+Inf"), hello)] == 3
    assert told["lmctl_time_to_first_token_seconds_count", (hello,)] == 1


class Kept(Unbounded):
    def __init__(self) -> None:
        events = Events()
        events.starts, events.evictions, events.ttl_stops, events.failures = 3, 4, 5, 6
        self.counts = {"hello": events}

    def states(self) -> dict[str, Standing]:
        return {"hello": Standing("ready", 1, 2)}


def test_how_profiles_are_is_told_beside():
    told = read(render({}, Kept()))
    hello = ("profile", "hello")
    assert told["lmctl_profile_state", (hello, ("state", "ready"))] == 1
    assert (told["lmctl_slots_used", (hello,)], told["lmctl_queue", (hello,)]) == (1, 2)
    events = {event: told["lmctl_programs_total", (("event", event), hello)] for event in ("start", "eviction", "idle")}
    assert events == {"start": 3, "eviction": 4, "idle": 5}


def test_a_name_that_would_end_a_label_does_not():
    tally = Tally()
    tally.add('x"} 1\n', 200, Counts(), 0.1, None)
    assert (
        read(render({"hello": tally}, Unbounded()))[
            "lmctl_requests_total", (("endpoint", 'x"} 1\n'), ("profile", "hello"), ("status", "200"))
        ]
        == 1
    )
