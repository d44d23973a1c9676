"""What lmctl itself created or verified, and what it was told to hold: ownership, never the truth about the world.

Losing the file loses the right to prune and the reasons that plans give; nothing else.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lmctl.database import failure, full, newer, open_writable
from lmctl.errors import LmctlError, Problem, escape
from lmctl.ledger_file import LAYOUT
from lmctl.ledger_reading import reading
from lmctl.record import NOTHING, record, replace
from lmctl.spec import Json, Signature

ROLLED_BACK = "rolled-back"  # the reason of a hold that stops nothing: it keeps everybody but a person from applying
_OWNED = """
SELECT path, kind, artifact, size, mtime_ns, inode, device, sha256, verified_at, acquired_at, protect,
  unreferenced_since FROM owned ORDER BY path
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
    rolled_back: frozenset[str] = frozenset()  # profiles that a rollback touched, until a person applies
    in_force: int | None = None  # the generation that a rollback brought back, until a person applies
    problem: Problem | None = None  # why it may be less than was written
    held_since: Mapping[str, float] = NOTHING  # when each hold of `holds` was recorded, in seconds since the epoch


class Ledger:
    """One declaration's ledger.db. Reading writes nothing.

    Whoever writes holds the declaration's lock, but for rows of files that were verified: those come while bytes do.
    """

    def __init__(self, path: Path, patience: float = 10.0) -> None:
        self.path = path
        self.patience = patience  # seconds to wait for another writer
        self.notices: list[Problem] = []  # what had to be done to be able to write
        self._made = False  # by this run: a folder that goes away then stays away

    def read(self) -> Memory:
        """Return what is remembered, as far as it can be read; its `problem` tells why that may be too little."""
        if not self._written():
            return Memory(problem=self._lost())
        problem = None

        def ask(db: sqlite3.Connection) -> Memory:
            nonlocal problem
            problem = newer(db, self.path, LAYOUT)
            return _memory(db)

        try:
            found = reading(self.path, ask)
        except (sqlite3.DatabaseError, ValueError) as error:
            what = f"{escape(str(self.path))} cannot be read: {escape(str(error))}"
            mended = "free some space" if full(self.path) else "apply puts it aside and begins a new one"
            return Memory(problem=problem or Problem("E-STATE", what, f"{mended}; what runs is not touched"))
        return replace(found, problem=problem)

    def rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Return the answer to a query, nothing where there is no ledger. Raises E-STATE when it cannot be read."""
        if not self._written():
            return []
        try:
            return reading(self.path, lambda db: db.execute(query, values).fetchall())
        except sqlite3.DatabaseError as error:
            raise failure(self.path, error) from error

    def refuse_newer(self) -> None:
        """Raise E-STATE when a newer lmctl wrote it: then nothing may be changed."""
        with suppress(sqlite3.DatabaseError):
            if self._written():
                problem = reading(self.path, lambda db: newer(db, self.path, LAYOUT))
                if problem is not None:
                    raise LmctlError.of([problem])

    def _written(self) -> bool:
        return self.path.exists() and self.path.stat().st_size > 0

    def _lost(self) -> Problem | None:
        """Return that it is gone, where what is kept beside it tells that it has been there."""
        if not any((self.path.parent / "snapshots").glob("[0-9]*")):
            return None
        what = f"{escape(str(self.path))} is gone or empty: what lmctl brought does not count as its own any more"
        return Problem("E-STATE", what, "apply begins a new one; what runs is not touched")

    @contextmanager
    def writing(self, now: float) -> Iterator[Writer]:
        """Open for writing, in one transaction. What cannot be used is moved aside first, and `notices` says so.

        Raises E-STATE when the file is of a newer lmctl, and what the disk refuses as E-SPACE, E-PERM, E-IO or E-STATE.
        """
        if self._made and not self.path.parent.is_dir():
            what = f"{escape(str(self.path.parent))} was removed meanwhile"
            raise LmctlError("E-STATE", what, fix="run it again if that was not meant")
        db, notice = open_writable(self.path, LAYOUT, self.patience, now)
        self._made = True
        if notice is not None:
            self.notices.append(notice)
        try:
            yield Writer(db)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise failure(self.path, error) from error
        finally:
            db.close()


class Writer:
    """The writes of one transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def run(self, query: str, *values: Any) -> sqlite3.Cursor:
        """Run one statement."""
        return self._db.execute(query, values)

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
        """Keep a profile from being started until `lift`; what a rollback made of it is remembered beside that."""
        self.confirm(profile)
        self.lift(profile)
        self._db.execute("INSERT OR REPLACE INTO hold VALUES (?,?,?)", (profile, reason, since))

    def lift(self, profile: str) -> None:
        """Let a profile run again; what keeps it as a rollback left it stays."""
        self._db.execute("DELETE FROM hold WHERE profile=? AND reason<>?", (profile, ROLLED_BACK))

    def roll_back(self, generation: int, profiles: Iterable[str], since: float) -> None:
        """Remember that an earlier generation is in force, and which profiles that concerns, until `resume`."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('in_force', ?)", (str(generation),))
        rows = [(profile, ROLLED_BACK, since) for profile in profiles]
        self._db.executemany("INSERT OR REPLACE INTO hold VALUES (?,?,?)", rows)

    def resume(self, profiles: Iterable[str] | None) -> None:
        """Take profiles, None: all, from a rollback back to what is declared; after the last none is in force."""
        if profiles is None:
            self._db.execute("DELETE FROM hold WHERE reason=?", (ROLLED_BACK,))
        else:
            rows = [(profile, ROLLED_BACK) for profile in profiles]
            self._db.executemany("DELETE FROM hold WHERE profile=? AND reason=?", rows)
        left = self._db.execute("SELECT count(*) FROM hold WHERE reason=?", (ROLLED_BACK,)).fetchone()[0]
        if not left:
            self._db.execute("DELETE FROM meta WHERE key='in_force'")

    def port(self, profile: str, listen: str | None) -> None:
        """Keep the address of a profile that declares no port, or (None) let it go."""
        self._db.execute("DELETE FROM port WHERE profile=?", (profile,))
        if listen is not None:
            self._db.execute("INSERT INTO port VALUES (?,?)", (profile, listen))


def _memory(db: sqlite3.Connection) -> Memory:
    # columns by their names: a newer lmctl may have added some
    owned = tuple(
        Owned(r[0], r[1], r[2], Signature(r[3], r[4], r[5], r[6]), r[7], r[8], r[9], bool(r[10]), r[11])
        for r in db.execute(_OWNED)
    )
    applied = {r[0]: Applied(json.loads(r[1]), r[2]) for r in db.execute("SELECT address, fields, hash FROM applied")}
    held = db.execute("SELECT profile, reason, since FROM hold").fetchall()
    ports: dict[str, str] = dict(db.execute("SELECT profile, listen FROM port").fetchall())
    return Memory(
        owned=owned,
        applied=applied,
        holds={profile: reason for profile, reason, _ in held if reason != ROLLED_BACK},
        held_since={profile: since for profile, reason, since in held if reason != ROLLED_BACK},
        ports=ports,
        unconfirmed=frozenset(row[0] for row in db.execute("SELECT profile FROM unconfirmed")),
        rolled_back=frozenset(profile for profile, reason, _ in held if reason == ROLLED_BACK),
        in_force=_in_force(db),
    )


def _in_force(db: sqlite3.Connection) -> int | None:
    if db.execute("PRAGMA user_version").fetchone()[0] < 2:  # before there was a rollback
        return None
    row = db.execute("SELECT value FROM meta WHERE key='in_force'").fetchone()
    return int(row[0]) if row else None


def _row(owned: Owned) -> tuple[str | int | float | None, ...]:
    s = owned.signature
    head = (owned.path, owned.kind, owned.artifact, s.size, s.mtime_ns, s.inode, s.device, owned.sha256)
    return (*head, owned.verified_at, owned.acquired_at, int(owned.protect), owned.unreferenced_since)
