"""Reading a ledger beside whoever writes it: nothing is written, nobody waits, and no half of a write is seen."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from lmctl.record import record
from lmctl.spec import Signature

T = TypeVar("T")
_TRIES, _PAUSE = 20, 0.01  # how often what is written meanwhile is read again, and the seconds in between


@record
class _Seen:
    """The file and the log beside it, as they are at one moment."""

    file: Signature | None
    log: Signature | None

    @property
    def quiet(self) -> bool:
        """Whether nobody has written: there is no log, or the empty one that a full disk leaves."""
        return self.log is None or self.log.size == 0


def reading(path: Path, ask: Callable[[sqlite3.Connection], T]) -> T:
    """Return what `ask` reads, all of it from one state of the file. Raises what `ask` raises.

    Where nobody has written, the file counts as immutable: that keeps sqlite from making a log beside a mere read. It
    takes no lock either, so what it says of a file that was written meanwhile, damage above all, is asked again.
    """
    for _ in range(_TRIES):
        before = _seen(path)
        try:
            found = _asked(path, before, ask)
        except (sqlite3.DatabaseError, ValueError):
            if _seen(path) == before:
                raise
        else:
            if not before.quiet or _seen(path) == before:
                return found
        time.sleep(_PAUSE)
    return _asked(path, _seen(path), ask)


def _asked(path: Path, seen: _Seen, ask: Callable[[sqlite3.Connection], T]) -> T:
    uri = f"file:{_quoted(path)}?{'immutable=1' if seen.quiet else 'mode=ro'}"
    with closing(sqlite3.connect(uri, uri=True, timeout=5, isolation_level=None)) as db:
        db.execute("BEGIN")
        return ask(db)


def _seen(path: Path) -> _Seen:
    return _Seen(_signature(path), _signature(path.with_name(path.name + "-wal")))


def _signature(path: Path) -> Signature | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return Signature(found.st_size, found.st_mtime_ns, found.st_ino, found.st_dev)


def _quoted(path: Path) -> str:
    return str(path).replace("%", "%25").replace("?", "%3f").replace("#", "%23")
