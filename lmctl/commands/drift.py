"""`lmctl drift`: what is not as declared, who moved, and what mends it. Executes nothing and reads no weights."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from datetime import datetime

from lmctl import condition, desired
from lmctl.acting import remarks, standing, writing
from lmctl.command import Context
from lmctl.drift import log
from lmctl.drift.compare import compare
from lmctl.drift.log import Known
from lmctl.drift.records import Drift, Field, Seen
from lmctl.errors import CHANGES, DONE, EXIT_CODES, LmctlError, Problem, escape
from lmctl.mutex import exclusive
from lmctl.progress import Reporter
from lmctl.record import record, replace
from lmctl.resource import Case, Scope
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import Json, Lock
from lmctl.text import Style, human_id, human_time, table

_MOVED = {"file": "your file", "world": "the world", "both": "both", None: "not known"}
_HEADER = ["CLASS", "ADDRESS", "MOVED", "WHAT", "SINCE", "MENDED BY"]


@record
class Found:
    """What was compared. `problems` is why not everything could be."""

    case: Case
    drifts: tuple[Drift, ...]
    problems: tuple[Problem, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--record", action="store_true", help="remember it in the ledger, once for each drift")
    parser.add_argument("--wait", action="store_true", help="with --record: wait for another lmctl")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Compare; exit 2 for any drift, 0 for none, and where not everything could be compared, why."""
    current, problems = standing(context)
    current.refuse_foreign_name()
    with _recording(context, current, args.wait) if args.record else nullcontext():
        found = _found(current, problems)
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


def _found(current: Session, problems: tuple[Problem, ...]) -> Found:
    """Look and compare; where configuration or lock cannot be read, what was applied stands for what is declared."""
    scope, lock = Scope(), None
    try:
        lock = current.lock()
    except LmctlError as error:
        problems = (*problems, *error.problems[:1])
        current = replace(current, declaration=replace(current.declaration, profiles=()))
    case = current.look(scope, Lock() if lock is None else lock)
    return Found(case, compare(case, _seen(case, current, declared=not problems)), problems)


def _seen(case: Case, current: Session, *, declared: bool) -> Seen:
    """Ask every program of ours how it is, and who listens where one should run and does not."""
    processes = current.host.processes
    names = sorted({spec.profile for spec in case.world.daemon.specs.values()})
    with ThreadPoolExecutor(max_workers=16) as pool:
        tries = {name: pool.submit(condition.of, name, case, processes.probe) for name in names}
        conditions = {name: each.result() for name, each in tries.items()}
    ready = desired.programs(case).ready if declared else {}
    alive = {name for name, found in conditions.items() if found.pid is not None}
    down = {name: want.spec.listen for name, want in ready.items() if want.runs and name not in alive}
    listeners = {name: _stranger(listen, case, current) for name, listen in down.items()}
    return Seen(conditions, {name: who for name, who in listeners.items() if who is not None}, declared)


def _stranger(listen: str, case: Case, current: Session) -> str | None:
    """Return the command of who listens on an address and is no program of this declaration's."""
    processes, daemon = current.host.processes, case.world.daemon
    listener = processes.listener(int(listen.rpartition(":")[2]))
    if listener is None:
        return None
    ours = {*daemon.orphans.values(), *daemon.unseen.values()}
    ours |= {process.pid for process in daemon.processes.values() if process.pid}
    if listener.pid and processes.root(listener.pid, ours) is not None:
        return None
    return escape(listener.command, 60) if listener.pid else "another user's process"


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
