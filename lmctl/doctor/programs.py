"""What runs and what killed runs left: supervisord of every declaration, its socket, its orphans, its files."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from lmctl import unsupervised
from lmctl.doctor.finding import Finding, fail, ok, warn
from lmctl.errors import LmctlError, escape
from lmctl.host import Daemon
from lmctl.mutex import exclusive
from lmctl.premises import Premises
from lmctl.session import Session
from lmctl.text import human_bytes


def judge(session: Session) -> Iterator[Finding]:
    """Judge one declaration's state folder; nothing is started or stopped."""
    name, state, premises = session.declaration.name, session.state, session.host.premises
    if not state.is_dir():
        daemon = session.host.supervisor.observe()
        if daemon.lost:
            yield from _daemon(f"supervisord of {name}", daemon)
        return
    readable = os.access(state, os.R_OK | os.X_OK)
    if not readable or not premises.ground(state).writable:
        what = f"{escape(str(state))} may not be {'written' if readable else 'read'}"
        yield fail(f"state of {name}", LmctlError("E-PERM", what, fix="check who owns it and its permissions"))
    if not readable:
        return
    daemon = session.host.supervisor.observe()
    yield from _daemon(f"supervisord of {name}", daemon)
    socket = premises.stale_socket(state)
    if socket is not None:
        what = f"{escape(str(socket))} is left of a supervisord that is gone"
        yield warn(f"socket of {name}", what, "lmctl doctor --fix", partial(_remove_socket, session))
    yield from _unit(session)
    yield from _ledger(session)
    yield from _left(f"files of {name}", premises, state)
    yield from _loose(f"modes of {name}", premises, state)


def _daemon(check: str, daemon: Daemon) -> Iterator[Finding]:
    if daemon.problem:
        fix = "run `lmctl down`, then `lmctl apply`"
        yield fail(check, LmctlError("E-SUPERVISOR", f"it cannot be asked: {daemon.problem}", fix=fix))
    elif daemon.lost:
        fix = "run `lmctl apply` for all profiles, or `lmctl down`"
        yield fail(check, LmctlError("E-SUPERVISOR", f"{unsupervised.lost(daemon)} and still runs", fix=fix))
    elif daemon.orphans:
        pids = ", ".join(str(pid) for _, pid in sorted(daemon.orphans.items()))
        what = f"it is gone, and programs that it started still run (pid {pids})"
        yield fail(check, LmctlError("E-SUPERVISOR", what, fix="run `lmctl down`, then `lmctl apply`"))
    elif daemon.pid is None:
        yield ok(check, "not running")
    else:
        running = sum(process.running for process in daemon.processes.values())
        yield ok(check, f"pid {daemon.pid}, {running} of {len(daemon.processes)} programs run")
    if daemon.edited:
        what = f"edited by hand: {', '.join(daemon.edited[:3])}"
        yield warn(check, what, "`lmctl apply` writes it anew")
    for name in daemon.stranded:
        yield warn(check, f"its script {name!r} names a Python that is gone", "`lmctl apply` writes it anew")


def _unit(session: Session) -> Iterator[Finding]:
    """Tell whether supervisord comes up at login, where anything was done for it."""
    check, script = f"service of {session.declaration.name}", (session.state / "service").exists()
    try:
        unit, state = session.unit, session.unit.state()
    except LmctlError as error:
        if script:
            yield fail(check, error, "warn")
        return
    if state == "ours" and unit.enabled() and script:
        yield ok(check, f"starts at login, by {escape(str(unit.path))}")
    elif state == "ours" or (state == "absent" and (script or unit.link_left())):
        yield warn(check, f"{escape(str(unit.path))} starts nothing", "`lmctl service install`, or `uninstall`")
    elif state == "edited":
        yield ok(check, f"{escape(str(unit.path))} was edited: lmctl leaves it alone")


def _remove_socket(session: Session) -> None:
    with _writing(session):
        session.host.premises.remove_socket(session.state)


def _writing(session: Session) -> AbstractContextManager[object]:
    return exclusive(session.writer, "lmctl doctor --fix")


def _ledger(session: Session) -> Iterator[Finding]:
    check = f"ledger of {session.declaration.name}"
    path = session.ledger.path
    if os.path.lexists(path) and not path.is_file():
        fix = "move it away, then run `lmctl apply`: it begins a new one"
        yield fail(check, LmctlError("E-STATE", f"{escape(str(path))} is no regular file", fix=fix))
        return
    memory = session.ledger.read()
    if memory.problem is not None:
        yield fail(check, LmctlError.of([memory.problem]))
    else:
        brought = [row for row in memory.owned if row.kind == "blob"]
        size = human_bytes(sum(row.signature.size for row in brought))
        yield ok(check, f"{len(brought)} files that lmctl brought, {size}")
    aside = sorted(session.state.glob("*.corrupt-*"))
    if aside:
        what = f"{escape(aside[-1].name)} was put aside because it could not be read"
        yield warn(check, what, "look at it if you miss something, then remove it")


def _left(check: str, premises: Premises, state: Path) -> Iterator[Finding]:
    found = premises.left(state)
    if found:
        what = f"{len(found)} temporary files of killed runs, such as {escape(str(found[0]))}"
        yield warn(check, what, "lmctl doctor --fix", partial(premises.remove_left, state))


def _loose(check: str, premises: Premises, state: Path) -> Iterator[Finding]:
    found = premises.loose(state)
    if found:
        what = f"other users may open {len(found)} of lmctl's own files, such as {escape(str(found[0]))}"
        yield warn(check, what, "lmctl doctor --fix", partial(premises.tighten, state))
