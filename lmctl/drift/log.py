"""Drift as the ledger remembers it: a row per fingerprint, when it was first and last seen, and how often."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping

from lmctl.drift.records import Drift
from lmctl.errors import LmctlError
from lmctl.ledger import Ledger, Writer
from lmctl.record import record

_KEPT = 500  # drifts that are over

_NOTE = """
INSERT INTO drift (fingerprint, class, address, desired, applied, observed, first_seen, last_seen, count)
  VALUES (?,?,?,?,?,?,?,?,1)
  ON CONFLICT (fingerprint) DO UPDATE
    SET last_seen=max(last_seen, excluded.last_seen), count=count+1, resolved_at=NULL
"""
_FORGET = """
DELETE FROM drift WHERE resolved_at IS NOT NULL AND fingerprint NOT IN
  (SELECT fingerprint FROM drift WHERE resolved_at IS NOT NULL ORDER BY resolved_at DESC, fingerprint LIMIT ?)
"""


@record
class Known:
    """How long a drift has been known: seconds since the epoch, and how often it was recorded."""

    first_seen: float
    last_seen: float
    count: int


def known(ledger: Ledger) -> Mapping[str, Known]:
    """Return the drifts that are not over, by fingerprint; none where they cannot be read (`Memory.problem`)."""
    query = "SELECT fingerprint, first_seen, last_seen, count FROM drift WHERE resolved_at IS NULL"
    try:
        return {row[0]: Known(*row[1:]) for row in ledger.rows(query)}
    except LmctlError:
        return {}


def note(writer: Writer, drifts: Iterable[Drift], now: float, *, whole: bool) -> None:
    """Record what was found; `whole`: everything was looked at, so whatever else is open is over. The oldest go."""
    found = {drift.fingerprint: drift for drift in drifts}
    for fingerprint, drift in found.items():
        columns = ({row.name: getattr(row, of) for row in drift.fields} for of in ("desired", "applied", "observed"))
        texts = (json.dumps(column, sort_keys=True) for column in columns)
        writer.run(_NOTE, fingerprint, drift.kind, drift.address, *texts, now, now)
    if whole:
        opened = {row[0] for row in writer.run("SELECT fingerprint FROM drift WHERE resolved_at IS NULL")}
        for fingerprint in sorted(opened - found.keys()):
            writer.run("UPDATE drift SET resolved_at=? WHERE fingerprint=?", now, fingerprint)
    writer.run(_FORGET, _KEPT)
