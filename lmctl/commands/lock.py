"""`lmctl lock`: resolve what is declared to commits, sizes and sha256, and write the lock files."""

from __future__ import annotations

import argparse
from collections.abc import Collection

from lmctl import locking
from lmctl.acting import known, written
from lmctl.command import Context
from lmctl.errors import DONE, PARTIAL, STALE_LOCK, Problem, escape
from lmctl.locking import Changed, Selected, Update, named
from lmctl.mutex import exclusive
from lmctl.progress import Reporter
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import Artifact, Json
from lmctl.text import Style, human_bytes, human_id
from lmctl.upstream import Moved, Side, told


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "profiles", nargs="*", metavar="PROFILE", help="only what these profiles ask for, here or on other machines"
    )
    parser.add_argument("--wait", action="store_true", help="wait for another lmctl instead of giving up")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="change nothing; exit 66 when the lock is out of date")
    what.add_argument("--upgrade", action="store_true", help="move what is locked to what its revision names now")
    what.add_argument("--prune", action="store_true", help="drop entries that nothing asks for any more")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Bring the lock files up to date, or check them. Exit 3 when only some artifacts could be locked."""
    current = written(context)
    names = known(current, args.profiles)
    ids = locking.ids(current.declaration, names) if names else None
    if args.check:
        return _checked(current, ids)
    with (
        Reporter(context) as reporter,
        exclusive(current.turn, "lmctl lock", wait=args.wait, say=reporter.say),
    ):
        done = locking.relock(current.declaration, current.host.hub, Selected(ids, args.upgrade, args.prune))
    stale = tuple(p for p in locking.check_files(current.declaration, ids) if p.code == "W-STALE")
    return _told(done, stale)


def _checked(current: Session, ids: Collection[str] | None) -> Result:
    found = [*locking.check_files(current.declaration, ids), *locking.check_contents(current.declaration, ids)]
    errors = tuple(problem for problem in found if problem.code == "E-LOCK-STALE")
    warnings = tuple(problem for problem in found if problem.code != "E-LOCK-STALE")
    text = "" if errors else "The lock is up to date."
    return Result({"changes": []}, text, warnings, errors, STALE_LOCK if errors else DONE)


def _told(done: Update, stale: tuple[Problem, ...]) -> Result:
    failed = [error for _, error in sorted(done.errors.items())]
    errors = [named(p, name) for name, error in sorted(done.errors.items()) for p in error.problems]
    code = PARTIAL if failed and done.changes else failed[0].exit_code if failed else DONE
    data: dict[str, Json] = {"changes": [_plain(change) for change in done.changes]}
    moved = tuple(f"{'locked' if change.after else 'dropped'}: {change.id}" for change in done.changes)
    return Result(data, lambda style: _text(done, style), stale, tuple(errors), code, moved)


def _plain(change: Changed) -> Json:
    def side(artifact: Artifact | None) -> Json:
        if artifact is None:
            return None
        return {"commit": artifact.commit, "files": len(artifact.files), "bytes": artifact.size}

    return {"id": change.id, "before": side(change.before), "after": side(change.after)}


def _text(done: Update, style: Style) -> str:
    if not done.changes:
        return "" if done.errors else f"The lock is up to date: {_count(len(done.lock.artifacts), 'artifact')}."
    lines = [_line(change.id, change.after, style) for change in done.changes if not (change.before and change.after)]
    moved = [
        Moved(change.id, Side.locked(change.before), Side.locked(change.after))
        for change in done.changes
        if change.before and change.after
    ]
    lines += [told(moved, style).removesuffix("\n")] if moved else []
    return "\n".join([*lines, "", f"Locked: {_count(len(done.changes), 'change')}."])


def _line(name: str, after: Artifact | None, style: Style) -> str:
    shown = style.bold(escape(human_id(name)))
    if after is None:
        return f"{style.red('-')} {shown}  dropped"
    commit = f"{after.commit[:12]}, " if after.commit else ""
    return f"{style.green('+')} {shown}  {commit}{_count(len(after.files), 'file')}, {human_bytes(after.size)}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
