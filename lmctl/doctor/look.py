"""Everything doctor looks at, in the order in which it is told; nothing is changed by looking."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from lmctl import __version__, census, crash, locking
from lmctl.command import Context
from lmctl.doctor import engines, ground, partials, programs, surroundings
from lmctl.doctor.finding import Finding, fail, ok, unreadable, warn
from lmctl.errors import LmctlError, escape
from lmctl.host import Host
from lmctl.record import record
from lmctl.resource import Scope
from lmctl.session import Session
from lmctl.spec import Declaration, Machine


@record
class Patient:
    """This machine as it is asked: `declaration` None where there is none, or `problem` says why it cannot be read."""

    context: Context
    machine: Machine
    host: Host
    declaration: Declaration | None = None
    problem: LmctlError | None = None
    machine_problem: LmctlError | None = None


def patient(context: Context) -> Patient:
    """Return what there is to look at."""
    machine, declaration, problem, broken = Machine(), None, None, None
    try:
        machine = census.machine(context.folders, context.hardware())
    except LmctlError as error:
        broken = error
    try:
        declaration = context.declaration(empty=True)
    except LmctlError as error:
        problem = error
    alone = declaration or census.stub(context.folders, "doctor", machine)
    return Patient(context, machine, context.host(alone), declaration, problem, broken)


def examine(patient: Patient) -> tuple[Finding, ...]:
    """Return all findings."""
    return (
        *_lmctl(patient),
        *_defects(patient),
        *_ground(patient),
        *_machine(patient),
        engines.accelerator(patient.host.hardware),
        *engines.judge(patient.host.engines, patient.declaration),
        *_hub(patient),
        *_declaration(patient),
        *_programs(patient),
        *_partials(patient),
        *surroundings.variables(patient.context.environ),
    )


def _lmctl(patient: Patient) -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield ok("lmctl", f"{__version__}, Python {version} ({escape(sys.executable)})")
    if patient.host.premises.root():
        what = "this is root: everything that runs is root's, and a hole in an engine would be, too"
        yield Finding("user", "warn", what, "run lmctl as a user of its own", "W-ROOT")


def _defects(patient: Patient) -> Iterator[Finding]:
    """Tell of reports of defects that lie here, so that somebody hears of them."""
    reports = crash.reports(patient.context.folders)
    if reports:
        what = f"{len(reports)} kept, the latest in {escape(str(reports[0]))}"
        fix = "lmctl doctor --bundle FILE puts them into a report; then remove them"
        yield warn("defects", what, fix)


def _ground(patient: Patient) -> Iterator[Finding]:
    folders, look = patient.context.folders, patient.host.premises.ground
    hub = patient.machine.hub_cache or folders.hub
    yield from ground.state(look(folders.state))
    yield from ground.cache(look(folders.cache))
    yield from ground.weights(look(hub), look(folders.hf_home / "lmctl"))
    yield from ground.private("machine.toml", look(folders.config))


def _machine(patient: Patient) -> Iterator[Finding]:
    if patient.machine_problem is not None:
        yield fail("machine.toml", patient.machine_problem)
    elif os.path.lexists(patient.context.folders.config / "machine.toml"):
        yield ok("machine.toml", escape(str(patient.context.folders.config / "machine.toml")))


def _hub(patient: Patient) -> Iterator[Finding]:
    try:
        hub = patient.host.premises.hub()
    except LmctlError as error:
        yield fail("hub", error)
        return
    token = f"token of {escape(hub.token)}" if hub.token else "no token"
    yield ok("hub", f"{escape(hub.url)}, {token}")
    if hub.mode is not None and hub.mode & 0o077:
        shown = escape(hub.token)
        yield warn("token", f"other users may read {shown} (mode {hub.mode:04o})", f"chmod 600 {shown}")


def _declaration(patient: Patient) -> Iterator[Finding]:
    if patient.problem is not None and patient.problem.code == "E-FILE":
        yield ok("declaration", "none here; lmctl init writes one")
    elif patient.problem is not None:
        yield fail("declaration", patient.problem)
    declaration = patient.declaration
    count = len(declaration.profiles) if declaration else 0
    yield engines.open_files(declaration, *patient.host.premises.files(count))
    if declaration is None:
        return
    some = f"{count} profile{'' if count == 1 else 's'}"
    yield ok("declaration", f"{declaration.name}, {some} ({escape(str(declaration.file))})")
    for warning in declaration.warnings:
        yield Finding("declaration", "warn", warning.what, warning.fix, warning.code)
    yield from partials.beside(declaration.folder, patient.host.premises)
    try:
        stale = [problem for problem in locking.check_files(declaration) if problem.code == "E-LOCK-STALE"]
    except LmctlError as error:
        yield fail("lock", error)
    else:
        if stale:
            yield warn("lock", f"{stale[0].what}{f' (and {len(stale) - 1} more)' if stale[1:] else ''}", "lmctl lock")
        else:
            yield ok("lock", "complete")


def _programs(patient: Patient) -> Iterator[Finding]:
    """Judge every declaration; one that cannot be looked into keeps no other from being judged."""
    own, known = patient.declaration, census.names(patient.context.folders)
    # the own one may have lost all that tells of it, and run all the same
    for name in sorted({*known, *([own.name] if own else [])}):
        try:
            yield from _judged(patient, name)
        except LmctlError as error:
            yield fail(f"state of {name}", error)
        except OSError as error:
            yield fail(f"state of {name}", unreadable(error))


def _judged(patient: Patient, name: str) -> Iterator[Finding]:
    context, own = patient.context, patient.declaration
    stub = own if own and own.name == name else census.stub(context.folders, name, patient.machine)
    yield from programs.judge(Session.of(stub, context.folders, context.host(stub)))


def _partials(patient: Patient) -> Iterator[Finding]:
    declaration = patient.declaration
    if declaration is None:
        yield from partials.unknown(patient.host.store)
        return
    try:
        session = Session.of(declaration, patient.context.folders, patient.host)
        yield from partials.judge(session.look(Scope()), patient.host.store)
    except LmctlError as error:
        yield fail("partial files", error, "warn")
    except OSError as error:
        yield fail("partial files", unreadable(error), "warn")
