"""`lmctl down`: stop every program of this declaration and its supervisord."""

from __future__ import annotations

import argparse

from lmctl import unsupervised
from lmctl.acting import standing, writing
from lmctl.command import Context
from lmctl.host import Daemon
from lmctl.mutex import holder
from lmctl.result import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="wait for another lmctl instead of giving up")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Stop everything, also programs that outlived a killed supervisord; `lmctl apply` brings it back."""
    current, warnings = standing(context)
    current.refuse_foreign_name()
    before = current.host.supervisor.observe()
    if before.pid is None and not before.orphans and not before.lost:
        busy = holder(current.turn)
        more = f", but another lmctl is at work and may start it: {busy}" if busy else ""
        return Result({"stopped": False}, f"supervisord is not running{more}\n", warnings)
    with writing(context, current, "lmctl down", wait=args.wait):
        current.host.supervisor.shutdown()
    text = f"every program and supervisord stopped{_lost(before)}\n"
    return Result({"stopped": True}, text, warnings, done=("stopped: all",))


def _lost(before: Daemon) -> str:
    return f"; {unsupervised.lost(before)} and was found all the same" if before.lost else ""
