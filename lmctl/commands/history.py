"""`lmctl history`: the applies that are remembered, and the plan of one."""

from __future__ import annotations

import argparse
import time
from datetime import datetime

from lmctl import generations, past, plan, snapshots
from lmctl.acting import remarks, standing
from lmctl.arguments import within
from lmctl.command import Context
from lmctl.errors import LmctlError, Problem
from lmctl.generations import KEPT, Generation
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import Json
from lmctl.text import Style, table

_HEADER = ["NUMBER", "WHEN", "RESULT", "CHANGES"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    number = within(1, 2**31 - 1)
    parser.add_argument("number", nargs="?", type=number, metavar="NUMBER", help="show the plan of this one")
    parser.add_argument("-n", dest="last", type=within(1, KEPT), default=KEPT, metavar="COUNT", help="the last ones")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Return the generations, the newest first, or the plan of one. Reads nothing but the ledger."""
    current, warnings = standing(context)
    current.refuse_foreign_name()
    memory = current.ledger.read()
    warnings = (*warnings, *remarks(memory))
    found = generations.listed(current.ledger)
    if args.number is not None:
        return _one(args.number, found, current, warnings)
    kept = snapshots.numbers(current.state)
    shown = found[: args.last]
    entries: list[Json] = [_plain(one, kept) for one in shown]
    data: dict[str, Json] = {
        "name": current.declaration.name,
        "in_force": memory.in_force,
        "generations": entries,
    }
    return Result(data, lambda style: _text(shown, kept, current, style), warnings)


def _one(number: int, found: tuple[Generation, ...], current: Session, warnings: tuple[Problem, ...]) -> Result:
    one = next((each for each in found if each.id == number), None)
    if one is None:
        known = f"from {found[-1].id} to {found[0].id}" if found else "none"
        what = f"there is no generation {number}"
        raise LmctlError("E-USAGE", what, fix=f"see `lmctl history`; it remembers {known}")
    then = past.read(one.plan)
    shown = None if then is None else plan.to_json(then)
    data: dict[str, Json] = {**_plain(one, snapshots.numbers(current.state)), "plan": shown}

    def text(style: Style) -> str:
        head = f"Generation {one.id}, {_local(one.at)}: {one.result}{_rollback(one)}"
        body = plan.text(then, style) if then is not None else "Its plan cannot be read.\n"
        return f"{style.bold(head)}\n\n{body}"

    return Result(data, text, warnings)


def _plain(one: Generation, kept: tuple[int, ...]) -> dict[str, Json]:
    then = past.read(one.plan)
    return {
        "id": one.id,
        "at": datetime.fromtimestamp(one.at).astimezone().isoformat(timespec="seconds"),
        "result": one.result,
        "restores": one.restores,
        "snapshot": one.id in kept,
        "summary": None if then is None else dict(plan.summary(then.changes)),
        "config_hash": one.config_hash,
        "lock_hash": one.lock_hash,
    }


def _text(found: tuple[Generation, ...], kept: tuple[int, ...], current: Session, style: Style) -> str:
    if not found:
        return f"Nothing was applied yet: {current.declaration.name} has no history.\n"
    rows = [_HEADER, *([str(one.id), _local(one.at), one.result, _words(one)] for one in found)]
    lines = [table(rows, style)]
    lacking = [str(one.id) for one in found if one.id not in kept]
    if lacking:
        lines.append(style.dim(f"note: no snapshot to go back to: {', '.join(lacking)}") + "\n")
    return "".join(lines)


def _words(one: Generation) -> str:
    then = past.read(one.plan)
    words = past.words(then.changes) if then is not None else "its plan cannot be read"
    return f"{words}{_rollback(one)}"


def _rollback(one: Generation) -> str:
    return f" (rollback to {one.restores})" if one.restores is not None else ""


def _local(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
