"""What usage.db says of a time, added up by whatever is asked for; reading writes nothing."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path

from lmctl.database import failure, newer
from lmctl.errors import LmctlError
from lmctl.ledger_reading import reading
from lmctl.record import fields, record
from lmctl.usage.database import LAYOUT, LOCAL_DAY, SUMS
from lmctl.usage.rows import LOCAL

Key = tuple[str, ...]  # one value per name that was asked for; "" where a request has none
_KEYS = {"day": LOCAL_DAY, **{name: f"ifnull({name}, '')" for name in ("profile", "model", "target", "client")}}


@record
class Sums:
    """Whole numbers over some requests; None: nobody told. `timed_tokens` were written within `timed_us`."""

    requests: int | None = None
    failed: int | None = None
    partial: int | None = None
    uncounted: int | None = None  # answers without a count of tokens
    tokens_in: int | None = None
    tokens_cached: int | None = None
    tokens_out: int | None = None
    ttft_ms: int | None = None
    duration_ms: int | None = None
    timed_tokens: int | None = None
    timed_us: int | None = None
    metered: int | None = None  # tokens that engines counted themselves: of requests that nobody counted
    last_at: float | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens per second of writing, where both are known."""
        return self.timed_tokens * 1e6 / self.timed_us if self.timed_tokens and self.timed_us else None


def read(path: Path, by: Key, since: float | None = None) -> dict[Key, Sums]:
    """Return the sums since `since`, one for each value of the columns `by`: of day, profile, model, target, client.

    Of days that are sums already, the whole day counts in which `since` lies. Nothing where there is no file. Raises
    E-STATE when it cannot be read.
    """
    if not path.exists() or path.stat().st_size == 0:
        return {}

    def ask(db: sqlite3.Connection) -> dict[Key, Sums]:
        problem = newer(db, path, LAYOUT)
        if problem is not None:
            raise LmctlError.of([problem])
        found = db.execute(_query(by), {"at": since or 0.0, "day": _day(since)}).fetchall()
        return {tuple(row[: len(by)]): Sums(*row[len(by) :]) for row in found}

    try:
        return reading(path, ask)
    except sqlite3.Error as error:
        raise failure(path, error) from error


def first(path: Path) -> float | None:
    """Return when the first request was counted that is remembered, in seconds since the epoch. Raises as `read`."""
    days = [day for (day,) in read(path, ("day",))]
    return time.mktime(time.strptime(min(days), "%Y-%m-%d")) if days else None


def together(sums: Iterable[Sums]) -> Sums:
    """Return the sum of sums."""
    found = list(sums)
    told = {name: [value for one in found if (value := getattr(one, name)) is not None] for name in fields(Sums)}
    last = told.pop("last_at")
    return Sums(
        **{name: sum(values) if values else None for name, values in told.items()}, last_at=max(last, default=None)
    )


def local(sums: dict[Key, Sums]) -> Sums:
    """Return the sum of what was answered here; the last column of the keys is `target`."""
    return together(one for key, one in sums.items() if key[-1] == LOCAL)


def _day(since: float | None) -> str:
    return "" if since is None else time.strftime("%Y-%m-%d", time.localtime(max(since, 0.0)))


def _query(by: Key) -> str:
    """Return the query over both tables; names of columns are ours alone."""
    requests = ", ".join(
        (*(f"{_KEYS[name]} AS {name}" for name in by), *(f"{how} AS {name}" for name, how in SUMS.items()))
    )
    group = f"GROUP BY {', '.join(map(str, range(1, len(by) + 1)))}" if by else ""
    metered = "CASE WHEN requests IS NULL THEN ifnull(tokens_in, 0) + ifnull(tokens_out, 0) END"
    sums = ", ".join(f"sum({name})" for name in (*SUMS, "metered"))
    days = ", ".join((*by, *SUMS, f"{metered} AS metered", "last_at"))
    both = f"SELECT {requests}, NULL AS metered, max(at) AS last_at FROM request WHERE at >= :at {group}"  # noqa: S608
    both += f" UNION ALL SELECT {days} FROM day WHERE day >= :day"  # noqa: S608
    names = ", ".join((*by, sums, "max(last_at)"))
    return f"SELECT {names} FROM ({both}) {group} ORDER BY 1"  # noqa: S608
