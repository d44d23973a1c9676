"""The session of what an earlier apply was made of, which counts again while a rollback holds."""

from __future__ import annotations

from lmctl import lock_reader, snapshots
from lmctl.acting import session, standing
from lmctl.command import Context
from lmctl.errors import LmctlError
from lmctl.record import replace
from lmctl.session import Session


def in_force(context: Context) -> Session:
    """Return the session of what a rollback brought back, until an apply ends it, else of what is declared.

    Raises what is wrong with the one that counts.
    """
    current, problems = standing(context)
    number = current.ledger.read().in_force
    if number is not None:
        return earlier(context, current, number)
    return session(context) if problems else current  # which raises all of them


def earlier(context: Context, now: Session, number: int) -> Session:
    """Return the session of the declaration as it was in a generation, with the lock of then.

    Raises as `snapshots.read`, E-USAGE where it is another declaration's, and what is wrong with it today.
    """
    files = snapshots.read(now.state, number)
    lock = lock_reader.parse(files.pop(snapshots.LOCK), snapshots.LOCK)
    declaration = context.declaration(file=now.declaration.file, earlier=files)
    if declaration.name != now.declaration.name:
        what = f"generation {number} belongs to the declaration {declaration.name!r}"
        raise LmctlError("E-USAGE", what, fix="choose another generation")
    return replace(Session.of(declaration, context.folders, context.host(declaration)), pinned=lock)
