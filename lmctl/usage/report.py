"""What `lmctl usage` says: lines of sums, totals, and what the same tokens would have cost elsewhere. Pure."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence

from lmctl.errors import escape
from lmctl.record import record
from lmctl.spec import Json
from lmctl.text import Style, table
from lmctl.usage.prices import Price, Routing
from lmctl.usage.sums import Sums

BY = ("model", "profile", "day", "client")
_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for one at a cell's beginning
_COUNTS = ("requests", "failed", "partial", "uncounted", "tokens_in", "tokens_cached", "tokens_out")


@record
class Report:
    """`lines` by key, "" for requests that have none, in the order in which they are shown.

    `saved` is what local answers would have cost in USD.
    """

    name: str
    by: str
    since: float | None
    lines: tuple[tuple[str, Sums], ...]
    total: Sums
    saved: tuple[tuple[Price, float | None], ...] = ()
    routing: Routing | None = None


def ordered(sums: Mapping[tuple[str, ...], Sums], by: str) -> tuple[tuple[str, Sums], ...]:
    """Return one line per key: days by date, everything else by tokens, most first."""
    lines = [(key[0], one) for key, one in sums.items()]
    if by == "day":
        return tuple(sorted(lines, key=lambda line: line[0]))
    return tuple(sorted(lines, key=lambda line: (-(line[1].tokens_in or 0) - (line[1].tokens_out or 0), line[0])))


def text(report: Report, style: Style) -> str:
    """Return the report as people read it."""
    head = f"usage of {report.name}" + (f" since {_moment(report.since)}" if report.since is not None else "")
    header = [report.by.upper(), "REQUESTS", "TOKENS_IN", "TOKENS_OUT", "AVG_TOK/S", "LAST_USED"]
    rows = [header, *(_cells(escape(key) or "-", one) for key, one in report.lines), _cells("total", report.total)]
    parts = [style.dim(head), table(rows, style).rstrip("\n")]
    if report.routing is not None:
        parts += ["", *_routed(report.routing, style)]
    elif report.saved:
        parts += ["", *_saved(report.saved, style)]
    parts += [style.dim(f"note: {note}") for note in notes(report)]
    return "\n".join(parts) + "\n"


def notes(report: Report) -> tuple[str, ...]:
    """Return what the numbers do not tell."""
    found = []
    if report.total.metered:
        found.append(
            f"{report.total.metered:,} tokens are what engines counted themselves, without the gateway: requests of"
            " that time, and who asked, are not counted"
        )
    if report.total.uncounted:
        found.append(f"{report.total.uncounted:,} answers came without a count of tokens")
    return tuple(found)


def data(report: Report) -> dict[str, Json]:
    """Return the report for scripts; times are ISO 8601 with the offset of the local time zone, money is USD."""
    return {
        "name": report.name,
        "by": report.by,
        "since": _iso(report.since),
        "rows": [{"key": key or None, **_numbers(one)} for key, one in report.lines],
        "total": _numbers(report.total),
        "metered_tokens": report.total.metered,
        "saved": [{**_price(price), "usd": _usd(cost)} for price, cost in report.saved],
        "routing": None if report.routing is None else _routing(report.routing),
    }


def as_csv(report: Report) -> str:
    """Return the lines as CSV, or what each target did where routing was asked for; without totals."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if report.routing is not None:
        writer.writerow(["target", "requests", "tokens_in", "tokens_out", "usd"])
        for target, (sums, cost) in report.routing.targets.items():
            row = (target, sums.requests, sums.tokens_in, sums.tokens_out, _usd(cost))
            writer.writerow([_cell(value) for value in row])
        return out.getvalue()
    writer.writerow([report.by, *_COUNTS, "tokens_per_s", "last_used"])
    for key, sums in report.lines:
        counts = (getattr(sums, name) for name in _COUNTS)
        row = (key, *counts, _speed(sums), _iso(sums.last_at))
        writer.writerow([_cell(value) for value in row])
    return out.getvalue()


def money(usd: float | None) -> str:
    """Return USD as people read them: in cents, below a cent in parts of it; `-` where they are not known."""
    if usd is None:
        return "-"
    return f"{usd:,.2f}" if usd == 0 or abs(usd) >= 0.01 else f"{usd:.6f}"


def _cells(key: str, sums: Sums) -> list[str]:
    speed = sums.tokens_per_s
    counts = ("-" if value is None else f"{value:,}" for value in (sums.requests, sums.tokens_in, sums.tokens_out))
    return [key, *counts, "-" if speed is None else f"{speed:,.1f}", _moment(sums.last_at)]


def _saved(saved: Sequence[tuple[Price, float | None]], style: Style) -> list[str]:
    rows = [["SAVED AGAINST", "USD IN", "USD OUT", "PRICE OF", "USD SAVED"]]
    for price, cost in saved:
        rows.append([escape(price.name), money(price.read), money(price.write), _origin(price), money(cost)])
    note = "estimates: what the tokens answered here would have cost there, per million tokens"
    return [*table(rows, style).splitlines(), style.dim(note)]


def _routed(routing: Routing, style: Style) -> list[str]:
    rows = [["TARGET", "REQUESTS", "TOKENS_IN", "TOKENS_OUT", "USD"]]
    for target, (sums, cost) in routing.targets.items():
        rows.append([escape(target), *_cells("", sums)[1:4], money(cost)])
    lines = [*table(rows, style).splitlines(), "", f"cost of the mix: {money(routing.mix)} USD"]
    for price, cost in routing.everything:
        known = cost is not None and routing.mix is not None
        saved = (
            f", saved {money(cost - routing.mix)} USD" if known and cost is not None and routing.mix is not None else ""
        )
        lines.append(f"all to {escape(price.name)} ({_origin(price)}): {money(cost)} USD{saved}")
    unknown = [target for target, (_, cost) in routing.targets.items() if cost is None]
    if unknown:
        names = ", ".join(map(escape, unknown))
        lines.append(style.dim(f"note: no price is known of {names}: declare price_in and price_out there"))
    return lines


def _origin(price: Price) -> str:
    return f"{price.source}, {price.date}" if price.date else price.source


def _numbers(sums: Sums) -> dict[str, Json]:
    counts: dict[str, Json] = {name: getattr(sums, name) for name in _COUNTS}
    return {**counts, "tokens_per_s": _speed(sums), "last_used": _iso(sums.last_at)}


def _routing(routing: Routing) -> Json:
    targets: list[Json] = [
        {"target": target, **_numbers(sums), "usd": _usd(cost)} for target, (sums, cost) in routing.targets.items()
    ]
    every: list[Json] = []
    for price, cost in routing.everything:
        saved = None if cost is None or routing.mix is None else _usd(cost - routing.mix)
        every.append({**_price(price), "usd": _usd(cost), "saved_usd": saved})
    return {"targets": targets, "mix_usd": _usd(routing.mix), "everything": every}


def _price(price: Price) -> dict[str, Json]:
    return {
        "name": price.name,
        "price_in": price.read,
        "price_out": price.write,
        "source": price.source,
        "date": price.date or None,
    }


def _speed(sums: Sums) -> float | None:
    return None if sums.tokens_per_s is None else round(sums.tokens_per_s, 2)


def _usd(cost: float | None) -> float | None:
    return None if cost is None else round(cost, 6)


def _cell(value: str | float | None) -> str:
    shown = "" if value is None else str(value)
    return f"'{shown}" if isinstance(value, str) and shown.startswith(_FORMULA) else shown


def _moment(at: float | None) -> str:
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def _iso(at: float | None) -> str | None:
    if at is None:
        return None
    zone = time.strftime("%z", time.localtime(at))
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(at)) + f"{zone[:3]}:{zone[3:]}"
