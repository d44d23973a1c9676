"""What is remembered of drift."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lmctl.drift import log
from lmctl.drift.log import Known
from lmctl.drift.records import Field, made
from lmctl.ledger import Ledger

ONE = made("modified", "program:code", [Field("ctx", 8192, 4096, 4096)])
TWO = made("missing", "program:chat", [Field("program", "there", None, None)])


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger.db")


def note(ledger: Ledger, *drifts, now: float, whole: bool = True) -> None:
    with ledger.writing(now) as writer:
        log.note(writer, drifts, now, whole=whole)


def test_nothing_is_known_where_nothing_was_recorded(ledger):
    assert log.known(ledger) == {}


def test_the_same_drift_is_one_row_however_often_it_is_seen(ledger):
    for now in (1.0, 2.0, 5.0):
        note(ledger, ONE, now=now)
    assert log.known(ledger) == {ONE.fingerprint: Known(1.0, 5.0, 3)}
    (row,) = ledger.rows("SELECT class, address, desired, applied, observed FROM drift")
    assert row[:2] == ("modified", "program:code")
    assert [json.loads(text) for text in row[2:]] == [{"ctx": 8192}, {"ctx": 4096}, {"ctx": 4096}]


def test_F81_a_clock_that_jumps_back_leaves_no_row_that_was_last_seen_before_it_was_first(ledger):
    for now in (7200.0, 1.0):
        note(ledger, ONE, now=now)
    assert log.known(ledger) == {ONE.fingerprint: Known(7200.0, 7200.0, 2)}


def test_what_is_gone_is_over_and_what_comes_back_goes_on(ledger):
    note(ledger, ONE, TWO, now=1.0)
    note(ledger, TWO, now=2.0)
    assert log.known(ledger).keys() == {TWO.fingerprint}
    assert ledger.rows("SELECT resolved_at FROM drift WHERE resolved_at IS NOT NULL") == [(2.0,)]
    note(ledger, ONE, now=3.0)
    assert log.known(ledger) == {ONE.fingerprint: Known(1.0, 3.0, 2)}


def test_what_was_not_looked_at_is_not_over(ledger):
    note(ledger, ONE, TWO, now=1.0)
    note(ledger, now=2.0, whole=False)
    assert len(log.known(ledger)) == 2


def test_what_is_over_is_forgotten_in_the_end(ledger):
    drifts = [made("missing", f"program:{n}", ONE.fields) for n in range(510)]
    note(ledger, *drifts, now=1.0)
    note(ledger, now=2.0)
    assert ledger.rows("SELECT count(*) FROM drift") == [(500,)]
