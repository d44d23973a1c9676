"""One run: arguments to context, context to result, the result to the terminal; the one place that catches."""

from __future__ import annotations

import argparse
import errno
import os
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from lmctl.all_commands import COMMANDS, load
from lmctl.arguments import Asked, as_far_as_known, parse
from lmctl.command import Context, Options
from lmctl.compose import make_context
from lmctl.errors import BUG, INTERRUPTED, TERMINATED, LmctlError, OutputError, escape
from lmctl.host import Host
from lmctl.paths import Folders, disk_error
from lmctl.record import replace
from lmctl.result import Result, render, style_for
from lmctl.spec import Declaration
from lmctl.trace import shown

if TYPE_CHECKING:
    from lmctl.redact import Redactor

_LIMITS = ("can't start new thread", "failed to map segment")  # what Python and the linker say of them
_ACTING = frozenset(["apply", "doctor", "rollback", "start", "restart", "trust", "watch"])


def dispatch(argv: Sequence[str]) -> int:
    """Run one command and tell how it ended; return its exit code. Raises OSError when that cannot be written."""
    name, args = next((word for word in argv if word in COMMANDS), ""), as_far_as_known(argv)
    began, declarations = time.time(), list[str]()
    try:
        name, args = parse(argv)
        with _traced(_debug(argv)):
            result = load(name).run(_noting(_context(name, args), declarations), args)
    except Asked as asked:
        result = Result({"text": asked.text}, asked.text)
    except OutputError:
        raise
    except KeyboardInterrupt as signal:
        if not args.json:
            raise
        result = Result(exit_code=getattr(signal, "exit_code", INTERRUPTED))
    except LmctlError as error:
        if _debug(argv):
            raise_shown(error)
        result = Result.failed(error)
    except Exception as error:  # the single catch: what is not the disk's doing is a bug of ours
        if _debug(argv):
            raise_shown(error)
        result = _of_the_disk(error) or _of_limits(error) or _bug(error, name)
    if result.done or result.exit_code:
        _log(name, result, began, declarations)
    style = style_for(sys.stdout, args.color or "auto", os.environ)
    try:
        render(name, result, sys.stdout, sys.stderr, as_json=args.json, quiet=args.quiet, style=style)
    except OSError:
        if result.exit_code not in (INTERRUPTED, TERMINATED):  # the terminal is what went: that was told by a signal
            raise
    return result.exit_code


def _debug(argv: Sequence[str]) -> bool:
    return "--debug" in argv or _says_yes("LMCTL_DEBUG")


def _says_yes(variable: str) -> bool:
    return os.environ.get(variable, "") not in ("", "0")


def raise_shown(error: BaseException) -> None:
    """Print the traceback of an error that is then reported as usual; secrets in its messages are hidden."""
    import traceback  # only with --debug

    sys.stderr.write(_redactor().hide("".join(traceback.format_exception(error))))


def _redactor() -> Redactor:
    from lmctl.redact import Redactor, tokens  # only where something is written down or goes wrong

    home = Path(os.environ.get("HOME") or "/")
    return Redactor(os.environ, home, tokens(os.environ, Folders.of(os.environ, home)))


def _traced(debug: bool) -> AbstractContextManager[None]:
    """Tell of every talk with the Hub, supervisord and engines, with --debug."""
    return shown(_say) if debug else nullcontext()


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


def _noting(context: Context, declarations: list[str]) -> Context:
    """Return the same context; the names of the declarations that the command works on are noted."""

    def host(declaration: Declaration) -> Host:
        if declaration.name not in declarations:  # the watcher asks for as long as it runs
            declarations.append(declaration.name)
        return context.host(declaration)

    return replace(context, host=host)


def _log(name: str, result: Result, began: float, declarations: list[str]) -> None:
    """Write what was done into lmctl's log, in the state folder of the declaration that it was done for."""
    from lmctl import belongings, logbook  # only for commands that did something, or failed

    ran = logbook.Ran(name, result, began, time.time() - began)
    home, found = os.environ.get("HOME", ""), declarations[:1] or [str(result.data.get("name") or "")]
    if ran.counts and found[0] and home.startswith("/"):
        folder = Folders.of(os.environ, Path(home)).declaration(found[0])
        if belongings.is_state(folder):  # an uninstall leaves none
            logbook.write(folder, logbook.line(ran, _redactor().hide))


def _of_the_disk(error: Exception) -> Result | None:
    """Return what is told of a disk that is full, broken or closed, where no part of lmctl knew more to say of it."""
    if isinstance(error, OSError) and error.filename and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        what = f"{escape(os.fsdecode(error.filename), 300)}: {os.strerror(error.errno)}"
        return Result.failed(LmctlError("E-PERM", what, fix="check who owns it and its permissions"))
    if isinstance(error, OSError) and error.filename and error.errno == errno.ENAMETOOLONG:
        what = f"{escape(os.fsdecode(error.filename), 80)} is longer than this system takes"
        return Result.failed(LmctlError("E-PATH", what, fix="shorten it, or the folder's path"))
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return None
    return Result.failed(disk_error(Path(os.fsdecode(error.filename or "a file of lmctl")), error))


def _of_limits(error: Exception) -> Result | None:
    """Return what is told when the system gives lmctl itself no more memory, threads or processes."""
    refused = isinstance(error, OSError) and error.errno in (errno.ENOMEM, errno.EAGAIN)
    said = isinstance(error, RuntimeError | ImportError) and any(words in str(error) for words in _LIMITS)
    if not (refused or said or isinstance(error, MemoryError)):
        return None
    what = "the system gives lmctl itself no more memory, threads or processes"
    return Result.failed(LmctlError("E-SPACE", what, fix="free some, or raise its limits (see `ulimit -a`)"))


def _bug(error: Exception, name: str) -> Result:
    from lmctl import crash  # nobody plans a bug

    what = f"{type(error).__name__}: {escape(_redactor().hide(str(error)))}"
    report = crash.write(os.environ, name, error)
    fix = "a defect of lmctl: run it with --debug and report what it prints"
    if report is not None:
        fix = f"a defect of lmctl: {escape(str(report))} holds it; `lmctl doctor --bundle FILE` makes a report to send"
    failure = LmctlError("E-BUG", what, fix=fix)
    return Result(errors=failure.problems, exit_code=BUG)


def _directory(asked: Path) -> Path:
    """Return the folder to work in. Raises E-FILE when the one that this process is in was removed."""
    try:
        return asked if asked.is_absolute() else Path.cwd() / asked
    except FileNotFoundError as error:
        what = "the folder that you are in does not exist any more"
        raise LmctlError("E-FILE", what, fix="change to one that does") from error


def _context(name: str, args: argparse.Namespace) -> Context:
    options = Options(
        directory=_directory(Path(args.directory or "")),
        elsewhere=bool(args.directory),
        config=Path(args.config) if args.config else None,
        sets=tuple(args.sets),
        json=args.json,
        quiet=args.quiet,
        verbose=args.verbose,
        offline=args.offline or _says_yes("LMCTL_OFFLINE"),
        debug=args.debug or _says_yes("LMCTL_DEBUG"),
        yes=args.yes,
        acts=name in _ACTING,
    )
    return make_context(options, dict(os.environ), args.color or "auto")
