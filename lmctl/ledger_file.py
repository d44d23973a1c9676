"""The file of a ledger: made, brought to today's schema, and replaced when it cannot be used."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from lmctl.errors import LmctlError, Problem, escape
from lmctl.paths import disk_error, make_private, room

SCHEMA = 2
SINCE = "0.1.0"  # the first lmctl that knows this schema; an older one names it when it meets the file

_TABLES = """
CREATE TABLE owned (path TEXT PRIMARY KEY, kind TEXT NOT NULL, artifact TEXT NOT NULL, size INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, device INTEGER NOT NULL, sha256 TEXT NOT NULL,
  verified_at REAL NOT NULL, acquired_at REAL NOT NULL, protect INTEGER NOT NULL, unreferenced_since REAL);
CREATE TABLE generation (id INTEGER PRIMARY KEY, at REAL NOT NULL, config_hash TEXT NOT NULL, lock_hash TEXT NOT NULL,
  plan TEXT NOT NULL, result TEXT NOT NULL);
CREATE TABLE applied (address TEXT PRIMARY KEY, fields TEXT NOT NULL, hash TEXT NOT NULL,
  generation INTEGER NOT NULL);
CREATE TABLE drift (fingerprint TEXT PRIMARY KEY, class TEXT NOT NULL, address TEXT NOT NULL, desired TEXT,
  applied TEXT, observed TEXT, first_seen REAL NOT NULL, last_seen REAL NOT NULL, count INTEGER NOT NULL,
  resolved_at REAL);
CREATE TABLE hold (profile TEXT PRIMARY KEY, reason TEXT NOT NULL, since REAL NOT NULL);
CREATE TABLE port (profile TEXT PRIMARY KEY, listen TEXT NOT NULL);
CREATE TABLE unconfirmed (profile TEXT PRIMARY KEY, since REAL NOT NULL)
"""
# what leads from a schema to the next one
_STEPS = {
    1: """
ALTER TABLE generation ADD COLUMN restores INTEGER;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
ALTER TABLE hold RENAME TO earlier;
CREATE TABLE hold (profile TEXT NOT NULL, reason TEXT NOT NULL, since REAL NOT NULL, PRIMARY KEY (profile, reason));
INSERT INTO hold SELECT profile, reason, since FROM earlier;
DROP TABLE earlier
"""
}
_SUFFIXES = ("-wal", "-shm")
_ROOM = 128 << 10  # bytes that one more apply needs: the log, its index, and some pages
# of sqlite's own codes: somebody keeps it locked, or it may not be written or opened
_UNUSABLE = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN}
_WITHOUT_ROOM = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}  # a log or an index that cannot be made says so


def open_writable(path: Path, patience: float, now: float) -> tuple[sqlite3.Connection, Problem | None]:
    """Return a connection with a transaction begun, and what had to be done to have it.

    A ledger that is broken, kept locked for `patience` seconds by somebody else or not ours to write is moved aside to
    `ledger.db.corrupt-<now>`; the new one holds what of it could still be read. An older schema is upgraded, the file
    as it was is kept as `ledger.db.schema-<number>`. Raises E-STATE for a newer schema, and what the disk refuses as
    E-SPACE, E-PERM, E-IO or E-STATE.
    """
    make_private(path.parent)
    _make_writable(path)
    try:
        return _begun(path, patience), None
    except sqlite3.DatabaseError as error:
        if not path.is_file() or not _replaceable(error) or full(path):
            raise failure(path, error) from error
        why = str(error)
    try:
        aside = _replace(path, now)
        db = _begun(path, patience)
    except sqlite3.Error as error:
        raise failure(path, error) from error
    except OSError as error:
        raise disk_error(path, error) from error
    what = f"{escape(str(path))} could not be used ({escape(why)}): it is put aside as {escape(aside.name)}"
    return db, Problem("E-STATE", what, fix="nothing else is lost; remove that file when you do not need it")


def failure(path: Path, error: sqlite3.Error) -> LmctlError:
    """Return the error that a failed use of a ledger is reported as."""
    shown = f"{escape(str(path))}: {escape(str(error))}"
    code = _primary(error)
    if code == sqlite3.SQLITE_FULL or (code in _WITHOUT_ROOM and full(path)):
        why = f"the disk is full{room(path, _ROOM if full(path) else None)}"
        return LmctlError("E-SPACE", f"{escape(str(path))}: {why}", fix="free some space and run it again")
    if code == sqlite3.SQLITE_IOERR:
        return LmctlError("E-IO", shown, fix="check the disk")
    return LmctlError("E-STATE", shown, fix="check the disk and the folder's permissions")


def newer(db: sqlite3.Connection, path: Path) -> Problem | None:
    """Return what is wrong with a ledger that a newer lmctl wrote, None for every other."""
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found <= SCHEMA:
        return None
    with contextlib.suppress(sqlite3.Error):
        row = db.execute("SELECT value FROM meta WHERE key='needs'").fetchone()
        if row is not None:
            what = f"{escape(str(path))} was written by lmctl >= {escape(str(row[0]), 20)}"
            return Problem("E-STATE", what, fix="upgrade lmctl; until then nothing is changed here")
    what = f"{escape(str(path))} was written by a newer lmctl (schema {found}, this one knows {SCHEMA})"
    return Problem("E-STATE", what, fix="upgrade lmctl; until then nothing is changed here")


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


def _replaceable(error: sqlite3.DatabaseError) -> bool:
    return _primary(error) in {*_UNUSABLE, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _make_writable(path: Path) -> None:
    """Make the file, or give one of ours its own mode back. Raises E-SPACE, E-PERM or E-IO."""
    try:
        path.touch(mode=0o600)
        if path.is_file() and not os.access(path, os.R_OK | os.W_OK):
            path.chmod(0o600)
    except OSError as error:
        if not (isinstance(error, PermissionError) and path.is_file()):  # sqlite says what cannot be done with it
            raise disk_error(path, error) from error


def _begun(path: Path, patience: float) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=patience, isolation_level=None)
    try:
        db.execute("PRAGMA journal_mode=WAL")
        problem = newer(db, path)
        if problem is not None:
            raise LmctlError.of([problem])
        _bring_up(db, path)
        (checked,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if checked != "ok":
            raise _corrupt(checked)
        db.execute("BEGIN IMMEDIATE")
    except BaseException:
        db.close()
        raise
    return db


def _corrupt(why: str) -> sqlite3.DatabaseError:
    error = sqlite3.DatabaseError(why)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def _bring_up(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables, or bring them from an older schema to today's; both in one transaction."""
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found == SCHEMA:
        return
    if found:
        _copy(db, path.with_name(f"{path.name}.schema-{found}"))
    db.execute("BEGIN IMMEDIATE")
    for text in ("" if found else _TABLES, *(_STEPS[number] for number in range(found or 1, SCHEMA))):
        for statement in filter(str.strip, text.split(";")):
            db.execute(statement)
    db.execute("INSERT OR REPLACE INTO meta VALUES ('needs', ?)", (SINCE,))
    db.execute(f"PRAGMA user_version={SCHEMA}")
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


def _replace(path: Path, now: float) -> Path:
    """Move a ledger aside, and put a copy of it in its place where it can still be read; return where it is.

    Whoever holds the old file open goes on with the old file: what lies beside a database moves with it, and sqlite
    leaves files alone whose database has moved.
    """
    number = int(now)
    while (aside := path.with_name(f"{path.name}.corrupt-{number}")).exists():
        number += 1
    copy = path.with_name(f"{path.name}.copy")
    copied = _salvaged(path, copy)
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
    """Copy a ledger that is sound but cannot be written; return whether that was possible."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=1)) as db:
            if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return False
            _copy(db, copy)
    except (sqlite3.Error, OSError):
        return False
    return True
