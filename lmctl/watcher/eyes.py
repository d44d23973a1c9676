"""What wakes the watcher: files that change, heard by a thread of `watchfiles`, and programs that end."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress

from lmctl.errors import escape
from lmctl.watcher.places import Places

_STEP, _TIMEOUT = 100, 1_000  # milliseconds: between two looks of the library at its events, until it yields anyway
QUIET = _STEP / 1_000  # seconds without a further change after which the library tells of one
_POLLED = 1_000  # milliseconds between two looks at the files where notifications fail
_MOST = 64  # names of files that are remembered until somebody asks


class _Ear:
    """One thread that hears of changes in a set of places, until it is told to stop."""

    def __init__(self, eyes: Eyes, places: Places) -> None:
        self.places, self._folders = places, _identities(places)
        self._eyes, self._stop = eyes, threading.Event()
        self._thread = threading.Thread(target=self._hear, name="watch", daemon=True)
        self._thread.start()

    def hears(self, places: Places) -> bool:
        """Whether it hears of changes in these places, and their folders are as they were when it began."""
        return self._thread.is_alive() and (self.places, self._folders) == (places, _identities(places))

    def end(self) -> None:
        self._stop.set()

    def joined(self) -> None:
        self._stop.set()
        self._thread.join()

    def _hear(self) -> None:
        try:
            self._listen(polling=False)
        except Exception as error:  # whatever the system refuses, its own error or the library's: files are read then
            if self._stop.is_set():
                return
            if self._folders != _identities(self.places):  # one was shut or went away: the next turn looks anew
                self._eyes.note(armed=self)
                return
            self._eyes.note(problem=escape(str(error)))
            with suppress(Exception):  # time still passes: every turn reads the files and begins anew
                self._listen(polling=True)

    def _listen(self, *, polling: bool) -> None:
        armed = False
        folders = sorted(folder for folder, (*_, open_) in self._folders.items() if open_)
        for changes in _changes(folders, self._stop, polling=polling):
            if not armed and not polling:
                self._eyes.note(problem="")
            # a folder that is shut, opened or replaced is listened to anew
            other = not changes.isdisjoint(self.places.folders) and self._folders != _identities(self.places)
            files = {path for path in changes if self.places.counts(path)}
            self._eyes.note(files, armed=self if other or not armed else None)
            armed = True


def _identities(places: Places) -> dict[str, tuple[int, int, bool]]:
    """Return which folders are there, and whether they may be listened to."""
    found = {}
    for folder in places.folders:
        with suppress(OSError):
            status = os.stat(folder)  # noqa: PTH116
            found[folder] = (status.st_ino, status.st_dev, os.access(folder, os.R_OK | os.X_OK))
    return found


def _changes(folders: Sequence[str], stop: threading.Event, *, polling: bool) -> Iterator[set[str]]:
    """Yield paths that changed in folders, also none at times. Raises what the system refuses."""
    from watchfiles import watch  # a library of another language: only who watches pays for it

    found = watch(
        *folders,
        watch_filter=None,
        step=_STEP,
        rust_timeout=_TIMEOUT,
        yield_on_timeout=True,
        stop_event=stop,
        raise_interrupt=False,
        force_polling=True if polling else None,
        poll_delay_ms=_POLLED,
        recursive=False,
    )
    for changes in found:
        yield {path for _, path in changes}


class Eyes:
    """Waits until something happens. One thread uses it; the ears' threads only leave notes."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._files: set[str] = set()
        self._problem: str | None = None
        self._armed = False
        self._ear: _Ear | None = None
        self._reader, self._writer = os.pipe()
        for end in (self._reader, self._writer):
            os.set_blocking(end, False)
        self._programs: dict[int, int] = {}  # pid -> descriptor that can be read once it ended

    def watch(self, places: Places) -> None:
        """Hear of changes in other places from now on; nothing to do where they are the same ones."""
        if self._ear is not None and self._ear.hears(places):
            return
        before, self._ear = self._ear, _Ear(self, places)
        if before is not None:
            before.end()

    def follow(self, pids: Collection[int]) -> None:
        """Wake when one of these processes ends, where the system tells; elsewhere time does."""
        for pid in self._programs.keys() - set(pids):
            os.close(self._programs.pop(pid))
        for pid in set(pids) - self._programs.keys():
            with suppress(OSError, AttributeError):  # it ended already, or the system tells nobody
                self._programs[pid] = os.pidfd_open(pid)

    def wait(self, seconds: float) -> bool:
        """Sleep until something happened, at most so long; return whether a followed process ended."""
        asked = select.poll()
        for number in (self._reader, *self._programs.values()):
            asked.register(number, select.POLLIN)
        ready = {number for number, _ in asked.poll(max(0.0, seconds) * 1000)}
        ended = [pid for pid, number in self._programs.items() if number in ready]
        for pid in ended:
            os.close(self._programs.pop(pid))
        if self._reader in ready:
            with suppress(BlockingIOError):
                os.read(self._reader, 4096)
        return bool(ended)

    def taken(self) -> tuple[set[str], str | None, bool]:
        """Return and forget the files that changed, why notifications fail, whether other places were begun with.

        The reason is empty where they work again, None where nothing new is known.
        """
        with self._mutex:
            found = self._files, self._problem, self._armed
            self._files, self._problem, self._armed = set(), None, False
        return found

    def note(self, files: Collection[str] = (), problem: str | None = None, armed: object = None) -> None:
        """Leave a note and wake whoever waits; called by ears."""
        if not files and problem is None and armed is None:
            return
        with self._mutex:
            self._files.update(sorted(files)[: _MOST - len(self._files)])
            self._problem = self._problem if problem is None else problem
            self._armed = self._armed or armed is not None
        self.wake()

    def wake(self) -> None:
        """Let whoever waits return."""
        with suppress(OSError):  # it is full: it wakes already
            os.write(self._writer, b".")

    def close(self) -> None:
        """End the thread and let go of everything."""
        if self._ear is not None:
            self._ear.joined()
        self.follow(())
        os.close(self._reader)
        os.close(self._writer)
