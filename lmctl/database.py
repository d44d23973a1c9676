"""A file of SQLite that is lmctl's own: made, brought to today's schema, and replaced when it cannot be used."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from lmctl.errors import LmctlError, Problem, escape
from lmctl.paths import disk_error, make_private, room
from lmctl.record import NOTHING, record

_SUFFIXES = ("-wal", "-shm")
_ROOM = 128 << 10  # bytes that one more apply needs: the log, its index, and some pages
# of sqlite's own codes: somebody keeps it locked; it may not be written or opened
_LOCKED = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_UNUSABLE = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
_WITHOUT_ROOM = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}  # a log or an index that cannot be made says so


@record
class Layout:
    """What a database holds. `steps` leads from a schema to the next one; `since` is the first lmctl that knows it."""

    schema: int
    since: str  # an older lmctl names it when it meets the file
    tables: str
    steps: Mapping[int, str] = NOTHING
    until: str = "nothing is changed here"  # what a newer lmctl's file means until this one is upgraded
    asks: tuple[str, ...] = ()  # queries that fail where the file is another program's
    shared: bool = False  # several write it and hold no lock of lmctl's: who keeps it locked is waited for


def open_writable(
    path: Path, layout: Layout, patience: float, now: float, *, check: bool = True
) -> tuple[sqlite3.Connection, Problem | None]:
    """Return a connection with a transaction begun, and what had to be done to have it.

    One that is broken, kept locked for `patience` seconds by somebody else or not ours to write is moved aside to
    `<name>.corrupt-<now>`; the new one holds what of it could still be read. An older schema is upgraded, the file
    as it was is kept as `<name>.schema-<number>`. `check` reads all of it, which takes long where it is large. Raises
    E-STATE for a newer schema, for one that is kept locked and `shared`, and what the disk refuses as E-SPACE, E-PERM,
    E-IO or E-STATE.
    """
    make_private(path.parent)
    _make_writable(path)
    try:
        return _begun(path, layout, patience, check), None
    except sqlite3.DatabaseError as error:
        if not path.is_file() or not _replaceable(error, layout) or full(path):
            raise failure(path, error) from error
        why, foreign = str(error), isinstance(error, _Foreign)
    try:
        aside = _replace(path, now, salvage=not foreign)
        db = _begun(path, layout, patience, check)
    except sqlite3.Error as error:
        raise failure(path, error) from error
    except OSError as error:
        raise disk_error(path, error) from error
    what = f"{escape(str(path))} could not be used ({escape(why)}): it is put aside as {escape(aside.name)}"
    return db, Problem("E-STATE", what, fix="nothing else is lost; remove that file when you do not need it")


def failure(path: Path, error: sqlite3.Error) -> LmctlError:
    """Return the error that a failed use of a database is reported as."""
    shown = f"{escape(str(path))}: {escape(str(error))}"
    code = _primary(error)
    if code == sqlite3.SQLITE_FULL or (code in _WITHOUT_ROOM and full(path)):
        why = f"the disk is full{room(path, _ROOM if full(path) else None)}"
        return LmctlError("E-SPACE", f"{escape(str(path))}: {why}", fix="free some space and run it again")
    if code == sqlite3.SQLITE_IOERR:
        return LmctlError("E-IO", shown, fix="check the disk")
    return LmctlError("E-STATE", shown, fix="check the disk and the folder's permissions")


def newer(db: sqlite3.Connection, path: Path, layout: Layout) -> Problem | None:
    """Return what is wrong with a file that a newer lmctl wrote, None for every other."""
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found <= layout.schema:
        return None
    with contextlib.suppress(sqlite3.Error):
        row = db.execute("SELECT value FROM meta WHERE key='needs'").fetchone()
        if row is not None:
            what = f"{escape(str(path))} was written by lmctl >= {escape(str(row[0]), 20)}"
            return Problem("E-STATE", what, fix=f"upgrade lmctl; until then {layout.until}")
    what = f"{escape(str(path))} was written by a newer lmctl (schema {found}, this one knows {layout.schema})"
    return Problem("E-STATE", what, fix=f"upgrade lmctl; until then {layout.until}")


def full(path: Path) -> bool:
    """Return whether there is no room for one more apply beside `path`; then what sqlite says is no sign of damage."""
    try:
        held = os.statvfs(path.parent)
    except OSError:
        return False
    return held.f_bavail * held.f_frsize < _ROOM or bool(held.f_files and not held.f_favail)


def _primary(error: sqlite3.Error) -> int:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    return (code or 0) & 0xFF  # without what makes a code an extended one


def _replaceable(error: sqlite3.DatabaseError, layout: Layout) -> bool:
    if layout.shared and _primary(error) in _LOCKED:
        return False
    return _primary(error) in {*_LOCKED, *_UNUSABLE, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _make_writable(path: Path) -> None:
    """Make the file, or give one of ours its own mode back. Raises E-SPACE, E-PERM or E-IO."""
    try:
        path.touch(mode=0o600)
        if path.is_file() and not os.access(path, os.R_OK | os.W_OK):
            path.chmod(0o600)
    except OSError as error:
        if not (isinstance(error, PermissionError) and path.is_file()):  # sqlite says what cannot be done with it
            raise disk_error(path, error) from error


def _begun(path: Path, layout: Layout, patience: float, check: bool) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=patience, isolation_level=None)
    try:
        problem = newer(db, path, layout)
        if problem is not None:
            raise LmctlError.of([problem])
        _refuse_foreign(db, layout)
        db.execute("PRAGMA journal_mode=WAL")
        _bring_up(db, path, layout)
        checked = db.execute("PRAGMA quick_check(1)").fetchone()[0] if check else "ok"
        if checked != "ok":
            raise _corrupt(checked)
        db.execute("BEGIN IMMEDIATE")
    except BaseException:
        db.close()
        raise
    return db


class _Foreign(sqlite3.DatabaseError):
    """A sound database of another program."""


def _refuse_foreign(db: sqlite3.Connection, layout: Layout) -> None:
    # at once: somebody else may be making it
    found, tables = db.execute(
        "SELECT user_version, (SELECT count(*) FROM sqlite_master) FROM pragma_user_version"
    ).fetchone()
    if tables and not found:
        raise _corrupt("it holds other tables", _Foreign)
    for query in layout.asks if found == layout.schema else ():
        try:
            db.execute(query)
        except sqlite3.OperationalError as error:
            if _primary(error) == sqlite3.SQLITE_ERROR:
                raise _corrupt(f"it holds other tables: {error}", _Foreign) from error
            raise


def _corrupt(why: str, kind: type[sqlite3.DatabaseError] = sqlite3.DatabaseError) -> sqlite3.DatabaseError:
    error = kind(why)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _bring_up(db: sqlite3.Connection, path: Path, layout: Layout) -> None:
    """Make the tables, or bring them from an older schema to today's; both in one transaction."""
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found == layout.schema:
        return
    if found:
        _copy(db, path.with_name(f"{path.name}.schema-{found}"))
    db.execute("BEGIN IMMEDIATE")
    if db.execute("PRAGMA user_version").fetchone()[0] != found:  # somebody else was faster
        db.execute("COMMIT")
        return
    if not found and db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise _corrupt("it holds other tables", _Foreign)
    for text in (
        "" if found else layout.tables,
        *(layout.steps[number] for number in range(found or 1, layout.schema)),
    ):
        for statement in filter(str.strip, text.split(";")):
            db.execute(statement)
    db.execute("INSERT OR REPLACE INTO meta VALUES ('needs', ?)", (layout.since,))
    db.execute(f"PRAGMA user_version={layout.schema}")
    db.execute("COMMIT")


def _copy(db: sqlite3.Connection, target: Path) -> None:
    """Write all that `db` holds into a file of its own, whole or not at all."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    try:
        with contextlib.closing(sqlite3.connect(temporary, isolation_level=None)) as copy:
            db.backup(copy)
            copy.execute("PRAGMA journal_mode=DELETE")
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _replace(path: Path, now: float, *, salvage: bool) -> Path:
    """Move a database aside, and with `salvage` put a copy in its place where it can still be read; return where it is.

    Whoever holds the old file open goes on with the old file: what lies beside a database moves with it, and sqlite
    leaves files alone whose database has moved.
    """
    number = int(now)
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    copy = path.with_name(f"{path.name}.copy")
    copied = salvage and _salvaged(path, copy)
    if copied:
        os.link(path, aside)
    else:
        path.rename(aside)
    for suffix in _SUFFIXES:
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    if copied:
        copy.replace(path)
    path.touch(mode=0o600)
    return aside


def _salvaged(path: Path, copy: Path) -> bool:
    """Copy a database that is sound but cannot be written; return whether that was possible."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)) as db:
            if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return False
            _copy(db, copy)
    except (sqlite3.Error, OSError):
        return False
    return True
