"""Changes with their causes, their order, their sum and their text. Pure: no clock, no network, no prompt, no write."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Literal

from lmctl.errors import LmctlError, Problem, escape
from lmctl.fit import Verdict
from lmctl.record import record
from lmctl.secret import hidden
from lmctl.spec import Json
from lmctl.text import PLAIN, Style, human_bytes, human_id

Verb = Literal["create", "update", "restart", "delete"]
Stage = Literal["lock", "fetch", "serve", "prune"]

STAGES: tuple[Stage, ...] = ("lock", "fetch", "serve", "prune")
_LOCK_FIRST = "the rest is planned once this is locked: `lmctl lock` does only that, `lmctl apply` does everything"
_SYMBOLS: Mapping[Verb, str] = {"create": "+", "update": "~", "restart": "↻", "delete": "-"}


@record
class Cause:
    """One field that differs; None stands for absent."""

    field: str
    before: Json
    after: Json

    def told(self, verb: Verb) -> str:
        """Return the cause in words; what is absent is the default where something stays, nothing where it goes."""
        after = _shown(self.after, verb)
        if verb == "create" and self.before is None:
            return f"{self.field}: {after}"
        return f"{self.field}: {_shown(self.before, verb)} → {after}"


@record
class Change:
    """One thing to do to one address. `download` and `free` are bytes; None: not known before the lock is.

    `received` are the bytes that an interrupted download left: they are not fetched again.
    """

    stage: Stage
    verb: Verb
    address: str
    cause: tuple[Cause, ...]
    download: int | None = 0
    free: int = 0
    destroys: bool = False
    needs: tuple[str, ...] = ()
    received: int = 0

    @property
    def whole(self) -> int | None:
        """The bytes to download as if nothing had been received: a plan stays the same while they arrive."""
        return None if self.download is None else self.download + self.received

    @property
    def id(self) -> str:
        """The change's name inside a plan: unique, because an address changes once."""
        return self.address

    @property
    def word(self) -> str:
        """The verb as people read it: a program that does not run is started."""
        starts = self.verb == "restart" and all(c.field == "process" and c.after == "running" for c in self.cause)
        return "start" if starts else self.verb


@record
class Kept:
    """Something that could be pruned and is not, with the rule that keeps it."""

    path: str
    size: int
    why: str
    artifact: str = ""  # what it was brought for, as far as that is known
    declared: bool = False  # wanted all the same: the rest of a download


@record
class Plan:
    """What would change, in order. `fingerprint` covers configuration, lock and the observed state it rests on."""

    name: str
    fingerprint: str
    changes: tuple[Change, ...]
    memory: Verdict
    kept: tuple[Kept, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[Problem, ...] = ()
    profiles: tuple[str, ...] | None = None  # that it is about, sorted; None: all
    exclude: tuple[str, ...] = ()  # those it leaves out, sorted

    @property
    def empty(self) -> bool:
        return not self.changes


def difference(before: Mapping[str, Json], after: Mapping[str, Json]) -> tuple[Cause, ...]:
    """Return a cause for every field that differs, in the order of `after`, then what `after` lacks.

    No cause holds a secret: plans are shown, saved and remembered.
    """
    names = (*after, *(name for name in before if name not in after))
    pairs = ((name, before.get(name), after.get(name)) for name in names)
    return tuple(_cause(name, old, new) for name, old, new in pairs if old != new)


def _cause(field: str, before: Json, after: Json) -> Cause:
    was, now = hidden(before, field), hidden(after, field)
    return Cause(field, was, "(hidden, changed)" if was == now else now)


def ordered(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Return changes by stage, then address: what is fetched before what needs it, what destroys last."""
    return tuple(sorted(changes, key=lambda change: (STAGES.index(change.stage), change.address)))


def fingerprint(*parts: Json) -> str:
    """Return 64 hex digits that change when any of `parts` does."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def summary(changes: Iterable[Change]) -> dict[str, int]:
    """Return the counts and bytes that a plan ends with; an unknown download counts as 0 bytes."""
    count = {"add": 0, "change": 0, "restart": 0, "remove": 0, "download": 0, "free": 0}
    name = {"create": "add", "update": "change", "restart": "restart", "delete": "remove"}
    for change in changes:
        count[name[change.verb]] += 1
        count["download"] += change.download or 0
        count["free"] += change.free
    return count


def to_json(plan: Plan) -> dict[str, Json]:
    """Return the documented form (schemas/plan.schema.json)."""
    changes: list[Json] = [
        {
            "id": change.id,
            "stage": change.stage,
            "verb": change.verb,
            "address": change.address,
            "cause": [{"field": c.field, "before": c.before, "after": c.after} for c in change.cause],
            "download": change.download,
            "free": change.free,
            "destroys": change.destroys,
            "needs": list(change.needs),
        }
        for change in plan.changes
    ]
    memory = plan.memory
    return {
        "name": plan.name,
        "scope": {"profiles": None if plan.profiles is None else [*plan.profiles], "exclude": [*plan.exclude]},
        "fingerprint": plan.fingerprint,
        "changes": changes,
        "summary": dict(summary(plan.changes)),
        "memory": {"ram": memory.ram, "gpu": list(memory.gpu), "need": dict(memory.need), "fits": memory.fits},
    }


def matches(plan: Plan, saved: Mapping[str, Json]) -> None:
    """Raise E-PLAN-STALE unless the saved plan rests on the same configuration, lock and state as `plan`."""
    if saved.get("name") != plan.name:
        what = f"the saved plan is for {escape(str(saved.get('name')))!r}, this is {plan.name!r}"
        raise LmctlError("E-PLAN-STALE", what, fix="run `lmctl plan --out FILE` here")
    if saved.get("fingerprint") != plan.fingerprint:
        what = "configuration, lock or this machine changed since the plan was saved"
        raise LmctlError("E-PLAN-STALE", what, fix="run `lmctl plan --out FILE` again and read it")


def text(plan: Plan, style: Style = PLAIN, *, prune: bool = False) -> str:
    """Return the plan as people read it; deterministic, so tests compare it. `prune`: all that stays, one by one."""
    lines = [_change_line(change, style) for change in plan.changes]
    if not plan.changes:
        rest = "to prune." if prune else f"to do. {plan.name} is as declared."
        lines.append(style.green("Nothing") + f" {rest}")
    if plan.kept and prune:
        lines += ["", *(_kept_line(kept, style) for kept in plan.kept)]
    elif undeclared := [kept.size for kept in plan.kept if not kept.declared]:
        total = human_bytes(sum(undeclared))
        lines += ["", style.dim(f"note: {total} that nothing declares stay for now (lmctl prune --dry-run says why)")]
    notes = (*plan.notes, *([_LOCK_FIRST] if any(change.stage == "lock" for change in plan.changes) else []))
    if notes:
        lines += ["", *(style.dim(f"note: {note}") for note in notes)]
    if plan.changes:
        lines += ["", _summary_line(plan, style)]
    lines += [] if prune else _memory_lines(plan.memory)
    return "\n".join(lines) + "\n"


def _kept_line(kept: Kept, style: Style) -> str:
    name = f"{escape(kept.artifact)}  " if kept.artifact else ""
    return f"  {style.dim('keep')} {name}{human_bytes(kept.size)}  ({kept.why})  {style.dim(escape(kept.path))}"


def _change_line(change: Change, style: Style) -> str:
    paint = {"create": style.green, "update": style.yellow, "restart": style.yellow, "delete": style.red}[change.verb]
    parts = [f"{paint(f'{_SYMBOLS[change.verb]} {change.word:<7}')} {style.bold(human_id(change.address))}"]
    if change.cause:
        parts.append("(" + ", ".join(cause.told(change.verb) for cause in change.cause) + ")")
    if change.whole:
        here = f" ({human_bytes(change.received)} are here already)" if change.received else ""
        parts.append(f"↓ {human_bytes(change.download or 0)}{here}")
    if change.free:
        parts.append(f"frees {human_bytes(change.free)}")
    return "  ".join(parts)


def _summary_line(plan: Plan, style: Style) -> str:
    count = summary(plan.changes)
    down = f"{human_bytes(count['download'])} to download"
    if any(change.download is None for change in plan.changes):
        down = f"at least {down}" if count["download"] else "not yet known how much to download"
    head = ", ".join(f"{count[word]} to {word}" for word in ("add", "change", "restart", "remove"))
    return f"{style.bold('Plan:')} {head}; {down}, {human_bytes(count['free'])} to free."


def _memory_lines(memory: Verdict) -> list[str]:
    if not memory.need:
        return []
    word = {True: "fits", False: "does not fit", None: "not known whether it fits"}[memory.fits]
    gpu = f" and {human_bytes(sum(memory.gpu))} on GPUs" if memory.gpu else ""
    least = "at least " if 0 in memory.need.values() else ""  # what is not known counts as nothing
    head = f"{least}{human_bytes(memory.total)} of {human_bytes(memory.ram)}{gpu} for {_together(memory)}: {word}."
    if not memory.total:
        head = f"not known for {_together(memory)}; {human_bytes(memory.ram)}{gpu} may be used."
    lines = [f"Memory: {head}"]
    if memory.fits is not True:
        lines += [f"  {name}: {human_bytes(size)}" for name, size in sorted(memory.need.items()) if size]
    return lines + [f"  {escape(note)}" for note in memory.notes]


def _together(memory: Verdict) -> str:
    return f"{len(memory.need)} running together"


def _shown(value: Json, verb: Verb) -> str:
    if value is None:
        return "none" if verb == "delete" else "default"
    if isinstance(value, bool):
        return "true" if value else "false"
    return escape(value if isinstance(value, str) else json.dumps(value), 80)
