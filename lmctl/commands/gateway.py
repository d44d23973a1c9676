"""`lmctl gateway`: one address in front of every profile's engine, until it is interrupted."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import os
import socket
from pathlib import Path

from lmctl.acting import session
from lmctl.command import Context
from lmctl.errors import LmctlError, escape
from lmctl.gateway import routing
from lmctl.gateway.routing import Routes
from lmctl.paths import read_regular
from lmctl.result import Result
from lmctl.session import Session

_KEYS_LIMIT = 1 << 20  # bytes of the file of keys
_SHORTEST = 16  # characters of a key: what is shorter can be guessed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes no arguments of its own: `[gateway]` says all."""


def run(context: Context, args: argparse.Namespace) -> Result:
    """Serve until interrupted. Raises E-PORT, E-BIND, and E-PERM, E-FILE or E-SECRET for the file of keys."""
    import uvloop  # the server and its parts: only this command pays for them

    from lmctl.gateway.app import Gateway, Rules
    from lmctl.gateway.server import serve
    from lmctl.gateway.slots import Unbounded

    current = session(context)
    current.refuse_foreign_name()
    front, machine = current.declaration.front, current.declaration.machine
    keys = _keys(front.keys_file) if front.keys_file else None
    loopback = machine.bind in ("127.0.0.1", "::1", "localhost")
    if keys is None and not loopback:
        what = f"the gateway would listen on {escape(machine.bind)} and ask nobody for a key"
        raise LmctlError("E-BIND", what, fix="set `gateway.api_keys_file` in machine.toml, or `bind` to 127.0.0.1")
    rules = Rules(front.max_body, front.request_timeout, frozenset(front.origins), _hosts(machine.bind), keys)
    follower = _Follower(context, current)
    with _listener(machine.bind, front.port) as listener:
        gateway = Gateway(rules, follower.routes, Unbounded(), lambda row: None)
        if not context.options.quiet:
            names = ", ".join(follower.routes.targets) or "nothing yet"
            context.err.write(f"http://{machine.bind}:{front.port}/v1 answers for {names}\n")
            context.err.flush()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(gateway, listener, front.drain_timeout, follower.look))
    return Result()


class _Follower:
    """Makes routes of what is declared and what runs, anew when one of the files behind them changed."""

    def __init__(self, context: Context, current: Session) -> None:
        self._context, self._said = context, ""
        self._read(current)
        self._seen = self._signature()

    def look(self) -> Routes | None:
        """Return new routes, None while nothing changed. What cannot be read leaves the last ones, and is said once."""
        seen = self._signature()
        if seen == self._seen:
            return None
        self._seen = seen
        try:
            self._read(session(self._context))
        except LmctlError as error:
            self._say(f"the routes stay as they were: {error}")
            return None
        self._said = ""
        self._seen = self._signature()  # of the files that it reads now
        return self.routes

    def _read(self, current: Session) -> None:
        declaration = current.declaration
        bind, profiles = declaration.machine.bind, declaration.profiles
        listens = {profile.name: f"{bind}:{profile.port}" for profile in profiles if profile.port is not None}
        listens |= {spec.profile: spec.listen for spec in current.host.supervisor.observe().specs.values()}
        self.routes = routing.routes(profiles, listens, declaration.front.default)
        self._files = (declaration.file, *(declaration.folder / name for name in declaration.sources))
        folders = {path.parent for path in self._files}
        state = current.state
        self._files += (*folders, current.folders.config / "machine.toml", state / "trust.json", state / "programs")

    def _signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(_stat(path) for path in self._files)

    def _say(self, text: str) -> None:
        if text != self._said:
            self._said = text
            self._context.err.write(f"{text}\n")
            self._context.err.flush()


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _hosts(bind: str) -> frozenset[str]:
    return frozenset({bind, socket.gethostname().lower()} if bind not in ("127.0.0.1", "::1") else ())


def _listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises E-PORT."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        what = f"the gateway cannot listen on {escape(host)}:{port}: {os.strerror(error.errno or 0)}"
        raise LmctlError(
            "E-PORT", what, fix="choose another `port` in [gateway], or stop what listens there"
        ) from error


def _keys(path: Path) -> frozenset[bytes]:
    """Return the sha256 digests of the keys in a file, one per line, `#` begins a comment.

    Raises E-PERM where others may read it, E-FILE, E-SECRET for a key that is too short; a key is never shown.
    """
    text = read_regular(path, _KEYS_LIMIT).decode("utf-8", "replace")
    if path.stat().st_mode & 0o077:
        raise LmctlError("E-PERM", f"{escape(str(path))} can be read by others", fix=f"chmod 600 {escape(str(path))}")
    lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise LmctlError("E-SECRET", f"{escape(str(path))} holds no key", fix="write one per line")
    if any(len(key) < _SHORTEST for key in keys):
        what = f"{escape(str(path))} holds a key of less than {_SHORTEST} characters"
        raise LmctlError("E-SECRET", what, fix="make one: openssl rand -hex 32")
    return frozenset(hashlib.sha256(key.encode()).digest() for key in keys)
