"""The applies that are remembered."""

from __future__ import annotations

from pathlib import Path

import pytest

from lmctl import generations
from lmctl.generations import KEPT, Generation
from lmctl.ledger import Ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "team" / "ledger.db")


def open_one(ledger: Ledger, number: int = 1, restores: int | None = None) -> int:
    with ledger.writing(1.0) as writer:
        return generations.opened(writer, Generation(number, 5.0, "c", "l", "{}", "done", restores))


def test_a_generation_counts_as_interrupted_until_it_is_closed(ledger):
    first, second = open_one(ledger), open_one(ledger, restores=1)
    with ledger.writing(1.0) as writer:
        generations.closed(writer, second, "done")
    assert generations.listed(ledger) == (
        Generation(second, 5.0, "c", "l", "{}", "done", first),
        Generation(first, 5.0, "c", "l", "{}", "interrupted"),
    )


def test_numbers_go_on_where_a_lost_ledger_ended(ledger):
    assert [open_one(ledger, 8), open_one(ledger, 8), open_one(ledger, 3)] == [8, 9, 10]


def test_the_oldest_are_dropped(ledger):
    for _ in range(KEPT + 3):
        open_one(ledger)
    found = [one.id for one in generations.listed(ledger)]
    assert found == list(range(KEPT + 3, 3, -1))
    assert [one.id for one in generations.listed(ledger, 2)] == [KEPT + 3, KEPT + 2]


def test_where_they_cannot_be_read_there_is_none(ledger):
    open_one(ledger)
    ledger.path.write_bytes(b"no database" * 1000)
    assert generations.listed(ledger) == ()


def test_where_nothing_was_applied_there_is_none(ledger):
    assert generations.listed(ledger) == ()
