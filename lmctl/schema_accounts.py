"""What `usage` and `cleanup` print as JSON, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from lmctl.schema_models import Exact

Count = Annotated[int, Field(ge=0)]
Usd = Annotated[float, Field(description="null: not known")]


class Counts(Exact):
    """Sums over some requests; null: nobody told."""

    requests: Count | None
    failed: Count | None = Field(description="answered with a status of 400 or more")
    partial: Count | None = Field(description="whose answer broke off")
    uncounted: Count | None = Field(description="answered without a count of tokens")
    tokens_in: Count | None
    tokens_cached: Count | None = Field(description="part of tokens_in")
    tokens_out: Count | None
    tokens_per_s: float | None = Field(description="of writing")
    last_used: str | None = Field(description="ISO 8601")


class UsageRow(Counts):
    """One line of the report."""

    key: str | None = Field(description="a model, profile, day or client; null where a request has none")


class PriceEntry(Exact):
    """A price in USD per million tokens."""

    name: str
    price_in: float | None
    price_out: float | None
    source: str
    date: str | None = Field(description="when it was looked up; null for a declared one")
    usd: Usd | None


class ElsewhereEntry(PriceEntry):
    """What everything would have cost there."""

    saved_usd: Usd | None


class TargetEntry(Counts):
    """What ran in one place."""

    target: str = Field(description="local, or cloud:NAME")
    usd: Usd | None


class RoutingEntry(Exact):
    """What ran where, and what it cost."""

    targets: list[TargetEntry]
    mix_usd: Usd | None
    everything: list[ElsewhereEntry]


class UsageFile(Exact):
    """What `usage --json` prints in `data`."""

    model_config = ConfigDict(title="lmctl usage")

    name: str = Field(description="the declaration's name")
    by: Literal["model", "profile", "day", "client"]
    since: str | None = Field(description="ISO 8601; null: everything")
    enabled: bool = Field(description="whether requests are counted")
    rows: list[UsageRow]
    total: Counts
    metered_tokens: Count | None = Field(description="tokens that engines counted themselves, without requests")
    saved: list[PriceEntry] = Field(description="what local answers would have cost")
    routing: RoutingEntry | None = Field(description="with --routing")


class CleanupModel(Exact):
    """One model, and what could be done about it."""

    model: str
    artifact: str
    bytes: Count | None = Field(description="on disk; null: not here")
    last_used: float | None = Field(description="seconds since the epoch; null: no request was counted")
    idle_days: Count | None = Field(description="null: requests were never counted")
    status: Literal["active", "stale", "undeclared"]
    stale: bool = Field(description="unused for longer than the threshold, declared or not")
    brought: bool = Field(description="by lmctl: nothing else is removed")
    profiles: list[str] = Field(description="that declare it")
    files: list[str] = Field(description="in which it is declared")
    advice: str | None


class CleanupFile(Exact):
    """What `cleanup --json` prints in `data`; with a removal, it is the plan of it and how it ended."""

    model_config = ConfigDict(title="lmctl cleanup")

    name: str = Field(description="the declaration's name")
    threshold_days: Count
    counted_since: float | None = Field(description="seconds since the epoch; null: requests were never counted")
    models: list[CleanupModel] = Field(description="the largest first")
    bytes: Count
    unused_bytes: Count = Field(description="of what is stale or undeclared")
