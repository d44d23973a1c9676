"""`lmctl uninstall`: stop what runs and remove what lmctl brought and wrote; what others use stays, with the reason."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from lmctl import census, leaving
from lmctl.acting import standing
from lmctl.asking import asked
from lmctl.command import Context
from lmctl.errors import DONE, PARTIAL, LmctlError, escape
from lmctl.leaving import Leave
from lmctl.plan import Change, Kept
from lmctl.progress import Reporter
from lmctl.record import record, replace
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import Json
from lmctl.text import Style, human_bytes


@record
class Whole:
    """Everything that goes and stays. `cache`: lmctl's own one, when it goes along with the last declaration."""

    leaves: tuple[Leave, ...]
    cache: Path | None
    strangers: tuple[Kept, ...] = ()  # what lies beside, when the last declaration leaves

    @property
    def changes(self) -> tuple[Change, ...]:
        """Content that goes, each once: partial files belong to no declaration."""
        return tuple({change.id: change for leave in self.leaves for change in leave.changes}.values())

    @property
    def kept(self) -> tuple[Kept, ...]:
        going = {change.address.partition(":")[2] for change in self.changes}
        found = {kept.path: kept for leave in self.leaves for kept in leave.kept}
        found |= {kept.path: kept for kept in self.strangers}
        return tuple(kept for path, kept in found.items() if path not in going)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Folders of lmctl that go with all that is in them."""
        return (*(leave.session.state for leave in self.leaves), *((self.cache,) if self.cache else ()))

    @property
    def free(self) -> int:
        return sum(change.free for change in self.changes) + sum(leaving.size(path)[1] for path in self.folders)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--all", action="store_true", help="every declaration of this machine, not this one alone")
    parser.add_argument("--dry-run", action="store_true", help="show what would go and what stays, and why")
    parser.add_argument("--wait", action="store_true", help="wait for another lmctl instead of giving up")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Show the whole of it, ask once, and do it. Exit 4 with nothing changed when nobody is there to say yes."""
    sessions = _sessions(context, every=args.all)
    together = frozenset(session.declaration.name for session in sessions)
    leaves = leaving.look(sessions)
    last = leaving.last(context.folders, together)
    cache = context.folders.cache if last and context.folders.cache.is_dir() else None
    whole = Whole(leaves, cache, leaving.strangers(context.folders) if last else ())
    if args.dry_run and whole.folders:
        return Result(_data(whole), lambda style: _text(whole, style))
    if not leaves:
        if whole.cache and not args.dry_run:
            leaving.forget_shared(context.folders)  # it may vanish at any time: nobody need be asked
        lines = ["Nothing to remove: lmctl keeps nothing here.", *(_kept(kept, Style()) for kept in whole.kept)]
        return Result(_data(whole), "\n".join(lines) + "\n")
    for session in sessions:
        session.ledger.refuse_newer()
    _ask(context, whole)
    with Reporter(context) as reporter, leaving.held(leaves, reporter.say, wait=args.wait):
        errors = leaving.carry_out(leaves, reporter.progress, reporter.say)
    return _told(context, whole, errors)


def _sessions(context: Context, *, every: bool) -> list[Session]:
    """Return what leaves: this declaration, whatever became of its file, or all that left something here."""
    folders = context.folders
    if every:
        names = census.names(folders)
    else:
        current, _ = standing(context)
        current.refuse_foreign_name()
        left = current.state.exists() or current.record.exists() or current.host.supervisor.observe().lost
        names = [current.declaration.name] if left else []
    about = census.machine(folders, context.hardware()) if names else None
    stubs = [census.stub(folders, name, about) for name in names if about]
    return [Session.of(stub, folders, context.host(stub)) for stub in stubs]


def _ask(context: Context, whole: Whole) -> None:
    """Raise E-PRUNE unless a person says yes to the list."""
    if not context.options.yes:
        context.err.write(_text(whole, context.style))
    answer = asked(context, "Remove all this?")
    if answer is None:
        fix = "read `lmctl uninstall --dry-run`, then run `lmctl uninstall --yes`"
        raise LmctlError("E-PRUNE", "nobody is there to ask", fix=fix)
    if not answer:
        raise LmctlError("E-PRUNE", "nothing was removed", fix="run `lmctl uninstall` once you want it")


def _told(context: Context, whole: Whole, errors: dict[str, LmctlError]) -> Result:
    done = [leave.name for leave in whole.leaves if leave.name not in errors]
    last = not errors and leaving.last(context.folders, frozenset(done))
    if last:
        whole = replace(whole, strangers=leaving.forget_shared(context.folders))
    kept = whole.kept
    problems = tuple(
        replace(problem, what=f"{name}: {problem.what}") for name, error in errors.items() for problem in error.problems
    )
    first = next(iter(errors.values()), None)
    code = DONE if first is None else PARTIAL if done else first.exit_code
    lines = [f"Removed: {', '.join(done)}."] if done else []
    lines += [_kept(one, Style()) for one in kept]
    if last:
        what = "nothing else on this machine" if kept else "nothing on this machine any more"
        lines.append(f"lmctl keeps {what}; remove the program itself as you installed it.")
    data: dict[str, Json] = {**_data(whole), "removed": [*done]}
    return Result(data, "\n".join(lines), errors=problems, exit_code=code, done=tuple(f"removed: {n}" for n in done))


def _data(whole: Whole) -> dict[str, Json]:
    content: list[Json] = [{"path": change.address.partition(":")[2], "bytes": change.free} for change in whole.changes]
    kept: list[Json] = [
        {"path": kept.path, "bytes": kept.size, "why": kept.why, "artifact": kept.artifact} for kept in whole.kept
    ]
    return {
        "declarations": [leave.name for leave in whole.leaves],
        "programs": sum(leave.programs for leave in whole.leaves),
        "content": content,
        "units": [str(leave.unit.path) for leave in whole.leaves if leave.unit],
        "folders": [str(path) for path in whole.folders],
        "kept": kept,
        "free": whole.free,
        "removed": [],
    }


def _text(whole: Whole, style: Style) -> str:
    return "\n".join(_lines(whole, style)) + "\n"


def _lines(whole: Whole, style: Style) -> Iterator[str]:
    red = style.red
    for leave in whole.leaves:
        if leave.programs or leave.case.world.daemon.pid:
            yield f"{red('- stop  ')} {leave.name}: {_count(leave.programs, 'program')} and supervisord"
    for change in whole.changes:
        kind, _, path = change.address.partition(":")
        what = change.cause[0].before if kind == "content" else "partial file"
        yield f"{red('- remove')} {escape(str(what))}  {human_bytes(change.free)}  {style.dim(escape(path))}"
    for unit in (leave.unit for leave in whole.leaves if leave.unit):
        yield f"{red('- remove')} {escape(str(unit.path))}  starts it at login"
    for folder in whole.folders:
        files, size = leaving.size(folder)
        yield f"{red('- remove')} {escape(str(folder))}  {_count(files, 'file')}, {human_bytes(size)}"
    yield from (_kept(kept, style) for kept in whole.kept)
    yield ""
    yield f"Frees {human_bytes(whole.free)}. localmodels.toml, its lock and machine.toml are yours and stay."


def _kept(kept: Kept, style: Style) -> str:
    name = f"{escape(kept.artifact)}  " if kept.artifact else ""
    return f"{style.dim('  keep  ')} {name}{human_bytes(kept.size)}  ({kept.why})  {style.dim(escape(kept.path))}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
