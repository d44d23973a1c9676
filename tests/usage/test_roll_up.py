"""Rows of days and rows of requests together always add up to what was counted."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, contextmanager

import pytest
from counted import NOON, row
from hypothesis import given
from hypothesis import strategies as st

from lmctl.usage import database
from lmctl.usage.rows import values

DAY = 86400.0
COUNTS = st.none() | st.integers(0, 10**6)
TIMES = st.none() | st.floats(0.001, 1e6)
ROWS = st.lists(
    st.builds(
        lambda at, **told: {"at": NOON + at, **told},
        at=st.floats(-100 * DAY, 100 * DAY),
        profile=st.none() | st.sampled_from(["chat", "code"]),
        model=st.none() | st.sampled_from(["o/m", "o/n"]),
        endpoint=st.sampled_from(["/v1/chat/completions", "/v1/embeddings"]),
        status=st.sampled_from([200, 429, 500]),
        tokens_in=COUNTS,
        tokens_cached=COUNTS,
        tokens_out=COUNTS,
        ttft_ms=TIMES,
        duration_ms=TIMES,
        tokens_per_s=TIMES,
        target=st.sampled_from(["local", "cloud:big"]),
        client=st.none() | st.sampled_from(["curl/8", "OpenAI/Python"]),
        partial=st.booleans(),
    ),
    max_size=25,
)
MOMENTS = st.lists(st.tuples(st.floats(-150 * DAY, 150 * DAY), st.floats(1, 90 * DAY)), min_size=1, max_size=4)
KEYS = "profile, model, backend, endpoint, target, client"


def made() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None)
    for statement in database.LAYOUT.tables.split(";"):
        db.execute(statement)
    return db


def sums(db: sqlite3.Connection) -> list[tuple]:
    """Everything that is counted by day and by whom, over both tables."""
    keys = ", ".join(f"ifnull({key}, '') AS {key}" for key in KEYS.split(", "))
    each = ", ".join(f"{how} AS {name}" for name, how in database.SUMS.items())
    group = ", ".join(map(str, range(1, 8)))
    rows = f"SELECT {database.LOCAL_DAY} AS day, {keys}, {each}, max(at) AS last_at FROM request GROUP BY {group}"
    total = ", ".join(f"sum({name})" for name in database.SUMS)
    both = f"SELECT day, {KEYS}, {', '.join(database.SUMS)}, last_at FROM day UNION ALL {rows}"
    return db.execute(
        f"SELECT day, {KEYS}, {total}, max(last_at) FROM ({both}) GROUP BY {group} ORDER BY {group}"
    ).fetchall()


@contextmanager
def zone(name: str):
    before = os.environ.get("TZ")
    os.environ["TZ"] = name
    time.tzset()
    try:
        yield
    finally:
        os.environ.pop("TZ") if before is None else os.environ.update(TZ=before)
        time.tzset()


@given(ROWS, MOMENTS, st.sampled_from(["UTC", "Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"]), st.data())
def test_F81_sums_stay_the_same_whatever_is_rolled_up_and_when(rows, moments, where, data):
    with zone(where), closing(made()) as db:
        stored = [values(row(number, **told)) for number, told in enumerate(rows)]
        first = data.draw(st.integers(0, len(stored)))
        database.add(db, stored[:first])
        expected_later = stored[first:]
        for now, keep in moments:  # the clock may go back between two of them
            before = sums(db)
            database.roll_up(db, NOON + now, keep)
            database.roll_up(db, NOON + now, keep)
            assert sums(db) == before
            left = db.execute("SELECT min(at) FROM request").fetchone()[0]
            assert left is None or left >= database.day_begins(NOON + now - keep)
        database.add(db, expected_later)  # some are older than what was made of days already
        before = sums(db)
        database.roll_up(db, NOON + moments[-1][0], moments[-1][1])
        assert sums(db) == before
        with closing(made()) as untouched:
            database.add(untouched, stored)
            assert sums(untouched) == sums(db)


def test_a_row_is_kept_by_itself_for_whole_days():
    with closing(made()) as db:
        database.add(db, [values(row(number, at=NOON - number * DAY)) for number in range(5)])
        database.roll_up(db, NOON, 2 * DAY)
        assert db.execute("SELECT id FROM request").fetchall() == [("r0",), ("r1",), ("r2",)]
        assert db.execute("SELECT day, requests, tokens_in FROM day ORDER BY day").fetchall() == [
            ("2026-04-30", 1, 10),
            ("2026-05-01", 1, 10),
        ]


@pytest.mark.parametrize("moment", ["2026-03-29 03:30", "2026-10-25 02:30"])
def test_F81_the_day_of_a_changed_clock_is_one_day(moment):
    with zone("Europe/Berlin"), closing(made()) as db:
        at = time.mktime(time.strptime(moment, "%Y-%m-%d %H:%M"))
        database.add(
            db, [values(row(1, at=at)), values(row(2, at=database.day_begins(at))), values(row(3, at=at + 9000))]
        )
        database.roll_up(db, at + 5 * DAY, DAY)
        assert db.execute("SELECT day, requests FROM day").fetchall() == [(moment[:10], 3)]


def test_what_an_engine_counted_is_added_to_its_day_and_counts_no_request():
    with closing(made()) as db:
        for at in (NOON, NOON + 60, NOON + DAY):
            counted = database.Counters(tokens_in=10, tokens_cached=1, tokens_out=4, us_out=2_000_000)
            database.meter(db, database.Metered("chat", "o/m", "llama.cpp", at, counted))
        found = db.execute("SELECT day, requests, tokens_in, timed_tokens, timed_us, last_at FROM day").fetchall()
        assert found == [
            ("2026-05-04", None, 20, 8, 4_000_000, NOON + 60),
            ("2026-05-05", None, 10, 4, 2_000_000, NOON + DAY),
        ]
