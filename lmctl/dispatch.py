"""One run: arguments to context, context to result, the result to the terminal; the one place that catches."""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from lmctl.all_commands import COMMANDS, load
from lmctl.arguments import Asked, as_far_as_known, parse
from lmctl.command import Context, Options
from lmctl.compose import make_context
from lmctl.errors import BUG, INTERRUPTED, TERMINATED, LmctlError, OutputError, escape
from lmctl.paths import disk_error
from lmctl.result import Result, render, style_for

_ACTING = frozenset(["apply", "doctor", "start", "restart", "trust"])


def dispatch(argv: Sequence[str]) -> int:
    """Run one command and tell how it ended; return its exit code. Raises OSError when that cannot be written."""
    name, args = next((word for word in argv if word in COMMANDS), ""), as_far_as_known(argv)
    try:
        name, args = parse(argv)
        result = load(name).run(_context(name, args), args)
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
        result = _of_the_disk(error) or _bug(error, _debug(argv))
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
    """Print the traceback of an error that is then reported as usual."""
    import traceback  # only with --debug

    traceback.print_exception(error)


def _of_the_disk(error: Exception) -> Result | None:
    """Return what is told of a disk that is full or broken, where no part of lmctl knew more to say of it."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return None
    return Result.failed(disk_error(Path(os.fsdecode(error.filename or "a file of lmctl")), error))


def _bug(error: Exception, debug: bool) -> Result:
    if debug:
        raise_shown(error)
    what = f"{type(error).__name__}: {escape(str(error))}"
    failure = LmctlError("E-BUG", what, fix="a defect of lmctl: run it with --debug and report what it prints")
    return Result(errors=failure.problems, exit_code=BUG)


def _context(name: str, args: argparse.Namespace) -> Context:
    directory = Path(args.directory) if args.directory else Path()
    options = Options(
        directory=Path.cwd() / directory,
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
