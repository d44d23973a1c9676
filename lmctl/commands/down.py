"""`lmctl down`: stop every program of this declaration and its supervisord."""

from __future__ import annotations

import argparse

from lmctl import unsupervised
from lmctl.acting import standing, writing
from lmctl.command import Context
from lmctl.host import Daemon
from lmctl.result import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--wait", action="store_true", help="wait for another lmctl instead of giving up")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Stop everything, also programs that outlived a killed supervisord; `lmctl apply` brings it back."""
    current, warnings = standing(context)
    current.refuse_foreign_name()
    before = current.host.supervisor.observe()
    if before.pid is None and not before.orphans and not before.lost:
        return Result({"stopped": False}, "supervisord is not running\n", warnings)
    with writing(context, current, "lmctl down", wait=args.wait):
        current.host.supervisor.shutdown()
    return Result({"stopped": True}, f"every program and supervisord stopped{_lost(before)}\n", warnings)


def _lost(before: Daemon) -> str:
    return f"; {unsupervised.lost(before)} and was found all the same" if before.lost else ""
