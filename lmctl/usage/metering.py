"""What engines that are asked directly counted since they were last looked at; with the gateway, it counts instead."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

from lmctl.all_backends import BACKENDS
from lmctl.backend import Counters
from lmctl.database import failure, open_writable
from lmctl.errors import LmctlError, Problem
from lmctl.host import Daemon
from lmctl.ledger_reading import reading
from lmctl.record import fields, record
from lmctl.session import Session
from lmctl.spec import Declaration, Process, Profile, ProgramSpec, program_id
from lmctl.usage import database
from lmctl.usage.database import LAYOUT, Metered
from lmctl.usage.rows import LOCAL, model_name

_PATIENCE = 1.0  # seconds to wait for another writer
_STALE = 60.0  # seconds within which a smaller count of the same process is an older answer, not a new beginning


@record
class Meter:
    """What an engine had counted when it was last looked at, and which process of it."""

    pid: int
    at: float  # seconds since the epoch
    counters: Counters


@record
class Look:
    """What an engine answered: `started` is when its process began, in seconds since the epoch."""

    profile: Profile
    pid: int
    started: float | None
    at: float
    counters: Counters


def direct(profile: Profile, spec: ProgramSpec, declaration: Declaration) -> bool:
    """Whether clients ask the engine itself: there is no gateway, or the engine listens where clients look."""
    port = spec.listen.rpartition(":")[2]
    return not declaration.front.enabled or (profile.port is not None and port == str(profile.port))


def uncountable(declaration: Declaration) -> tuple[str, ...]:
    """Return the profiles of which nothing is known without the gateway: their engines have no counters."""
    if declaration.front.enabled:
        return ()
    return tuple(one.name for one in declaration.profiles if BACKENDS[one.backend].METRICS is None)


def since(before: Meter | None, now: Look, counted: float | None) -> Counters | None:
    """Return what an engine counted since `before`; None: nothing that could be counted once. Pure.

    `counted` is when the gateway last counted a request of this profile: what it counted is in the engine's counters
    as well, so a time in which it did counts nothing here.
    """
    if before is not None and (before.pid != now.pid or _fell(before, now)):
        before = None  # it began anew
    begin = now.started if before is None else before.at
    if counted is not None and (begin is None or counted >= begin):
        return None
    if before is None:
        return now.counters
    return Counters(*(new - old for new, old in _pairs(before, now)))


def older(before: Meter | None, now: Look) -> bool:
    """Whether an answer is one from before the last: somebody else looked in between. Pure."""
    same = before is not None and before.pid == now.pid and _fell(before, now)
    return same and before is not None and abs(before.at - now.at) < _STALE


def sample(session: Session, daemon: Daemon | None = None) -> tuple[Problem, ...]:
    """Ask the engines that run and are asked directly, and add what they counted to today; return what kept it.

    Nothing is asked with `[usage] enabled = false`, nothing is written where nothing was counted. Raises nothing.
    """
    if not session.declaration.accounts.enabled or not session.state.is_dir():
        return ()
    try:
        daemon = session.host.supervisor.observe() if daemon is None else daemon
        looks = _looks(session, daemon)
        keep, now = session.declaration.accounts.keep, session.host.now()
        notice = _note(database.path(session.state), looks, keep, now) if looks else None
    except LmctlError as error:
        return error.problems
    return () if notice is None else (notice,)


def _looks(session: Session, daemon: Daemon) -> list[Look]:
    running = [one for one in _running(session.declaration, daemon) if direct(one[0], one[2], session.declaration)]
    at = session.host.now()

    def ask(profile: Profile, process: Process, spec: ProgramSpec) -> Look | None:
        backend = BACKENDS[profile.backend]
        if backend.METRICS is None or process.pid is None:
            return None
        text = session.host.processes.page(spec.listen, backend.METRICS, process.pid)
        counters = backend.counters(text) if text is not None else None
        return Look(profile, process.pid, process.started, at, counters) if counters is not None else None

    with ThreadPoolExecutor(max_workers=16) as pool:
        return [look for look in pool.map(lambda one: ask(*one), running) if look is not None]


def _running(declaration: Declaration, daemon: Daemon) -> Iterable[tuple[Profile, Process, ProgramSpec]]:
    for profile in declaration.profiles:
        process, spec = (found.get(program_id(profile.name)) for found in (daemon.processes, daemon.specs))
        if isinstance(process, Process) and process.running and isinstance(spec, ProgramSpec):
            yield profile, process, spec


def _note(path: Path, looks: list[Look], keep: float, now: float) -> Problem | None:
    """Write what is new; return what had to be done to be able to. Raises as `open_writable`."""
    meters: Mapping[str, Meter] = {}
    with suppress(sqlite3.Error):  # opening it for writing tells why, or mends it
        meters = reading(path, _meters) if path.exists() else {}
    known = {name: meter.counters for name, meter in meters.items()}
    if all(look.counters == known.get(look.profile.name, Counters()) for look in looks):
        return None
    db, notice = open_writable(path, LAYOUT, _PATIENCE, now, check=False)
    try:
        with closing(db):
            meters = _meters(db)  # again: others look at the same engines
            for look in looks:
                _add(db, look, meters.get(look.profile.name))
            database.roll_up(db, now, keep)
            db.execute("COMMIT")
    except sqlite3.Error as error:
        raise failure(path, error) from error
    return notice


def _add(db: sqlite3.Connection, look: Look, before: Meter | None) -> None:
    name = look.profile.name
    if older(before, look):
        return
    query = "SELECT max(at) FROM request WHERE profile = ? AND target = ?"
    counted = since(before, look, db.execute(query, (name, LOCAL)).fetchone()[0])
    if counted is not None and any(_values(counted)):
        database.meter(db, Metered(name, model_name(look.profile), look.profile.backend, look.at, counted))
    row = (name, look.pid, look.at, *_values(look.counters))
    db.execute("INSERT OR REPLACE INTO meter VALUES (?,?,?,?,?,?,?)", row)


def _meters(db: sqlite3.Connection) -> Mapping[str, Meter]:
    rows = db.execute("SELECT profile, pid, at, tokens_in, tokens_cached, tokens_out, us_out FROM meter")
    return {row[0]: Meter(row[1], row[2], Counters(*row[3:])) for row in rows.fetchall()}


def _values(counters: Counters) -> tuple[int, ...]:
    return tuple(getattr(counters, name) for name in fields(Counters))


def _pairs(before: Meter, now: Look) -> list[tuple[int, int]]:
    return list(zip(_values(now.counters), _values(before.counters), strict=True))


def _fell(before: Meter, now: Look) -> bool:
    return any(new < old for new, old in _pairs(before, now))
