"""Applies as the ledger keeps them: what each one was about to do, and how it ended."""

from __future__ import annotations

from typing import Literal

from lmctl.errors import LmctlError
from lmctl.ledger import Ledger, Writer
from lmctl.record import record

KEPT = 50  # of them, and of the snapshots beside them
_INSERT = "INSERT INTO generation (id, at, config_hash, lock_hash, plan, result, restores) VALUES (?,?,?,?,?,?,?)"
_NEWEST = "SELECT id, at, config_hash, lock_hash, plan, result, {} FROM generation ORDER BY id DESC LIMIT ?"

Ending = Literal["done", "partial", "interrupted"]


@record
class Generation:
    """One apply. `plan` is JSON (schemas/plan.schema.json); `restores` is the generation that a rollback went back to.

    The hashes are of the configuration with the machine that it was resolved for, and of the lock.
    """

    id: int
    at: float  # seconds since the epoch
    config_hash: str
    lock_hash: str
    plan: str
    result: str  # an Ending; one that was killed, or is under way, is interrupted
    restores: int | None = None


def opened(writer: Writer, generation: Generation) -> int:
    """Keep a generation that begins, and drop the oldest; return its number, which is `generation.id` or above."""
    (last,) = writer.run("SELECT coalesce(max(id), 0) FROM generation").fetchone()
    number: int = max(generation.id, last + 1)
    g = generation
    values = (number, g.at, g.config_hash, g.lock_hash, g.plan, "interrupted", g.restores)
    writer.run(_INSERT, *values)
    writer.run("DELETE FROM generation WHERE id NOT IN (SELECT id FROM generation ORDER BY id DESC LIMIT ?)", KEPT)
    return number


def closed(writer: Writer, number: int, ending: Ending) -> None:
    """Say how a generation ended."""
    writer.run("UPDATE generation SET result=? WHERE id=?", ending, number)


def listed(ledger: Ledger, last: int = KEPT) -> tuple[Generation, ...]:
    """Return the newest `last` generations, the newest first; none where they cannot be read (`Memory.problem`)."""
    try:
        version = ledger.rows("PRAGMA user_version")
        restores = "restores" if version and version[0][0] > 1 else "NULL"  # no rollback before that schema
        return tuple(Generation(*row) for row in ledger.rows(_NEWEST.format(restores), last))
    except LmctlError:
        return ()
