"""What the commands that act share: the session, progress, interrupts, and how an apply is told."""

from __future__ import annotations

import os
import re
import shlex
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import Literal

from lmctl import adhoc, neighbours, plan, services
from lmctl.addresses import Asked
from lmctl.command import Context
from lmctl.config.find import MAIN, Request, discover
from lmctl.errors import LmctlError, Problem, Terminated, escape
from lmctl.ledger import Memory
from lmctl.mutex import PATIENCE, exclusive
from lmctl.paths import read_regular
from lmctl.progress import Reporter
from lmctl.reconcile import Applied, Ended, Reconciler, Resolve
from lmctl.record import replace
from lmctl.resource import Case
from lmctl.resources import artifact
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import RESIDENT, Declaration, Json, Machine
from lmctl.text import Style, human_id

_MARKS = {"done": "✓", "failed": "✗", "blocked": "·", "not started": "·", "interrupted": "·"}
_CONFIG_LIMIT = 1 << 20  # bytes of a declaration
_NAME = re.compile(r"""^name[ \t]*=[ \t]*["']([A-Za-z0-9._-]+)["']""", re.MULTILINE)
_INTERRUPTED = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 143}


def session(context: Context, *, empty: bool = False) -> Session:
    """Return the session of the declaration that the context finds; with `empty`, one without profiles too."""
    declaration = context.declaration(empty=empty)
    return Session.of(declaration, context.folders, context.host(declaration))


def written(context: Context) -> Session:
    """Return the session of what is written down, without what runs undeclared beside it."""
    declaration = context.declaration(written=True)
    return Session.of(declaration, context.folders, context.host(declaration))


def standing(context: Context) -> tuple[Session, tuple[Problem, ...]]:
    """Return the session for commands that stop or show what runs, and what is wrong with the configuration.

    Of a declaration that cannot be judged only its name is known, from the state folder: what it left running is found
    there. Raises what is wrong where nothing was ever applied, and how to end what runs under its name all the same.
    """
    try:
        return session(context), ()
    except LmctlError as error:
        found = _recorded(context)
        if found is None:
            raise _with_end(context, error) from None
        return Session.of(found, context.folders, context.host(found)), error.problems[:1]


def _recorded(context: Context) -> Declaration | None:
    """Return name, folder and file of the declaration that was applied last from where the context looks."""
    options = context.options
    request = Request(options.directory, options.config, elsewhere=options.elsewhere)
    try:
        places = [{discover(request, context.folders, context.environ)}]
    except LmctlError:  # the file is gone, or there never was one
        above = (options.directory, *options.directory.parents)
        places = [{Path(os.path.realpath(folder)) / MAIN for folder in above}]
        if not options.config and not options.elsewhere:
            places.append({Path(os.path.realpath(adhoc.alone(context.folders)))})
    records = sorted((context.folders.state / "declarations").glob("*.json"), key=lambda path: -path.stat().st_mtime)
    for wanted, record in product(places, records):
        with suppress(ValueError):
            folder, file = neighbours.folder_of(record)
            if file in wanted:
                return Declaration(record.stem, folder, file, (), machine=Machine(log_max_bytes=None))
    return None


def _with_end(context: Context, error: LmctlError) -> LmctlError:
    """Return `error`, with how to end what runs under the name that its file has: its folder may be moved or a copy."""
    from lmctl import census  # only for mistakes

    options = context.options
    request = Request(options.directory, options.config, elsewhere=options.elsewhere)
    with suppress(LmctlError, ValueError):
        text = read_regular(discover(request, context.folders, context.environ), _CONFIG_LIMIT).decode()
        name = _NAME.search(text)  # what it is in may be no TOML
        if name is None or name[1] not in census.names(context.folders):
            return error
        stub = census.stub(context.folders, name[1], Machine())
        daemon = context.host(stub).supervisor.observe()
        if daemon.pid is not None or daemon.orphans or daemon.lost:
            first, *more = error.problems
            fix = f"{first.fix}; " if first.fix else ""
            fix += f"`lmctl down {name[1]}` ends what runs of it"
            return LmctlError.of([replace(first, fix=fix), *more])
    return error


def remarks(memory: Memory) -> tuple[Problem, ...]:
    """Return what everybody says who shows how things are: that the ledger is not whole, that a rollback holds."""
    found = () if memory.problem is None else (memory.problem,)
    if memory.in_force is None:
        return found
    what = f"the rollback to generation {memory.in_force} holds"
    return (*found, Problem("W-HELD", what, "the next `lmctl apply` brings what the files say"))


def running(session: Session, names: list[str]) -> frozenset[str]:
    """Return `names`, one at least, of profiles that are declared or still have a program. Raises as `known`."""
    programs = session.host.supervisor.observe().specs.values()
    declared = services.known(session.declaration)
    return _named([*declared, *sorted({spec.profile for spec in programs} - {*declared})], names)


def declaration_or_stand_in(context: Context) -> Declaration:
    """Return the declaration, one without profiles too; where there is none, the one that stands in for it."""
    try:
        return context.declaration(empty=True)
    except LmctlError as error:
        if error.code != "E-FILE" or context.options.config:
            raise
    adhoc.stand_in(context.folders)
    return context.declaration(empty=True)


def known(session: Session, names: list[str]) -> frozenset[str]:
    """Return `names` as a set. Raises E-USAGE for one that is no profile, with the near miss, E-NAME for no text."""
    return _known([profile.name for profile in session.declaration.profiles], names)


def programs(session: Session, names: list[str]) -> frozenset[str]:
    """Return `names` of profiles, or of lmctl's own programs, as a set. Raises as `known`."""
    return _known(services.known(session.declaration), names)


def named(session: Session, names: list[str]) -> frozenset[str]:
    """Return `names`, one at least, as a set. Raises as `known`."""
    return _named(services.known(session.declaration), names)


def _named(possible: list[str], names: list[str]) -> frozenset[str]:
    if not names:
        fix = f"name one of: {', '.join(possible)}" if possible else "there is none yet: `lmctl profile add` makes one"
        raise LmctlError("E-USAGE", "no profile is named", fix=fix)
    return _known(possible, names)


def _known(declared: list[str], names: list[str]) -> frozenset[str]:
    for name in names:
        if not name.isprintable():
            raise LmctlError(
                "E-NAME", f"'{escape(name, 80)}' cannot be the name of a profile", fix="see `lmctl status`"
            )
        if name not in declared:
            import difflib  # only for mistakes

            near = difflib.get_close_matches(name, declared, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"declared: {', '.join(declared) or 'none'}"
            hint = f"set `enabled = true` in [{name}]" if name in RESIDENT else hint
            raise LmctlError("E-USAGE", f"there is no profile '{escape(name, 80)}'", fix=hint)
    return frozenset(names)


def repository(context: Context, text: str, command: Literal["download", "start --model"]) -> str:
    """Return `text` when it is owner/name. Raises E-REPO with what to type instead, where that can be told."""
    from lmctl.config import names  # only for the commands that take a repository

    try:
        names.repo(text)
    except LmctlError as error:
        flags, fetches, otherwise = _REPOSITORY[command]
        found, near = names.meant(text), _near_profile(context, text)
        fix = error.problems[0].fix if found else f"write owner/name as on the Hub{otherwise}"
        if found and found.keys() <= flags:
            more = (f" --{key} {shlex.quote(value)}" for key, value in found.items() if key != "model")
            fix = f"write `lmctl {command} {found['model']}{''.join(more)}`"
        elif near and not found:
            fix = f"did you mean `lmctl {fetches} {near}`? On the Hub it is owner/name"
        raise LmctlError("E-REPO", error.problems[0].what, fix=fix) from error
    return text


# what a command takes of an address, which one does the same for a declared profile, and what else it takes
_REPOSITORY = {
    "download": (frozenset(["model", "quant", "file", "revision"]), "apply", ""),
    "start --model": (frozenset(["model", "quant"]), "start", ", or the path of a file"),
}


def _near_profile(context: Context, text: str) -> str | None:
    import difflib  # only for mistakes

    with suppress(LmctlError):
        names = [profile.name for profile in context.declaration(empty=True).profiles]
        return next(iter(difflib.get_close_matches(text, names, n=1)), None)
    return None


@contextmanager
def reconciling(context: Context, session: Session) -> Iterator[tuple[Reconciler, list[int]]]:
    """Yield a reconciler whose first interrupt drains and whose second one stops; the list holds the signals seen."""
    with Reporter(context) as reporter:
        reconciler = Reconciler(session, _resolver(session), reporter.progress, reporter.say)
        seen: list[int] = []

        def end_soon() -> None:
            session.host.stop.set()
            reporter.say("finishing what is under way; interrupt again to stop at once")

        # a handler runs in the middle of whatever this thread does: it must take no lock that is held there
        ending = Thread(target=end_soon)

        def drain(number: int, frame: FrameType | None) -> None:
            seen.append(number)
            if len(seen) > 1:
                raise KeyboardInterrupt
            ending.start()

        heard = (number for number in _INTERRUPTED if signal.getsignal(number) is not signal.SIG_IGN)
        before = {number: signal.signal(number, drain) for number in heard}
        try:
            yield reconciler, seen
        except KeyboardInterrupt:
            raise (KeyboardInterrupt if seen[:1] in ([], [signal.SIGINT]) else Terminated) from None
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            if ending.ident is not None:
                ending.join()


@contextmanager
def writing(context: Context, session: Session, command: str, *, wait: bool) -> Iterator[None]:
    """Hold the writer's lock for a command that plans nothing. Raises as `mutex.exclusive`."""
    with (
        Reporter(context) as reporter,
        exclusive(session.writer, command, wait=wait, patience=PATIENCE, say=reporter.say),
    ):
        yield


def _resolver(session: Session) -> Resolve:
    def resolve(case: Case) -> Mapping[str, LmctlError]:
        from lmctl.locking import lock_missing  # asks the Hub: never needed where the lock is complete

        missing = frozenset(artifact.missing(case, waiting=False))
        undeclared = adhoc.undeclared(session.folders, case.declaration)
        return lock_missing(case.declaration, missing, session.host.hub, undeclared, session.beside)

    return resolve


def told(applied: Applied, seen: list[int], *, prune: bool = False) -> Result:
    """Return the result of an apply, or of its `prune` alone: the plan, how each change ended, the exit code."""
    data: dict[str, Json] = {
        **plan.to_json(applied.plan),
        "outcomes": [{"id": ended.change.id, "state": ended.state} for ended in applied.ended],
        "serving": {name: asked.address for name, asked in applied.serving.items()},
    }
    code = _INTERRUPTED[signal.Signals(seen[0])] if seen else applied.exit_code
    warnings = (*applied.plan.warnings, *applied.notices)
    done = tuple(f"{ended.state}: {ended.change.word} {ended.change.address}" for ended in applied.ended)
    return Result(data, lambda style: _text(applied, style, prune), warnings, applied.problems, code, done)


def _text(applied: Applied, style: Style, prune: bool) -> str:
    if not applied.ended:
        return plan.text(applied.plan, style, prune=prune)
    lines = [_line(ended, style) for ended in applied.ended]
    interrupted = any(problem.code == "E-INTERRUPTED" for problem in applied.problems)
    done = sum(ended.state == "done" for ended in applied.ended)
    rest = len(applied.ended) - done
    part = "Interrupted:" if interrupted else "Applied in part:" if done else "Failed:"
    head = style.red(part) if rest else style.green("Applied:")
    lines += ["", f"{head} {done} of {len(applied.ended)} changes done."]
    lines += [f"  {name} answers at {_url(style, at, name)}" for name, at in applied.serving.items()]
    lines += [style.dim(f"note: {note}") for note in applied.plan.notes]
    return "\n".join(lines) + "\n"


def _url(style: Style, asked: Asked, name: str) -> str:
    return style.cyan(f"http://{asked.address}/v1") + (f' as model "{name}"' if asked.shared else "")


def _line(ended: Ended, style: Style) -> str:
    paint = style.green if ended.state == "done" else style.red
    state = "interrupted" if ended.error and ended.error.code == "E-INTERRUPTED" else ended.state
    told = "" if state in {"done", "failed"} else f"  ({state})"
    return f"{paint(_MARKS[state])} {ended.change.word:<7} {style.bold(human_id(ended.change.address))}{told}"
