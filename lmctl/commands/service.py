"""`lmctl service`: let supervisord come up at login, by a unit of systemd or launchd; or not any more."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from lmctl import belongings, census
from lmctl.acting import standing, writing
from lmctl.command import Context
from lmctl.errors import DONE, LmctlError, Problem, escape
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import Json, Machine
from lmctl.units import Unit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "action",
        choices=("install", "uninstall", "status", "start"),
        help="start is what the unit does: supervisord comes up with what was applied last",
    )
    parser.add_argument("--name", metavar="NAME", help="the declaration by its name, whatever became of its files")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Install, remove, show or do what a unit does. Nothing but files of this user is touched."""
    current, warnings = _session(context, args.name)
    if args.action == "start":
        return _start(context, current)
    unit = current.unit
    if args.action == "install":
        return _install(context, current, unit, warnings)
    if args.action == "uninstall":
        return _uninstall(current, unit, warnings)
    return Result(_data(context, current, unit), _shown(context, current, unit), warnings)


def _session(context: Context, name: str | None) -> tuple[Session, tuple[Problem, ...]]:
    """Return the declaration that is named, from the state folder alone; else the one that is found here."""
    if name is None:
        current, warnings = standing(context)
        current.refuse_foreign_name()
        return current, warnings
    if belongings.is_name(name):
        stub = census.stub(context.folders, name, Machine())
        current = Session.of(stub, context.folders, context.host(stub))
        # a unit that was edited outlives all else that there was
        if name in census.names(context.folders) or current.unit.state() != "absent" or current.unit.enabled():
            return current, ()
    what = f"nothing of {escape(name, 80)} is on this machine"
    raise LmctlError("E-STATE", what, fix="run `lmctl apply` where it is declared")


def _start(context: Context, current: Session) -> Result:
    """Bring supervisord up with the configuration that was written last; nothing when it is up."""
    name = current.declaration.name
    if not (current.state / "supervisord.conf").exists():
        raise LmctlError("E-STATE", f"{name} was never applied here", fix="run `lmctl apply` where it is declared")
    with writing(context, current, "lmctl service start", wait=True):
        if current.host.supervisor.observe().pid is not None:
            return Result({"name": name, "started": False}, f"supervisord of {name} runs already\n")
        current.host.supervisor.reload(frozenset())
    return Result({"name": name, "started": True}, f"supervisord of {name} started\n", done=("started: supervisord",))


def _install(context: Context, current: Session, unit: Unit, warnings: tuple[Problem, ...]) -> Result:
    if not (current.state / "supervisord.conf").exists():
        what = f"{current.declaration.name} was never applied here: there is nothing to start"
        raise LmctlError("E-STATE", what, fix="run `lmctl apply` first")
    with writing(context, current, "lmctl service install", wait=True):
        unit.write()
        current.host.premises.login_script(current.state, on=True)
    data = _data(context, current, unit)
    return Result(data, _shown(context, current, unit), warnings, exit_code=DONE, done=(f"installed: {unit.name}",))


def _uninstall(current: Session, unit: Unit, warnings: tuple[Problem, ...]) -> Result:
    name = current.declaration.name
    there = unit.remove()
    current.host.premises.login_script(current.state, on=False)
    data: dict[str, Json] = {"name": name, "unit": str(unit.path), "removed": there}
    if not there:
        return Result(data, f"There was no unit of {name}.\n", warnings)
    text = f"Removed {unit.path}. What runs goes on; `lmctl down` stops it.\n"
    return Result(data, text, warnings, done=(f"removed: {unit.name}",))


def _data(context: Context, current: Session, unit: Unit) -> dict[str, Json]:
    return {
        "name": current.declaration.name,
        "unit": str(unit.path),
        "state": unit.state(),
        "enabled": unit.enabled(),
        "script": (current.state / "service").exists(),
        "linger": _lingers(context),
    }


def _shown(context: Context, current: Session, unit: Unit) -> str:
    name, state = current.declaration.name, unit.state()
    shown = escape(str(unit.path))
    if state == "absent":
        return f"{name} does not start at login; `lmctl service install` lets it.\n"
    if state != "ours":
        why = "was edited" if state == "edited" else "is not lmctl's"
        return f"{shown} {why}: lmctl leaves it alone.\n"
    if not unit.enabled() or not (current.state / "service").exists():
        return f"{shown} is there and starts nothing; `lmctl service install` mends it.\n"
    lines = [f"supervisord of {name} starts at login, by {shown}."]
    if unit.link is not None:
        lines.append(f"Before the next login: systemctl --user daemon-reload && systemctl --user start {unit.name}")
        if not _lingers(context):
            lines.append("At boot, before anybody logs in: loginctl enable-linger")
    return "\n".join(lines) + "\n"


def _lingers(context: Context) -> bool:
    """Return whether systemd starts this user's units at boot."""
    user = context.environ.get("USER") or context.environ.get("LOGNAME") or ""
    return bool(user) and "/" not in user and os.path.lexists(Path("/var/lib/systemd/linger") / user)
