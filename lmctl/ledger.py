"""What lmctl itself created or verified, and what it was told to hold: ownership, never the truth about the world.

Losing the file loses the right to prune and the reasons that plans give; nothing else.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lmctl.errors import LmctlError, escape
from lmctl.paths import disk_error, make_private
from lmctl.record import record
from lmctl.spec import Json, Signature

SCHEMA = 1

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
CREATE TABLE unconfirmed (profile TEXT PRIMARY KEY, since REAL NOT NULL);
"""


@record
class Owned:
    """A file whose sha256 lmctl has seen. `kind`: `blob` (brought by lmctl), `link` (the name of one in a
    snapshot), `adopted` (found elsewhere), `local`."""

    path: str
    kind: str
    artifact: str
    signature: Signature
    sha256: str
    verified_at: float
    acquired_at: float
    protect: bool = False
    unreferenced_since: float | None = None


@record
class Applied:
    """The fields of an address as they were last applied, and the hash of the program they gave."""

    fields: Mapping[str, Json]
    hash: str


@record
class Memory:
    """Everything a plan needs from the ledger, read at once."""

    owned: tuple[Owned, ...] = ()
    applied: Mapping[str, Applied] | None = None  # None: the ledger is lost or was never written
    holds: Mapping[str, str] | None = None
    ports: Mapping[str, str] | None = None
    unconfirmed: frozenset[str] = frozenset()  # profiles that lmctl began to start and has not seen healthy


class Ledger:
    """One declaration's ledger.db. Reading writes nothing; whoever writes holds the declaration's lock."""

    def __init__(self, path: Path, patience: float = 10.0) -> None:
        self.path = path
        self.patience = patience  # seconds to wait for another writer

    def read(self) -> Memory:
        """Return what is remembered; nothing where the file is absent or broken. Raises E-STATE for a newer schema."""
        if not self.path.exists() or self.path.stat().st_size == 0:
            return Memory()
        try:
            with self._reading() as db:
                return _memory(db)
        except sqlite3.DatabaseError:
            return Memory()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        # without a -wal file nobody is writing: `immutable` then keeps sqlite from creating one beside a mere read
        quiet = not self.path.with_name(self.path.name + "-wal").exists()
        uri = f"file:{_quoted(self.path)}?{'immutable=1' if quiet else 'mode=ro'}"
        db = sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None)
        try:
            _refuse_newer(db, self.path)
            yield db
        finally:
            db.close()

    @contextmanager
    def writing(self, now: float) -> Iterator[Writer]:
        """Open for writing, in one transaction; a broken file is moved aside first.

        Raises E-STATE when the file is of a newer lmctl or cannot be written.
        """
        make_private(self.path.parent)
        db = self._open(now)
        try:
            db.execute("BEGIN IMMEDIATE")
            yield Writer(db)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            fix = "check the disk and the folder's permissions"
            raise LmctlError("E-STATE", f"{escape(str(self.path))}: {error}", fix=fix) from error
        finally:
            db.close()

    def _open(self, now: float) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                what = f"{escape(str(self.path))} cannot be opened: {error}"
                raise LmctlError("E-STATE", what, fix="check its permissions") from error
            aside = self.path.with_name(f"{self.path.name}.corrupt-{int(now)}")
            self.path.replace(aside)
            for suffix in ("-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        try:
            self.path.touch(mode=0o600)
        except OSError as error:
            raise disk_error(self.path, error) from error
        db = sqlite3.connect(self.path, timeout=self.patience, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            _refuse_newer(db, self.path)
            if db.execute("PRAGMA user_version").fetchone()[0] == 0:
                db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version={SCHEMA}; COMMIT;")
            db.execute("SELECT count(*) FROM owned").fetchone()
        except BaseException:
            db.close()
            raise
        return db


class Writer:
    """The writes of one transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def own(self, rows: Iterable[Owned]) -> None:
        """Record files; the first acquisition's date stays, an earlier `blob` is never demoted to `adopted`."""
        self._db.executemany(
            "INSERT INTO owned VALUES (?,?,?,?,?,?,?,?,?,?,?,?) ON CONFLICT (path) DO UPDATE SET"
            " artifact=excluded.artifact, size=excluded.size,"
            " mtime_ns=excluded.mtime_ns, inode=excluded.inode, device=excluded.device,"
            " sha256=excluded.sha256, verified_at=excluded.verified_at, unreferenced_since=NULL,"
            " protect=max(protect, excluded.protect),"
            # what lmctl brought stays its own only as long as it is that very file
            " kind=CASE WHEN kind='blob' AND size=excluded.size AND mtime_ns=excluded.mtime_ns AND inode=excluded.inode"
            " AND device=excluded.device THEN kind ELSE excluded.kind END",
            [_row(row) for row in rows],
        )

    def forget(self, paths: Iterable[str]) -> None:
        """Drop the rows of files that are gone."""
        self._db.executemany("DELETE FROM owned WHERE path=?", [(path,) for path in paths])

    def protect(self, protect: Mapping[str, bool]) -> None:
        """Set for each path whether it is never pruned."""
        self._db.executemany(
            "UPDATE owned SET protect=? WHERE path=?", [(int(on), path) for path, on in protect.items()]
        )

    def unreferenced(self, since: Mapping[str, float | None]) -> None:
        """Set since when each path is referred to by nobody; None: somebody refers to it."""
        self._db.executemany("UPDATE owned SET unreferenced_since=? WHERE path=?", [(t, p) for p, t in since.items()])

    def applied(self, address: str, applied: Applied | None, generation: int) -> None:
        """Remember what an address was applied as, or (None) that it is gone."""
        self._db.execute("DELETE FROM applied WHERE address=?", (address,))
        if applied is not None:
            row = (address, json.dumps(dict(applied.fields), sort_keys=True), applied.hash, generation)
            self._db.execute("INSERT INTO applied VALUES (?,?,?,?)", row)

    def starting(self, profiles: Iterable[str], since: float) -> None:
        """Remember, before anything stops, what must run afterwards: a killed apply leaves the rest to the next one."""
        self._db.executemany("INSERT OR REPLACE INTO unconfirmed VALUES (?,?)", [(name, since) for name in profiles])

    def confirm(self, profile: str) -> None:
        """Forget that a start is under way: it is healthy, or it is known to have failed."""
        self._db.execute("DELETE FROM unconfirmed WHERE profile=?", (profile,))

    def hold(self, profile: str, reason: str, since: float) -> None:
        """Keep a profile from being started until `lift`."""
        self.confirm(profile)
        self._db.execute("INSERT OR REPLACE INTO hold VALUES (?,?,?)", (profile, reason, since))

    def lift(self, profile: str) -> None:
        self._db.execute("DELETE FROM hold WHERE profile=?", (profile,))

    def port(self, profile: str, listen: str | None) -> None:
        """Keep the address of a profile that declares no port, or (None) let it go."""
        self._db.execute("DELETE FROM port WHERE profile=?", (profile,))
        if listen is not None:
            self._db.execute("INSERT INTO port VALUES (?,?)", (profile, listen))

    def generation(self, at: float, config_hash: str, lock_hash: str, plan: str) -> int:
        """Open a generation; it counts as interrupted until it is closed."""
        values = (at, config_hash, lock_hash, plan, "interrupted")
        cursor = self._db.execute(
            "INSERT INTO generation (at, config_hash, lock_hash, plan, result) VALUES (?,?,?,?,?)", values
        )
        return int(cursor.lastrowid or 0)

    def close_generation(self, generation: int, result: str) -> None:
        self._db.execute("UPDATE generation SET result=? WHERE id=?", (result, generation))


def _memory(db: sqlite3.Connection) -> Memory:
    owned = tuple(
        Owned(r[0], r[1], r[2], Signature(r[3], r[4], r[5], r[6]), r[7], r[8], r[9], bool(r[10]), r[11])
        for r in db.execute("SELECT * FROM owned ORDER BY path")
    )
    applied = {r[0]: Applied(json.loads(r[1]), r[2]) for r in db.execute("SELECT address, fields, hash FROM applied")}
    holds: dict[str, str] = dict(db.execute("SELECT profile, reason FROM hold").fetchall())
    ports: dict[str, str] = dict(db.execute("SELECT profile, listen FROM port").fetchall())
    unconfirmed = frozenset(row[0] for row in db.execute("SELECT profile FROM unconfirmed"))
    return Memory(owned, applied, holds, ports, unconfirmed)


def _row(owned: Owned) -> tuple[str | int | float | None, ...]:
    s = owned.signature
    head = (owned.path, owned.kind, owned.artifact, s.size, s.mtime_ns, s.inode, s.device, owned.sha256)
    return (*head, owned.verified_at, owned.acquired_at, int(owned.protect), owned.unreferenced_since)


def _refuse_newer(db: sqlite3.Connection, path: Path) -> None:
    found = db.execute("PRAGMA user_version").fetchone()[0]
    if found > SCHEMA:
        what = f"{escape(str(path))} was written by a newer lmctl (schema {found}, this one knows {SCHEMA})"
        raise LmctlError("E-STATE", what, fix="upgrade lmctl")


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
