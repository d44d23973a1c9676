"""`lmctl gateway`: one address in front of every profile's engine, until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from lmctl.command import Context
from lmctl.errors import LmctlError
from lmctl.mutex import exclusive
from lmctl.past_sessions import in_force
from lmctl.result import Result
from lmctl.session import Session

if TYPE_CHECKING:
    from lmctl.gateway.state import State


_Stat = tuple[int, int, int, int] | None  # when a file changed last, its size and its number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes no arguments of its own: `[gateway]` says all."""


def run(context: Context, args: argparse.Namespace) -> Result:
    """Serve until interrupted.

    Raises E-USAGE where the gateway is off, E-BUSY where it runs already, E-PORT, E-BIND, and E-PERM, E-FILE or
    E-SECRET for the file of keys.
    """
    import uvloop  # the server and its parts: only this command pays for them

    from lmctl.gateway.server import listener, serve
    from lmctl.usage.recorder import Recorder

    current = in_force(context)
    current.refuse_foreign_name()
    if not current.declaration.front.enabled:
        raise LmctlError("E-USAGE", "the gateway is off", fix="set `enabled = true` in [gateway]")
    follower = _Follower(context, current)
    first, accounts = follower.state, current.declaration.accounts
    host, port = first.addresses[0]
    with exclusive(current.state / "gateway.lock", "lmctl gateway"), listener(host, port) as front:
        if not context.options.quiet:
            names = ", ".join(first.routes.targets) or "nothing yet"
            context.err.write(f"http://{host}:{port}/v1 answers for {names}\n")
            context.err.flush()
        follower.note()
        recorder = Recorder(current.state / "usage.db", accounts.keep, say=follower.say)
        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(serve(first, front, recorder, follower.look, follower.say))
        finally:
            recorder.close()
    return Result()


class _Follower:
    """Makes the state of what is declared and what runs, anew when one of the files behind it changed."""

    def __init__(self, context: Context, current: Session) -> None:
        from lmctl.gateway import state

        self._context, self._made, self._said = context, state.of, ""
        self._noted: tuple[str, ...] = ()
        self.state = self._made(current, context.environ, offline=context.options.offline)
        self._seen: dict[Path, _Stat] = {}  # nothing: what changed since it was read shows at the first look

    def look(self) -> State | None:
        """Return a new state, None while nothing changed. What cannot be read leaves the last, and is said once."""
        seen = {path: _stat(path) for path in self.state.files}
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            found, offline = in_force(self._context), self._context.options.offline
            self.state = self._made(found, self._context.environ, offline=offline)
        except LmctlError as error:
            self._seen = {}  # what is missing may be none of these files: it is looked for again
            self.say(f"everything stays as it was: {error}")
            return None
        self._said = ""
        self.note()
        return self.state

    def note(self) -> None:
        """Tell of clouds that are not asked; the same ones once."""
        if self.state.notes not in (self._noted, ()):
            self.say("\n".join(self.state.notes))
        self._noted = self.state.notes

    def say(self, text: str) -> None:
        """Tell whoever reads the log; the same thing once."""
        if text != self._said:
            self._said = text
            self._context.err.write(f"{text}\n")
            self._context.err.flush()


def _stat(path: Path) -> _Stat:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino  # the second one tells of its mode
