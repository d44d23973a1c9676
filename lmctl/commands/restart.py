"""`lmctl restart`: stop and start profiles, also when nothing about them changed."""

from __future__ import annotations

import argparse

from lmctl.acting import named, session
from lmctl.command import Context
from lmctl.commands.start import start
from lmctl.result import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profiles", nargs="*", metavar="PROFILE")
    parser.add_argument("--locked", action="store_true", help="refuse when the lock file is out of date")
    parser.add_argument("--wait", action="store_true", help="wait for another lmctl instead of giving up")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Replace what runs once all that it needs is there, and start what does not run as `lmctl start` does."""
    current = session(context)
    return start(context, current, named(current, args.profiles), args, again=True)
