"""A question to the person at the terminal."""

from __future__ import annotations

import sys

from lmctl.command import Context


def asked(context: Context, question: str) -> bool | None:
    """Return whether the answer to `question` is yes; with --yes it is, and None where nobody is there to ask.

    Nothing but the flag and a terminal can answer: neither a pipe nor the environment does.
    """
    if context.options.yes:
        return True
    if not (sys.stdin.isatty() and context.err.isatty()):
        return None
    context.err.write(f"{question} [y/N] ")
    context.err.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
