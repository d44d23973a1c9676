"""One request as it is counted: names, numbers and times. There is no field that could hold a prompt or an answer."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from lmctl.secret import hidden
from lmctl.spec import Profile

LOCAL = "local"  # the target of what is answered here; elsewhere it is `cloud:NAME`
CLOUD = "cloud:"
_CLIENT = 64  # characters
_TEXT = 200
_LATEST = 32503680000.0  # the year 3000: what is later has no date everywhere
_MOST = 1 << 53  # of a count: above it a JSON reader may round

Value = str | int | float | None


class Row(NamedTuple):
    """One request. `at` is when it ended, in seconds since the epoch; a count that nobody told is None.

    `tokens_in` is the whole prompt, `tokens_cached` the part of it that the engine had already; `tokens_per_s` is the
    engine's own speed of writing. `id` is unlike every other: a row that is added twice counts once.
    """

    id: str
    at: float
    profile: str | None
    model: str | None  # as `model_name` calls it; of a cloud, its name there
    backend: str | None
    endpoint: str  # the path that was asked, such as /v1/chat/completions
    status: int
    tokens_in: int | None = None
    tokens_cached: int | None = None
    tokens_out: int | None = None
    ttft_ms: float | None = None  # until the first token
    duration_ms: float | None = None
    tokens_per_s: float | None = None
    target: str = LOCAL
    client: str | None = None
    partial: bool = False  # the answer ended before its end


COLUMNS = Row._fields


def values(row: Row) -> tuple[Value, ...]:
    """Return what is stored of a row, in the order of COLUMNS: bounded text without secrets, counts from 0 on."""
    return (
        row.id if row.id.isalnum() else _text(row.id) or "",
        _number(row.at) or 0.0,
        _name(row.profile),
        _name(row.model),
        _name(row.backend),
        _name(row.endpoint) or "",
        _count(row.status) or 0,
        _count(row.tokens_in),
        _count(row.tokens_cached),
        _count(row.tokens_out),
        _number(row.ttft_ms),
        _number(row.duration_ms),
        _number(row.tokens_per_s),
        _name(row.target) or LOCAL,
        client(row.client),
        int(bool(row.partial)),
    )


def client(agent: str | None) -> str | None:
    """Return who asked: the first word of a User-Agent, at most 64 printable characters, without secrets."""
    return _client(agent[:4096]) if agent else None


@lru_cache(maxsize=1024)
def _client(agent: str) -> str | None:
    words = agent.split(maxsplit=1)
    return _text(words[0], _CLIENT) if words else None


def model_name(profile: Profile) -> str:
    """Return what a profile's model is called: owner/name:quant, the file's name, else the command."""
    chosen = profile.weights
    if chosen is None:
        return profile.command[0] if profile.command else "-"
    if chosen.repo is None:
        return chosen.path.name if chosen.path else chosen.id
    return chosen.repo + (f":{chosen.selection}" if chosen.selection else "")


@lru_cache(maxsize=4096)  # the same few names over and over
def _name(value: str | None) -> str | None:
    return _text(value)


def _text(value: str | None, longest: int = _TEXT) -> str | None:
    if not value:
        return None
    printable = "".join(letter if letter.isprintable() else "?" for letter in value[: 4 * longest])
    return str(hidden(printable))[:longest].encode("utf-8", "replace").decode()


def _count(value: int | None) -> int | None:
    return int(value) if value is not None and 0 <= value <= _MOST else None


def _number(value: float | None) -> float | None:
    return float(value) if value is not None and 0 <= value < float("inf") else None
