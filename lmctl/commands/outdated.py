"""`lmctl outdated`: what the Hub has moved since it was locked; writes nothing."""

from __future__ import annotations

import argparse
from collections.abc import Collection

from lmctl import locking
from lmctl.acting import known, written
from lmctl.command import Context
from lmctl.errors import DONE, PARTIAL, LmctlError, Problem
from lmctl.locking import Selected, named
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import Json, Wanted
from lmctl.text import Style
from lmctl.upstream import Moved, compare, told

_MOVED = ("moved", "same files")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "profiles", nargs="*", metavar="PROFILE", help="only what these profiles ask for, here or on other machines"
    )


def run(context: Context, args: argparse.Namespace) -> Result:
    """Ask the Hub for every artifact once. Exit 3 when only some of the questions were answered."""
    current = written(context)
    names = known(current, args.profiles)
    ids = locking.ids(current.declaration, names) if names else None
    found, problems, codes = _ask(current, ids)
    moved = _asking(current, [move for move in found if move.state in _MOVED])
    missing = _asking(current, [move for move in found if move.state == "not locked"])
    upgrade = f"lmctl lock --upgrade {' '.join(moved)}" if moved else None
    nexts = [upgrade] if upgrade else []
    nexts += [f"lmctl lock {' '.join(missing)}"] if missing else []
    code = PARTIAL if codes and found else codes[0] if codes else DONE
    artifacts: list[Json] = [move.plain() for move in found]
    data: dict[str, Json] = {"artifacts": artifacts, "upgrade": upgrade}
    return Result(
        data, lambda style: _text(found, nexts, bool(problems), style), errors=tuple(problems), exit_code=code
    )


def _ask(current: Session, ids: Collection[str] | None) -> tuple[list[Moved], list[Problem], list[int]]:
    """Return where every artifact of a repository stands, and what kept others from being compared.

    Raises E-OFFLINE at once: that is so for all of them.
    """
    lock, hub = current.lock(), current.host.hub
    found: list[Moved] = []
    problems: list[Problem] = []
    codes: list[int] = []
    for wanted in _wanted(current, ids):
        try:
            found.append(compare(wanted, lock.artifacts.get(wanted.id), hub))
        except LmctlError as error:
            if error.code == "E-OFFLINE":
                raise
            problems += [named(problem, wanted.id) for problem in error.problems]
            codes.append(error.exit_code)
    return found, problems, codes


def _wanted(current: Session, ids: Collection[str] | None) -> list[Wanted]:
    asked = [one for _, wanted in locking.files(current.declaration) for one in Selected(ids).among(wanted)]
    return [one for one in locking.unique(asked) if one.repo is not None]


def _asking(current: Session, moves: list[Moved]) -> list[str]:
    """Return the profiles that ask for any of these artifacts, on whatever machine."""
    asked = current.declaration.asked_by
    return sorted({name for move in moves for name in asked.get(move.id, ())})


def _text(found: list[Moved], nexts: list[str], failed: bool, style: Style) -> str:
    shown = [move for move in found if move.state in (*_MOVED, "not locked")]
    if not shown:
        as_locked = f"{len(found)} artifact{'' if len(found) == 1 else 's'} as locked"
        return "" if failed else f"Nothing moved upstream: {as_locked}.\n"
    moved = sum(move.state in _MOVED for move in found)
    head = f"{moved} of {len(found)} moved upstream."
    return told(shown, style) + "\n" + " ".join([head, *(f"Next: {line}" for line in nexts)]) + "\n"
