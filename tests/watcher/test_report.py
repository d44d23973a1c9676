"""What a watcher leaves for others counts while it watches, and nothing that lies there makes a reader fail."""

from __future__ import annotations

import pytest

from lmctl.errors import Place, Problem
from lmctl.mutex import exclusive
from lmctl.watcher import report
from lmctl.watcher.report import Report

FOUND = Report(7, 1.5, 2.5, (Problem("E-KEY", "unknown key", "remove it", Place("a.toml", 3)),))


@pytest.fixture
def state(tmp_path):
    return tmp_path / "team"


def test_it_counts_as_long_as_somebody_watches(state):
    assert report.read(state) is None
    with exclusive(state / report.LOCK, "lmctl watch"):
        report.write(state, FOUND)
        found = report.read(state)
        assert found is not None
        assert found.json() == FOUND.json()
        assert str(found.problems[0]) == str(FOUND.problems[0])
    assert report.read(state) is None


def test_only_its_owner_can_read_it(state):
    state.mkdir()
    report.write(state, FOUND)
    assert (state / report.FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "[]",
        "7",
        "{",
        '{"pid": 7}',
        '{"pid": "x", "since": 1, "looked": 1, "problems": []}',
        '{"pid": 7, "since": NaN, "looked": 1, "problems": []}',
        '{"pid": 7, "since": 1e300, "looked": 1, "problems": []}',
        '{"pid": 7, "since": 1, "looked": 1, "problems": [{}]}',
        '{"pid": 7, "since": 1, "looked": 1, "problems": 5}',
        "[" * 100_000,
        " " * (1 << 17),
    ],
    ids=lambda text: "gone" if text is None else text[:20].strip() or "blank",
)
def test_what_cannot_be_read_only_tells_that_somebody_watches(state, text):
    with exclusive(state / report.LOCK, "lmctl watch"):
        if text is not None:
            (state / report.FILE).write_text(text)
        assert report.read(state) == Report()


def test_it_stays_small_and_cannot_draw_on_a_terminal(state):
    with exclusive(state / report.LOCK, "lmctl watch"):
        report.write(state, Report(7, 1.0, None, (Problem("E-KEY", "\x1b[2Jx" * 1000),) * 1000))
        found = report.read(state)
    assert found is not None
    assert 0 < len(found.problems) <= 16
    assert all(problem.what.isprintable() and len(problem.what) < 3000 for problem in found.problems)
