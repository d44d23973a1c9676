"""Plans of earlier applies, read back from the ledger: as they were shown, and in a few words. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from lmctl.errors import escape
from lmctl.fit import Verdict
from lmctl.plan import Cause, Change, Plan

_VERBS = {"create": "add", "update": "change", "restart": "restart", "start": "start", "delete": "remove"}
_SHOWN = 4  # profiles that are named


def read(text: str) -> Plan | None:
    """Return a plan as the ledger keeps it, without the memory verdict; None for what is none."""
    try:
        content = json.loads(text)
        changes = tuple(map(_change, content["changes"]))
        return Plan(str(content["name"]), str(content["fingerprint"]), changes, Verdict(None, 0, (), {}, 0))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _change(entry: Mapping[str, Any]) -> Change:
    return Change(
        stage=entry["stage"],
        verb=entry["verb"],
        address=str(entry["address"]),
        cause=tuple(Cause(str(one["field"]), one["before"], one["after"]) for one in entry["cause"]),
        download=entry["download"],
        free=entry["free"],
        destroys=entry["destroys"],
        needs=tuple(entry["needs"]),
    )


def words(changes: Iterable[Change]) -> str:
    """Return what changes do in a few words: programs by their profiles, everything else by its number."""
    found = tuple(changes)
    parts = []
    for verb, word in _VERBS.items():
        names = [escape(_name(change)) for change in found if change.stage == "serve" and change.word == verb]
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        parts += [f"{word} {', '.join(names[:_SHOWN])}{more}"] if names else []
    locked = sum(change.stage == "lock" for change in found)
    weights = sum(change.stage == "fetch" for change in found)
    pruned = sum(change.stage == "prune" for change in found)
    parts += [f"lock {locked} model{'s' * (locked != 1)}"] if locked else []
    parts += [f"weights of {weights} model{'s' * (weights != 1)}"] if weights else []
    parts += [f"prune {pruned} file{'s' * (pruned != 1)}"] if pruned else []
    return "; ".join(parts)


def _name(change: Change) -> str:
    kind, _, name = change.address.partition(":")
    return name if kind == "program" else change.address
