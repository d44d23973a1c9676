"""Work that must end: in time, and soon after somebody asks to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from lmctl.errors import LmctlError, escape
from lmctl.record import record

_TICK = 0.1  # seconds between looks at the wish to stop

Result = TypeVar("Result")


def stopped(path: str) -> LmctlError:
    """Return how work on a file ends that was asked to stop."""
    what = f"{escape(path)} is not finished"
    return LmctlError("E-INTERRUPTED", what, fix="run it again: it goes on where it was interrupted")


@record
class Bounds:
    """When work ends that does not by itself: after `seconds` in all, or once `stop` is set; then `leave` is called."""

    seconds: float
    stop: threading.Event
    leave: Callable[[], None]


def within(bounds: Bounds, act: Callable[[], Result], name: str, late: LmctlError) -> Result:
    """Return what `act` returns or raise what it raises; raise `late` when it takes too long.

    Raises E-INTERRUPTED naming `name` once the work shall stop. What is not waited for any more goes on in a thread of
    its own until its server lets go, and keeps nobody from exiting: a timeout of every read would not end a server
    that sends a byte now and then.
    """
    results: list[Result] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            results.append(act())
        except BaseException as error:
            failures.append(error)
        finally:
            done.set()

    if bounds.stop.is_set():
        raise stopped(name)
    end = time.monotonic() + bounds.seconds
    threading.Thread(target=run, name="ask", daemon=True).start()
    while not done.wait(max(0.0, min(_TICK, end - time.monotonic()))):
        if bounds.stop.is_set() or time.monotonic() >= end:
            bounds.leave()
            raise stopped(name) if bounds.stop.is_set() else late
    for failure in failures:
        if bounds.stop.is_set():
            raise stopped(name) from failure
        raise failure
    return results[0]
