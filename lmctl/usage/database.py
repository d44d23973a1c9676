"""usage.db: one row per request, and one per day of what is older; written in transactions that repeat harmlessly."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from lmctl.backend import Counters
from lmctl.database import Layout
from lmctl.record import record
from lmctl.usage.rows import COLUMNS, LOCAL, Value

NAME = "usage.db"
METERED = "/metrics"  # the endpoint of what engines counted themselves: tokens, and no requests

_KEYS = ("profile", "model", "backend", "endpoint", "target", "client")  # '' where a request has none
# Sums are whole numbers, so that no order of adding changes them: milliseconds, and for the speed of writing the tokens
# whose time is known with their microseconds. `uncounted` are answers without a count of tokens.
SUMS = {
    "requests": "count(*)",
    "failed": "sum(status >= 400)",
    "partial": "sum(partial)",
    "uncounted": "sum(status < 400 AND tokens_in IS NULL AND tokens_out IS NULL)",
    "tokens_in": "sum(tokens_in)",
    "tokens_cached": "sum(tokens_cached)",
    "tokens_out": "sum(tokens_out)",
    "ttft_ms": "sum(CAST(round(ttft_ms) AS INTEGER))",
    "duration_ms": "sum(CAST(round(duration_ms) AS INTEGER))",
    "timed_tokens": "sum(CASE WHEN tokens_per_s > 0 THEN tokens_out END)",
    "timed_us": "sum(CASE WHEN tokens_per_s > 0 THEN CAST(round(tokens_out * 1e6 / tokens_per_s) AS INTEGER) END)",
}
LOCAL_DAY = "date(at, 'unixepoch', 'localtime')"
_TABLES = f"""
CREATE TABLE request (id TEXT PRIMARY KEY, at REAL NOT NULL, profile TEXT, model TEXT, backend TEXT,
  endpoint TEXT NOT NULL, status INTEGER NOT NULL, tokens_in INTEGER, tokens_cached INTEGER, tokens_out INTEGER,
  ttft_ms REAL, duration_ms REAL, tokens_per_s REAL, target TEXT NOT NULL, client TEXT, partial INTEGER NOT NULL);
CREATE INDEX request_at ON request (at);
CREATE TABLE day (day TEXT NOT NULL, {", ".join(f"{key} TEXT NOT NULL" for key in _KEYS)},
  {", ".join(f"{name} INTEGER" for name in SUMS)}, last_at REAL NOT NULL, PRIMARY KEY (day, {", ".join(_KEYS)}));
CREATE TABLE meter (profile TEXT PRIMARY KEY, pid INTEGER NOT NULL, at REAL NOT NULL, tokens_in INTEGER NOT NULL,
  tokens_cached INTEGER NOT NULL, tokens_out INTEGER NOT NULL, us_out INTEGER NOT NULL);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)
"""
LAYOUT = Layout(
    schema=1,
    since="0.1.0",
    tables=_TABLES,
    until="no request is counted here",
    asks=(
        f"SELECT {', '.join(COLUMNS)} FROM request LIMIT 0",  # noqa: S608
        f"SELECT day, {', '.join((*_KEYS, *SUMS))}, last_at FROM day LIMIT 0",  # noqa: S608
        "SELECT profile, pid, at, tokens_in, tokens_cached, tokens_out, us_out FROM meter LIMIT 0",
    ),
    shared=True,
)
_ADD = f"INSERT OR IGNORE INTO request ({', '.join(COLUMNS)}) VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608
_TOGETHER = 64  # rows
_ADD_MANY = _ADD + f", ({', '.join('?' * len(COLUMNS))})" * (_TOGETHER - 1)
# what nobody told stays untold: NULL and NULL is NULL, NULL and 3 is 3
_MERGED = ", ".join(
    f"{name} = CASE WHEN {name} IS NULL THEN excluded.{name} ELSE {name} + ifnull(excluded.{name}, 0) END"
    for name in SUMS
)
_INTO_DAY = f"INSERT INTO day (day, {', '.join((*_KEYS, *SUMS))}, last_at)"
_ON_CONFLICT = f"ON CONFLICT DO UPDATE SET {_MERGED}, last_at = max(last_at, excluded.last_at)"
_ROLL_UP = f"""
{_INTO_DAY} SELECT {LOCAL_DAY}, {", ".join(f"ifnull({key}, '')" for key in _KEYS)}, {", ".join(SUMS.values())}, max(at)
FROM request WHERE at < ? GROUP BY {", ".join(map(str, range(1, len(_KEYS) + 2)))} {_ON_CONFLICT}
"""  # noqa: S608
_METER = f"""
{_INTO_DAY} VALUES (date(?, 'unixepoch', 'localtime'), ?, ?, ?, '{METERED}', '{LOCAL}', '',
  NULL, NULL, NULL, NULL, ?, ?, ?, NULL, NULL, ?, ?, ?) {_ON_CONFLICT}
"""


@record
class Metered:
    """What the engine of one profile counted since it was last asked."""

    profile: str
    model: str
    backend: str
    at: float
    counted: Counters


def path(state: Path) -> Path:
    """Return the file of the declaration whose state folder is `state`."""
    return state / NAME


def add(db: sqlite3.Connection, rows: Iterable[tuple[Value, ...]]) -> None:
    """Add rows as `rows.values` makes them; those whose id is there stay as they are."""
    waiting = list(rows)
    while len(waiting) >= _TOGETHER:  # one statement lets go of the interpreter once, not once a row
        some, waiting = waiting[:_TOGETHER], waiting[_TOGETHER:]
        db.execute(_ADD_MANY, list(chain.from_iterable(some)))
    db.executemany(_ADD, waiting)


def roll_up(db: sqlite3.Connection, now: float, keep: float) -> None:
    """Make rows of days of whatever lies before the local day that was `keep` seconds ago; whole days only.

    The connection is in a transaction: what counts as a day's sum is gone as a row, or nothing happened.
    """
    before = day_begins(now - keep)
    db.execute(_ROLL_UP, (before,))
    db.execute("DELETE FROM request WHERE at < ?", (before,))


def meter(db: sqlite3.Connection, metered: Metered) -> None:
    """Add what an engine counted to the day on which it was asked; requests stay untold."""
    count = metered.counted
    who = (metered.at, metered.profile, metered.model, metered.backend)
    sums = (count.tokens_in, count.tokens_cached, count.tokens_out, count.tokens_out, count.us_out, metered.at)
    db.execute(_METER, who + sums)


def day_begins(at: float) -> float:
    """Return when the local day began in which `at` lies; both in seconds since the epoch."""
    here = time.localtime(max(at, 0.0))
    return time.mktime((here.tm_year, here.tm_mon, here.tm_mday, 0, 0, 0, 0, 0, -1))
