"""What the gateway goes by at one moment: addresses, rules and routes, made of a declaration and of what runs."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from lmctl import client_keys, services
from lmctl.errors import LmctlError
from lmctl.gateway import clouds, routing
from lmctl.gateway.app import Rules
from lmctl.gateway.ollama_models import Known, known
from lmctl.gateway.routing import Routes
from lmctl.paths import read_regular
from lmctl.record import record, replace
from lmctl.session import Session, lock_paths
from lmctl.spec import Declaration, Lock

_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_KEY_LIMIT = 1 << 10  # bytes of the file of an engine's key


@record
class State:
    """`addresses` to listen on, the gateway's own first; `drain` is how long requests may take to end, in seconds.

    `files` are what it was made of: when none of them changes, it does not either. `notes` say which clouds are not
    asked, and why.
    """

    session: Session
    addresses: tuple[tuple[str, int], ...]
    rules: Rules
    routes: Routes
    drain: float
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def of(session: Session, environ: Mapping[str, str], *, offline: bool = False) -> State:
    """Return what a session says now. Raises E-BIND, and E-PERM, E-FILE or E-SECRET for the file of keys."""
    declaration, state = session.declaration, session.state
    front, bind = declaration.front, declaration.machine.bind
    specs = session.host.supervisor.observe().specs.values()
    listens = {one.name: f"{bind}:{one.port}" for one in declaration.profiles if one.port is not None}
    listens |= {spec.profile: spec.listen for spec in specs}
    keyed = {spec.profile: state / spec.key_file for spec in specs if spec.key_file is not None}
    routes = routing.routes(declaration.profiles, listens, front.default, _engine_keys(keyed))
    routes = replace(routes, models=_known(session))
    routes = clouds.with_clouds(routes, declaration, environ, offline=offline)
    ports = (front.port, *sorted(routes.ports))
    addresses, notes = tuple((bind, port) for port in ports), tuple(clouds.notes(routes))
    return State(session, addresses, _rules(declaration), routes, front.drain_timeout, _files(session), notes)


def _known(session: Session) -> dict[str, Known]:
    """Return what is known of every model; of a lock that cannot be read, nothing: the models answer without it."""
    try:
        lock = session.lock()
    except LmctlError:
        lock = Lock()
    return {profile.name: known(profile, lock) for profile in session.declaration.profiles}


def _rules(declaration: Declaration) -> Rules:
    front, bind = declaration.front, declaration.machine.bind
    keys = client_keys.read(front.keys_file) if front.keys_file else None
    services.refuse_open(declaration)
    hosts = frozenset() if bind in _LOOPBACK else frozenset({bind, socket.gethostname().lower()})
    return Rules(front.max_body, front.request_timeout, frozenset(front.origins), hosts, keys)


def _engine_keys(files: Mapping[str, Path]) -> dict[str, bytes]:
    """Return the key of each engine that demands one; one whose file is gone answers 401 until it is applied anew."""
    found = {}
    for profile, path in files.items():
        with suppress(LmctlError):
            found[profile] = read_regular(path, _KEY_LIMIT).strip()
    return found


def _files(session: Session) -> tuple[Path, ...]:
    declaration, state = session.declaration, session.state
    files = (declaration.file, *(declaration.folder / name for name in declaration.sources))
    own = (state / "trust.json", state / "programs", state / "keys", session.ledger.path)  # which knows of rollbacks
    named = (declaration.front.keys_file, *(cloud.key_file for cloud in declaration.clouds))
    keys = tuple(path for path in named if path is not None)
    folders = dict.fromkeys(path.parent for path in files)
    return (*files, *lock_paths(declaration), *folders, session.folders.config / "machine.toml", *own, *keys)
