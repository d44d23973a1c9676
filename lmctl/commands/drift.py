"""`lmctl drift`: what is not as declared, who moved, and what mends it. Executes nothing and reads no weights."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import datetime

from lmctl.acting import remarks, standing, writing
from lmctl.command import Context
from lmctl.comparing import Found, look
from lmctl.drift import log
from lmctl.drift.log import Known
from lmctl.drift.records import Drift, Field
from lmctl.errors import CHANGES, DONE, EXIT_CODES, escape
from lmctl.mutex import exclusive
from lmctl.progress import Reporter
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import Json
from lmctl.text import Style, human_id, human_time, table

_MOVED = {"file": "your file", "world": "the world", "both": "both", None: "not known"}
_HEADER = ["CLASS", "ADDRESS", "MOVED", "WHAT", "SINCE", "MENDED BY"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--record", action="store_true", help="remember it in the ledger, once for each drift")
    parser.add_argument("--wait", action="store_true", help="with --record: wait for another lmctl")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Compare; exit 2 for any drift, 0 for none, and where not everything could be compared, why."""
    current, problems = standing(context)
    current.refuse_foreign_name()
    with _recording(context, current, args.wait) if args.record else nullcontext():
        found = look(current, problems)
        if args.record:
            now = found.case.world.now
            with current.ledger.writing(now) as ledger:
                log.note(ledger, found.drifts, now, whole=not found.problems)
    known = log.known(current.ledger)
    warnings = (*remarks(found.case.world.memory), *current.ledger.notices)
    blind = found.problems if not found.drifts else ()  # what was not looked at may drift: never exit 0
    code = CHANGES if found.drifts else EXIT_CODES[blind[0].code] if blind else DONE
    data: dict[str, Json] = {
        "name": current.declaration.name,
        "complete": not found.problems,
        "drift": [_plain(drift, known.get(drift.fingerprint)) for drift in found.drifts],
    }
    warnings += found.problems if not blind else ()
    return Result(data, lambda style: _text(found, known, style), warnings, blind, code)


@contextmanager
def _recording(context: Context, current: Session, wait: bool) -> Iterator[None]:
    """Hold off every apply: what is under way is no drift. Raises as `mutex.exclusive`."""
    with (
        Reporter(context) as reporter,
        exclusive(current.turn, "lmctl drift", wait=wait, say=reporter.say),
        writing(context, current, "lmctl drift", wait=wait),
    ):
        yield


def _plain(drift: Drift, known: Known | None) -> Json:
    fields: list[Json] = [
        {"field": row.name, "desired": row.desired, "applied": row.applied, "observed": row.observed}
        for row in drift.fields
    ]
    return {
        "class": drift.kind,
        "address": drift.address,
        "moved": drift.moved,
        "fields": fields,
        "mend": drift.mend,
        "fingerprint": drift.fingerprint,
        "first_seen": _date(known.first_seen) if known else None,
        "last_seen": _date(known.last_seen) if known else None,
        "count": known.count if known else 0,
    }


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _text(found: Found, known: Mapping[str, Known], style: Style) -> str:
    name = found.case.declaration.name
    part = " as far as it could be looked at" if found.problems else ""
    if not found.drifts:
        return style.green("No drift.") + f" {name} is as declared{part}.\n"
    rows = [_HEADER, *(_cells(drift, known.get(drift.fingerprint), found.case.world.now) for drift in found.drifts)]
    if not any(row[4] for row in rows[1:]):
        rows = [row[:4] + row[5:] for row in rows]
    count = f"{len(found.drifts)} drift{'s' * (len(found.drifts) != 1)}"
    return f"{table(rows, style)}\n{style.bold(count)} of {name}{part}.\n"


def _cells(drift: Drift, known: Known | None, now: float) -> list[str]:
    since = f"{human_time(max(0.0, now - known.first_seen))} ({known.count}x)" if known else ""
    what = "; ".join(_told(row, drift) for row in drift.fields)
    return [drift.kind, escape(human_id(drift.address)), _MOVED[drift.moved], what, since, escape(drift.mend)]


def _told(row: Field, drift: Drift) -> str:
    words = f"{escape(row.name)}: {_word(row.observed)} instead of {_word(row.desired)}"
    return f"{words} (applied: {_word(row.applied)})" if drift.moved == "both" else words


def _word(value: Json) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return escape(str(value), 60)
