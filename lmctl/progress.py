"""Progress on stderr: bars on a terminal, a plain line now and then elsewhere, nothing with -q."""

from __future__ import annotations

import json
import threading
import time
from contextlib import suppress
from types import TracebackType
from typing import Any

from lmctl.command import Context
from lmctl.errors import escape
from lmctl.host import Progress
from lmctl.record import fields
from lmctl.result import write
from lmctl.text import human_bytes, human_time

_EVERY = 5.0  # seconds between two plain lines about one file
_PATIENCE = 1.0  # seconds without a word: what is quicker needs no progress


class Reporter:
    """Tells a person what is going on; called from several threads."""

    def __init__(self, context: Context) -> None:
        self._err, self._quiet = context.err, context.options.quiet
        self._live = context.err.isatty() and not self._quiet and context.environ.get("TERM") != "dumb"
        self._patience = 0.0 if context.options.verbose else _PATIENCE
        # with --json -v events go out as JSON lines, the envelope after them
        self._stream = context.out if context.options.json and context.options.verbose else None
        self._mutex = threading.Lock()
        self._begun: dict[str, tuple[float, int]] = {}
        self._told: dict[str, float] = {}
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Reporter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            if self._bars is not None:
                self._bars.stop()

    def say(self, line: str) -> None:
        """Write one line."""
        if self._quiet:
            return
        with self._mutex, suppress(OSError):  # a terminal that is gone is no reason to end
            if self._bars is not None:
                self._bars.console.print(line, markup=False, highlight=False)
            else:
                self._err.write(f"{line}\n")
                self._err.flush()

    def progress(self, event: Progress) -> None:
        """Show how far one file or program is."""
        now = time.monotonic()
        with self._mutex:
            began, first = self._begun.setdefault(event.path, (now, event.done))
            due = now - self._told.get(event.path, began) >= _EVERY
            if self._stream is not None:
                if due or not _ticks(event):
                    self._told[event.path] = now
                    line = {name: getattr(event, name) for name in fields(event)}
                    write(self._stream, json.dumps({"event": "progress", **line}) + "\n")
                return
            urgent = event.phase == "failed" or (event.phase == "wait" and not _ticks(event))
            if self._quiet or (not urgent and now - began < self._patience):
                return
            with suppress(OSError):
                if self._live:
                    self._bar(event)
                elif urgent or event.phase == "done" or due:
                    self._told[event.path] = now
                    self._err.write(f"{_line(event, now - began, event.done - first)}\n")
                    self._err.flush()

    def _bar(self, event: Progress) -> None:
        if self._bars is None:
            self._bars = _bars(self._err)
            self._bars.start()
        if event.path not in self._tasks:
            # without a total the bar runs to and fro
            self._tasks[event.path] = self._bars.add_task(escape(event.path, 50), total=event.total or None)
        told = event.note if _ticks(event) else event.phase
        label = escape(event.path, 50) + (f" ({escape(told, 40)})" if told not in {"", "download"} else "")
        self._bars.update(self._tasks[event.path], completed=event.done, total=event.total or None, description=label)


def _ticks(event: Progress) -> bool:
    """Whether the event only says that a program is still awaited: those come several times a second."""
    return event.phase == "wait" and event.total == 0


def _line(event: Progress, elapsed: float, moved: int) -> str:
    path, note = escape(event.path), f" {escape(event.note)}" if event.note else ""
    if _ticks(event):
        return f"{path}: waiting for {human_time(elapsed)}, it is{note or ' not there yet'}"
    if event.phase == "done" and note:
        return f"{path}: listens on{note}"
    if event.phase == "failed" and note:
        return f"failed:{note}" if path in note else f"{path}: failed:{note}"
    if event.phase in {"done", "failed", "wait"}:
        return f"{path}: {event.phase}{note}"
    rate = moved / elapsed if elapsed > 0 else 0.0
    left = f", {human_time((event.total - event.done) / rate)} left" if rate > 0 else ""
    share = f"{100 * event.done // max(1, event.total)} %"
    size = f"{human_bytes(event.done)} of {human_bytes(event.total)}"
    return f"{path}: {event.phase} {share}, {size}, {human_bytes(rate)}/s{left}"


def _bars(stream: Any) -> Any:
    from rich.console import Console  # 100 ms that only a terminal with something slow to show pays
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    return Bars(*columns, console=Console(file=stream))
