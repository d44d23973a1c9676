"""What `lmctl usage` prints: the same sums give the same text, CSV, JSON and picture."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from contextlib import closing
from pathlib import Path

import pytest
from counted import NOON, row
from syrupy.assertion import SnapshotAssertion

from lmctl.database import open_writable
from lmctl.errors import LmctlError
from lmctl.front import Cloud
from lmctl.text import PLAIN
from lmctl.usage import database, plot, prices, report, sums
from lmctl.usage.report import Report
from lmctl.usage.rows import Row, values
from lmctl.usage.sums import Sums

DAY = 86400.0
BIG = Cloud("big", "https://api.example/v1", "big-model", price_in=2.0, price_out=8.0)
FREE = Cloud("untold", "https://other.example/v1", "m")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "usage.db"


def counted(path: Path, *rows: Row, keep: float | None = None) -> None:
    db, _ = open_writable(path, database.LAYOUT, 5.0, NOON)
    with closing(db):
        database.add(db, [values(one) for one in rows])
        if keep is not None:
            database.roll_up(db, NOON, keep)
        db.execute("COMMIT")


SOME = (
    row(1, tokens_in=120_000, tokens_out=30_000),
    row(2, profile="code", model="o/coder:Q8_0", tokens_in=2_000_000, tokens_out=900_000, tokens_per_s=25.0),
    row(3, at=NOON - DAY, tokens_in=None, tokens_out=None, tokens_per_s=None, status=503, client="OpenAI/Python"),
    row(4, at=NOON - 3 * DAY, profile="code", model="o/coder:Q8_0", client=None),
    row(5, profile=None, model="big-model", backend=None, target="cloud:big", tokens_in=50_000, tokens_out=10_000),
)


def made(path: Path, by: str = "model", since: float | None = None, clouds=(BIG,), routed=False) -> Report:
    lines, targets = sums.read(path, (by,), since), sums.read(path, ("target",), since)
    compared, _ = prices.compared((), clouds)
    here = sums.local(targets)
    plain = {target: one for (target,), one in targets.items()}
    return Report(
        name="team",
        by=by,
        since=since,
        lines=report.ordered(lines, by),
        total=sums.together(lines.values()),
        saved=tuple((price, price.cost(here)) for price in compared),
        routing=prices.routing(plain, clouds, compared[: len(clouds)]) if routed else None,
    )


@pytest.mark.parametrize("by", report.BY)
def test_a_report_reads_as_recorded(path, by, snapshot: SnapshotAssertion):
    counted(path, *SOME)
    found = made(path, by)
    assert report.text(found, PLAIN) == snapshot
    assert report.as_csv(found) == snapshot
    assert json.dumps(report.data(found), indent=1) == snapshot


@pytest.mark.parametrize("by", report.BY)
def test_a_report_is_the_same_after_days_were_made(path, by):
    counted(path, *SOME)
    before = report.data(made(path, by))
    counted(path, keep=DAY)
    assert sums.read(path, ("day",)).keys() == {("2026-05-01",), ("2026-05-03",), ("2026-05-04",)}
    assert report.data(made(path, by)) == before


def test_since_leaves_out_what_was_before(path):
    counted(path, *SOME, keep=DAY)
    assert made(path, since=NOON - 2 * DAY).total.requests == 4
    assert made(path, since=NOON - 3.2 * DAY).total.requests == 5  # of a day that is one sum, all of it
    assert made(path, since=NOON + 3).total.requests == 1


def test_routing_tells_the_cost_of_the_mix_and_of_all_elsewhere(path, snapshot: SnapshotAssertion):
    counted(path, *SOME)
    found = made(path, routed=True)
    assert found.routing is not None and found.routing.mix == pytest.approx(50_000 * 2e-6 + 10_000 * 8e-6)
    assert report.text(found, PLAIN) == snapshot
    assert report.as_csv(found) == snapshot
    assert json.dumps(report.data(found)["routing"], indent=1) == snapshot


def test_a_price_that_is_not_known_is_no_zero(path):
    counted(path, *SOME, row(6, target="cloud:untold", profile=None))
    found = made(path, clouds=(BIG, FREE), routed=True)
    assert found.routing is not None and found.routing.mix is None
    shown = report.text(found, PLAIN)
    assert "cost of the mix: - USD" in shown and "no price is known of cloud:untold" in shown
    assert report.data(found)["routing"]["mix_usd"] is None  # type: ignore[index,call-overload]


def test_what_engines_counted_themselves_is_no_request(path):
    db, _ = open_writable(path, database.LAYOUT, 5.0, NOON)
    with closing(db):
        counters = database.Counters(100, 0, 40, 2_000_000)
        database.meter(db, database.Metered("chat", "o/m:Q4", "llama.cpp", NOON, counters))
        db.execute("COMMIT")
    found = made(path)
    (line,) = [line for line in report.text(found, PLAIN).splitlines() if line.startswith("o/m:Q4")]
    assert line.split() == ["o/m:Q4", "-", "100", "40", "20.0", "2026-05-04", "12:00"]
    assert "140 tokens are what engines counted themselves" in report.text(found, PLAIN)
    assert report.data(found)["rows"][0]["requests"] is None  # type: ignore[index,call-overload]


def test_a_cell_that_a_spreadsheet_would_compute_is_text(path):
    counted(path, row(1, client='=HYPERLINK("http://evil")'), row(2, client="@SUM(A1)"), row(3, client='a,b"c'))
    cells = [line[0] for line in csv.reader(io.StringIO(report.as_csv(made(path, "client"))))]
    assert sorted(cells) == ['\'=HYPERLINK("http://evil")', "'@SUM(A1)", 'a,b"c', "client"]


@pytest.mark.parametrize(
    ("usd", "shown"), [(None, "-"), (0.0, "0.00"), (0.0042, "0.004200"), (12.5, "12.50"), (1234567.891, "1,234,567.89")]
)
def test_money_is_shown_in_cents(usd, shown):
    assert report.money(usd) == shown


def test_every_reference_price_has_a_date_and_a_source():
    known = prices.known()
    assert set(prices.USUAL) <= known.keys() and len(known) >= 5
    for price in known.values():
        assert price.read and price.write and price.source and len(price.date) == 10


def test_a_declared_price_counts_before_a_reference_and_unknown_names_are_told():
    own = Cloud("gpt-5", "https://api.example/v1", "m", price_in=9.0, price_out=9.0)
    found, unknown = prices.compared(["gpt-5", "nobody"], (own,))
    assert [(price.name, price.read, price.source) for price in found] == [("gpt-5", 9.0, "declared")]
    assert unknown == ("nobody",)


def test_a_cost_needs_every_price_that_it_takes():
    half = prices.Price("half", 1.0, None)
    assert half.cost(Sums(requests=1, tokens_in=10**6, tokens_out=0)) == 1.0
    assert half.cost(Sums(requests=1, tokens_in=10**6, tokens_out=1)) is None
    assert half.cost(Sums(requests=2, uncounted=1)) is None
    assert half.cost(Sums(requests=2, failed=2, uncounted=0)) == 0.0


def test_the_picture_reads_as_recorded_and_is_well_formed(path, snapshot: SnapshotAssertion):
    counted(path, *SOME)
    picture = plot.svg("team", plot.days(sums.read(path, ("day",))))
    assert picture == snapshot
    root = ET.fromstring(picture)
    words = "".join(root.itertext())
    assert "Tokens per day of team" in words and "prefers-color-scheme: dark" in words
    assert "2026-05-02" in words  # a day without requests has its place


@pytest.mark.parametrize("count", [0, 1, 400])
def test_a_picture_of_any_number_of_days_stays_in_its_frame(count):
    days = [(f"day {number} <&>", number * 1000, 10**9) for number in range(count)]
    root = ET.fromstring(plot.svg("<team> & co", days))
    boxes = [box for box in root.iter("{http://www.w3.org/2000/svg}rect") if box.get("class") in {"in", "out"}]
    for box in boxes:
        assert 0 <= float(box.get("y", "-1")) <= 360 and float(box.get("x", "-1")) + float(box.get("width", "0")) <= 900
    assert len(root.findall("{http://www.w3.org/2000/svg}text")) < 30


def test_F82_a_file_that_cannot_be_read_is_told(path):
    path.write_bytes(b"no database at all" * 500)
    with pytest.raises(LmctlError) as told:
        sums.read(path, ("model",))
    assert told.value.code == "E-STATE"
    path.write_bytes(b"")
    assert sums.read(path, ("model",)) == {}
