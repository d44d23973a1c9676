"""`lmctl logs`: what a profile's engine printed, read from its file."""

from __future__ import annotations

import argparse
import errno
import json
import os
import select
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from lmctl import logtail
from lmctl.acting import running, standing
from lmctl.arguments import within
from lmctl.command import Context
from lmctl.errors import LmctlError, OutputError, escape
from lmctl.result import Result, write
from lmctl.spec import program_id

_POLL = 0.2  # seconds between two looks at a log that is followed
_QUIET = 1.0  # seconds after which a line without an end is shown


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profile", nargs="?", metavar="PROFILE")
    parser.add_argument("-f", "--follow", action="store_true", help="go on printing what is added")
    parser.add_argument(
        "-n", "--lines", type=within(0, 1_000_000), default=100, metavar="N", help="how many lines to begin with (100)"
    )


def run(context: Context, args: argparse.Namespace) -> Result:
    """Print the last lines; with `-f` everything that follows, until interrupted."""
    current, warnings = standing(context)
    current.refuse_foreign_name()
    running(current, [args.profile] if args.profile else [])
    path = current.host.supervisor.log(program_id(args.profile))
    lines, position = _tail(path, args.lines, whole=args.follow)
    if position is None and not context.options.quiet:
        waits = "; waiting for it to start" if args.follow else f" (`lmctl start {args.profile}` starts it)"
        context.err.write(f"{args.profile} has not run here yet, so it has no log{waits}\n")
        context.err.flush()
    if not args.follow:
        text = "".join(f"{line}\n" for line in lines)
        return Result({"profile": args.profile, "lines": list(lines)}, text, warnings)
    for line in _follow(path, lines, position or 0, lambda: _refuse_gone(context.out)):
        write(context.out, json.dumps({"line": line}) + "\n" if context.options.json else f"{line}\n")
    return Result()


def _tail(path: Path, count: int, *, whole: bool) -> tuple[list[str], int | None]:
    """Return the last `count` lines, safe to show, and the position behind them in bytes, None where there is no log.

    With `whole` a last line that has not ended yet is left out. Raises E-PERM.
    """
    try:
        (*lines, rest), position = logtail.end(path)
    except FileNotFoundError:
        return [], None
    except OSError as error:
        what = f"{escape(str(path))} cannot be read: {os.strerror(error.errno or 0)}"
        raise LmctlError("E-PERM", what, fix="check its permissions") from error
    if rest and not whole:
        lines, rest = [*lines, rest], b""
    return [logtail.shown(line) for line in lines[-count:]] if count else [], position - len(rest)


def _refuse_gone(out: TextIO) -> None:
    """Raise OutputError when nobody reads any more: an engine that is silent would keep us here for nobody."""
    try:
        number = out.fileno()
    except (OSError, ValueError):  # no file: a test reads along
        return
    asked = select.poll()
    asked.register(number, 0)
    if any(event & (select.POLLERR | select.POLLHUP) for _, event in asked.poll(0)):
        raise OutputError(errno.EPIPE, os.strerror(errno.EPIPE))


def _follow(path: Path, lines: list[str], position: int, idle: Callable[[], None] = lambda: None) -> Iterator[str]:
    """Yield lines as they come; a file that shrank or was replaced is read from its beginning.

    A line that has not ended is held back until it does, or until nothing more comes for a while. `idle` is called
    before each pause.
    """
    yield from lines
    inode, pending, heard, cut = _inode(path), b"", time.monotonic(), False
    while True:
        try:
            with path.open("rb") as file:
                if _inode(path) != inode or file.seek(0, 2) < position:
                    yield from [logtail.shown(pending)] if pending else []
                    inode, position, pending, cut = _inode(path), 0, b"", False
                file.seek(position)
                chunk = file.read(1 << 20)
                position += len(chunk)
        except FileNotFoundError:
            chunk = b""
        pending += chunk
        *whole, pending = pending.split(b"\n")
        if whole:
            whole, cut = whole[cut and not whole[0] :], False  # the end of what was shown already
        yield from (logtail.shown(line) for line in whole)
        heard = time.monotonic() if chunk else heard
        if len(pending) > logtail.LINE or (pending and time.monotonic() - heard > _QUIET):
            yield logtail.shown(pending)
            pending, cut = b"", True
        if not chunk:
            idle()
            time.sleep(_POLL)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0
