"""What --debug tells of talks with other programs: a line for each question, without headers, queries and bodies."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lmctl.errors import escape

_sinks: list[Callable[[str], None]] = []  # of this process; nobody listens without --debug


@contextmanager
def shown(sink: Callable[[str], None]) -> Iterator[None]:
    """Let `sink` have every line as long as this lasts."""
    _sinks.append(sink)
    try:
        yield
    finally:
        _sinks.remove(sink)


@contextmanager
def asking(what: str) -> Iterator[Callable[[object], None]]:
    """Tell of one question once it has ended: with what the yielded function was given, or by which exception."""
    if not _sinks:
        yield _unheard
        return
    began, outcome = time.monotonic(), ["no answer"]

    def ended(how: object) -> None:
        outcome[0] = str(how)

    try:
        yield ended
    except BaseException as error:
        outcome[0] = type(error).__name__
        raise
    finally:
        spent = (time.monotonic() - began) * 1000
        for sink in _sinks:
            sink(escape(f"debug: {what} -> {outcome[0]} in {spent:.0f} ms", 400))


def _unheard(how: object) -> None:
    """Nobody listens."""


def bare(url: str) -> str:
    """Return an address without user, password and query, which may be secrets."""
    scheme, slashes, rest = url.partition("://")
    place, question, _ = rest.partition("?")
    host, slash, path = place.partition("/")
    return f"{scheme}{slashes}{host.rpartition('@')[2]}{slash}{path.partition('#')[0]}{'?…' if question else ''}"
