"""`lmctl down`: stop every program of a declaration and its supervisord; where none is found, say which ones run."""

from __future__ import annotations

import argparse
from contextlib import suppress

from lmctl import adhoc, census, unsupervised
from lmctl.acting import standing, writing
from lmctl.command import Context
from lmctl.config.find import Request, discover, last_resort
from lmctl.config.names import name as valid
from lmctl.errors import LmctlError, escape
from lmctl.host import Daemon
from lmctl.mutex import holder
from lmctl.record import record, replace
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import Json, Machine
from lmctl.text import Style, table


@record
class Known:
    """A declaration of this machine, and its supervisord as it was seen."""

    name: str
    folder: str
    daemon: Daemon

    @property
    def runs(self) -> bool:
        return _runs(self.daemon)

    def cells(self) -> list[str]:
        end = f"lmctl down {self.name}" if self.runs else "-"
        return [self.name, _state(self.daemon), escape(self.folder), end]

    def json(self) -> Json:
        return {"name": self.name, "folder": self.folder, "supervisord": self.daemon.pid, "runs": self.runs}


_HEADER = ["DECLARATION", "SUPERVISORD", "FOLDER", "TO END IT"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="NAME", help="a declaration by its name, wherever its folder is")
    parser.add_argument("--wait", action="store_true", help="wait for another lmctl instead of giving up")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Stop everything, also programs that outlived a killed supervisord; `lmctl apply` brings it back."""
    if args.name is not None:
        return _end(context, _called(context, args.name), args)
    try:
        current, warnings = standing(context)
    except LmctlError as error:
        return _listed(context, error)
    current.refuse_foreign_name(ending=True)
    ended = _end(context, current, args)
    return replace(ended, warnings=warnings)


def _end(context: Context, current: Session, args: argparse.Namespace) -> Result:
    more = _others(context, current) if args.name is None else []
    data: dict[str, Json] = {"declarations": [one.json() for one in more]} if more else {}
    before = current.host.supervisor.observe()
    if not _runs(before):
        busy = holder(current.turn)
        idle = "supervisord is not running"
        idle += f", but another lmctl is at work and may start it: {busy}" if busy else ""
        return Result({"stopped": False, **data}, lambda style: f"{idle}\n{_text(more, style)}")
    with writing(context, current, "lmctl down", wait=args.wait):
        current.host.supervisor.shutdown()
    text = "every program and supervisord stopped"
    text += f"; {unsupervised.lost(before)} and was found all the same" if before.lost else ""
    return Result({"stopped": True, **data}, lambda style: f"{text}\n{_text(more, style)}", done=("stopped: all",))


def _runs(daemon: Daemon) -> bool:
    return daemon.pid is not None or bool(daemon.orphans) or bool(daemon.lost)


def _state(daemon: Daemon) -> str:
    if daemon.lost:
        return f"pid {', '.join(map(str, daemon.lost))}, lost its state folder"
    if daemon.orphans:
        return f"killed, {len(daemon.orphans)} of its programs run"
    return f"pid {daemon.pid}" if daemon.pid is not None else "not running"


def _session(context: Context, name: str) -> Session:
    """Return what can be known of a declaration from its name alone."""
    stub = census.stub(context.folders, name, Machine())
    return Session.of(stub, context.folders, context.host(stub))


def _known(context: Context) -> list[Known]:
    sessions = [_session(context, name) for name in census.names(context.folders)]
    return [Known(one.declaration.name, str(one.declaration.folder), one.host.supervisor.observe()) for one in sessions]


def _others(context: Context, current: Session) -> list[Known]:
    """Return the declarations that still run, beside the one that counts where no folder has one."""
    own = current.declaration.name
    if own != adhoc.NAME and last_resort(_request(context), context.folders, context.environ) is None:
        return []
    return [one for one in _known(context) if one.runs and one.name != own]


def _called(context: Context, name: str) -> Session:
    """Return the declaration that is called `name`. Raises E-NAME, and E-USAGE where nothing of it is on this machine.

    One whose state was deleted is called that as long as something of it runs.
    """
    valid(name)
    current, names = _session(context, name), census.names(context.folders)
    if name in names or _runs(current.host.supervisor.observe()):
        return current
    raise LmctlError("E-USAGE", f"there is no declaration '{name}' on this machine", fix=_meant(context, name, names))


def _meant(context: Context, name: str, names: list[str]) -> str:
    import difflib  # only for mistakes

    with suppress(LmctlError):
        if context.declaration(empty=True).profile(name):
            return f"to stop the profile: `lmctl stop {name}`"
    near = difflib.get_close_matches(name, names, n=1)
    return f"did you mean `{near[0]}`?" if near else f"known: {', '.join(names) or 'none'}"


def _listed(context: Context, error: LmctlError) -> Result:
    """Return what is known on this machine where no declaration is found; raises `error` where nothing is.

    Where one is found that cannot be judged, it may be a copy: what still runs is listed.
    """
    rows, problems = _known(context), error.problems
    with suppress(LmctlError):
        discover(_request(context), context.folders, context.environ)
        rows, problems = [one for one in rows if one.runs], problems[:1]
    if not rows:
        raise error
    fix = "name one of these: `lmctl down NAME`"
    problems = tuple(replace(problem, fix=fix) for problem in problems)
    data: dict[str, Json] = {"stopped": False, "declarations": [one.json() for one in rows]}
    return Result(data, lambda style: _text(rows, style), errors=problems, exit_code=error.exit_code)


def _request(context: Context) -> Request:
    options = context.options
    return Request(options.directory, options.config, elsewhere=options.elsewhere)


def _text(rows: list[Known], style: Style) -> str:
    return table([_HEADER, *(one.cells() for one in rows)], style) if rows else ""
