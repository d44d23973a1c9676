"""What a watcher tells everybody else: a small file in the state folder, which counts as long as its lock is held."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lmctl.errors import LmctlError, Place, Problem, escape
from lmctl.mutex import holder
from lmctl.paths import read_regular, write_atomic
from lmctl.record import record, replace
from lmctl.spec import Json

LOCK, FILE = "watch.lock", "watch.json"
_LIMIT = 1 << 16  # bytes of the file
_MOST = 16  # problems that are told
_LONGEST = 500  # characters of one
_LAST = 1e11  # seconds since the epoch: the year 5138


@record
class Report:
    """Who watches since when, when it looked last (seconds since the epoch), and what is in its way.

    What is not known is None: whoever began to watch just now has not written it.
    """

    pid: int | None = None
    since: float | None = None
    looked: float | None = None
    problems: tuple[Problem, ...] = ()

    def json(self) -> dict[str, Json]:
        problems: list[Json] = [
            {"code": one.code, "what": one.what, "fix": one.fix, "place": str(one.place) if one.place else None}
            for one in self.problems
        ]
        return {"pid": self.pid, "since": self.since, "looked": self.looked, "problems": problems}


def write(state: Path, report: Report) -> None:
    """Leave the report in the state folder. Raises as `write_atomic`."""
    problems = tuple(map(_short, report.problems[:_MOST]))
    write_atomic(state / FILE, json.dumps(replace(report, problems=problems).json()).encode())


def read(state: Path) -> Report | None:
    """Return the report of who watches now; None when nobody does."""
    if holder(state / LOCK) is None:
        return None
    with suppress(LmctlError, ValueError, KeyError, TypeError, RecursionError):
        found = json.loads(read_regular(state / FILE, _LIMIT))
        since, looked = (_time(found[name]) for name in ("since", "looked"))
        return Report(int(found["pid"]), since, looked, tuple(map(_problem, found["problems"])))
    return Report()


def _short(problem: Problem) -> Problem:
    """Return the first line of a problem."""
    what = problem.what.partition("\n")[0]
    return replace(problem, what=escape(what, _LONGEST), fix=problem.fix and escape(problem.fix, _LONGEST))


def _time(value: object) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or not 0 <= value < _LAST:
        raise ValueError("no time that a calendar has")
    return float(value)


def _problem(found: Mapping[str, object]) -> Problem:
    code, what, fix, place = (found[name] for name in ("code", "what", "fix", "place"))
    return Problem(
        escape(str(code), 40),
        escape(str(what), _LONGEST),
        None if fix is None else escape(str(fix), _LONGEST),
        None if place is None else Place(escape(str(place))),
    )
