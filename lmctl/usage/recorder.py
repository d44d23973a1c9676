"""Writes rows to usage.db in a thread of its own: whoever adds one waits for nothing and hears of no failure."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread

from lmctl.database import failure, open_writable
from lmctl.errors import LmctlError, escape
from lmctl.paths import disk_error
from lmctl.usage import database
from lmctl.usage.rows import Row, Value, values

_PAUSE = 0.5  # seconds between two writes: a kill loses at most what came since the last one
_LONGEST = 30.0  # seconds between two tries while nothing can be written
_BATCH = 512  # rows of one transaction
_SLICE = 64  # rows after which the threads that answer requests get their turn
_PATIENCE = 1.0  # seconds to wait for another writer
_HOUR = 3600.0
_LAST = 5.0  # seconds that `close` waits


def _unheard(text: str) -> None:
    """Tell nobody."""


class Recorder:
    """Counts requests in the usage.db at `path`, each row by itself for `keep` seconds.

    What cannot be written waits, up to `bound` rows; more are dropped, and `dropped` counts them. `say` hears once why
    nothing is written, and once that it goes on; it is called from the thread. The file is made with the first row.
    """

    def __init__(
        self,
        path: Path,
        keep: float,
        *,
        say: Callable[[str], None] = _unheard,
        clock: Callable[[], float] = time.time,
        bound: int = 50_000,
    ) -> None:
        self.dropped = 0
        self._path, self._say, self._clock, self._bound = path, say, clock, bound
        self.keep = keep  # seconds; may be changed at any time
        self._waiting: deque[Row] = deque()
        self._batch: list[tuple[Value, ...]] = []  # taken from what waits, not yet written
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # device and inode of what is open
        self._made = False
        self._rolled: float | None = None  # when, by the monotonic clock
        self._told, self._lost = "", 0
        self._ending = Event()
        self._thread = Thread(target=self._work, name="usage", daemon=True)
        self._thread.start()

    def add(self, row: Row) -> None:
        """Count a request; returns at once and raises nothing."""
        if len(self._waiting) < self._bound:
            self._waiting.append(row)
        else:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits and close the file; what cannot be written within a few seconds is lost, and said."""
        self._ending.set()
        self._thread.join(_LAST)

    def _work(self) -> None:
        pause = _PAUSE
        while not self._ending.wait(pause):
            pause = _PAUSE if self._all() else min(_LONGEST, pause * 2)
        self._all()
        left = len(self._waiting) + len(self._batch)
        if left:
            self.dropped += left
            self._tell(f"{left} requests are not counted")
        self._shut()

    def _all(self) -> bool:
        """Write all that waits; return whether nothing went wrong."""
        while done := self._turn():
            if not self._waiting:
                break
        return done

    def _turn(self) -> bool:
        """Write some of what waits and, once an hour, make days of what is old; return whether nothing went wrong."""
        try:
            self._take()
            due = self._due()
            if self._batch or due:
                self._write(due)
        except (LmctlError, sqlite3.Error, OSError) as error:
            self._shut()
            self._tell(f"requests are not counted for now: {_why(self._path, error)}")
            return False
        self._tell("")
        return True

    def _due(self) -> bool:
        """Whether an hour passed since days were made; where there is no file, there is nothing to make them of."""
        if self._rolled is not None and time.monotonic() - self._rolled < _HOUR:
            return False
        return self._path.exists()

    def _take(self) -> None:
        while len(self._batch) < _BATCH and self._waiting:
            row = self._waiting.popleft()
            try:
                self._batch.append(values(row))
            except Exception:  # one odd row must not keep the others from being counted
                self.dropped += 1
            if len(self._batch) % _SLICE == 0:
                time.sleep(0)

    def _write(self, due: bool) -> None:
        db = self._opened()
        db.execute("BEGIN IMMEDIATE")
        database.add(db, self._batch)
        if due:
            database.roll_up(db, self._clock(), self.keep)
        db.execute("COMMIT")
        self._batch.clear()
        if due:
            self._rolled = time.monotonic()

    def _opened(self) -> sqlite3.Connection:
        """Return the connection, a new one where the file was replaced or removed. Raises as `open_writable`."""
        if self._db is not None and self._file == _number(self._path):
            return self._db
        self._shut()
        folder = self._path.parent
        if self._made and not folder.is_dir():  # who removes all that lmctl keeps does not want it back
            raise LmctlError("E-STATE", f"{escape(str(folder))} was removed", fix="start it again if it was not meant")
        lost = _lost(self._path, made=self._made)
        db, notice = open_writable(self._path, database.LAYOUT, _PATIENCE, self._clock())
        self._db, self._file, self._made = db, _number(self._path), True
        db.execute("COMMIT")
        db.execute("PRAGMA synchronous=NORMAL")  # a kill loses nothing that way, a power cut some seconds
        if lost or notice is not None:
            self._say(f"requests are counted anew: {lost or (notice and notice.what)}")
        return db

    def _shut(self) -> None:
        if self._db is not None:
            with suppress(sqlite3.Error):
                self._db.close()
        self._db = self._file = None

    def _tell(self, text: str) -> None:
        """Say what is wrong when it is something else than before, and that it is over."""
        if text == self._told:
            return
        missed = self.dropped - self._lost
        if text:
            self._say(text)
        else:
            self._say(f"requests are counted again; {missed} were lost" if missed else "requests are counted again")
            self._lost = self.dropped
        self._told = text


def _lost(path: Path, *, made: bool) -> str:
    """Return in words that what was counted is gone, empty where it is there or never was."""
    there = path.exists()
    if there and path.stat().st_size == 0:
        return f"{escape(str(path))} was empty, what it held is lost"
    return f"{escape(str(path))} was removed, and with it what was counted" if made and not there else ""


def _why(path: Path, error: LmctlError | sqlite3.Error | OSError) -> str:
    if isinstance(error, sqlite3.Error):
        error = failure(path, error)
    return error.problems[0].what if isinstance(error, LmctlError) else str(disk_error(path, error).problems[0].what)


def _number(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116 as often as rows are written
    except OSError:
        return None
    return found.st_dev, found.st_ino
