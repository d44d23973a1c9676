"""Drift of programs: their files against the declaration and the last apply, and what runs against the files. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from lmctl import desired, services
from lmctl.desired import Desired
from lmctl.drift.records import APPLY, DOWN, Drift, Field, Seen, made
from lmctl.errors import LmctlError
from lmctl.ledger import Applied
from lmctl.plan import Cause, difference
from lmctl.record import record, replace
from lmctl.resource import Case
from lmctl.resources import program
from lmctl.spec import Json, ProgramSpec, program_id

_WRITTEN = "as lmctl writes it"


@record
class _Program:
    """One program as it is declared, written into files and last applied."""

    name: str
    want: Desired | None
    spec: ProgramSpec | None
    last: Applied | None

    @property
    def address(self) -> str:
        return program.address(self.name)

    @property
    def id(self) -> str:
        return program_id(self.name)

    def was(self, value: Json) -> Json:
        """Return `value`, which is what an apply leaves, if one is remembered."""
        return None if self.last is None else value


def of_supervisor(case: Case) -> Iterator[Drift]:
    """Yield what is wrong with supervisord, and with what belongs to no program of ours."""
    daemon = case.world.daemon
    if daemon.problem:
        yield made("unverifiable", "supervisord", [Field("supervisord", "answers", "answers", daemon.problem)], DOWN)
    if daemon.lost:
        yield made("orphan_owned", "supervisord", [Field("state folder", "there", "there", "deleted while it ran")])
    own = services.names(case.declaration)
    known = {*daemon.specs, *own, *(program_id(profile.name) for profile in case.declaration.profiles)}
    rows = [Field(name, _WRITTEN, _WRITTEN, "edited by hand") for name in program.unclaimed(case)]
    rows += [Field(name, _WRITTEN, _WRITTEN, program.STRANDED) for name in daemon.stranded]
    if rows:
        yield made("modified", program.FILES, rows)
    for name in sorted(daemon.processes.keys() - known):
        row = Field("program", None, None, "supervisord knows it, no file of lmctl's does")
        yield made("collision_unmanaged", f"supervisord:{name}", [row], DOWN)


def of_programs(case: Case, seen: Seen) -> Iterator[Drift]:
    """Yield every drift of a program that is declared, written or, where that is all there is, remembered."""
    asked = desired.programs(case) if seen.declared else desired.Programs({}, {}, {})
    last = case.world.memory.applied or {}
    specs = {spec.profile: spec for spec in case.world.daemon.specs.values()}
    for name, error in asked.refused.items():
        yield _refused(program.address(name), error)
    names = {*asked.ready, *specs}
    if not seen.declared:
        names |= {address.partition(":")[2] for address in last if address.startswith(f"{program.NAME}:")}
    for name in sorted(names - asked.refused.keys() - asked.waiting.keys()):
        one = _Program(name, asked.ready.get(name), specs.get(name), last.get(program.address(name)))
        yield from _of(one, case, seen)


def _refused(address: str, error: LmctlError) -> Drift:
    problem = error.problems[0]
    row = Field("engine" if error.code == "E-ENGINE" else error.code, "fine", "fine", problem.what)
    return made("unverifiable", address, [row], problem.fix or APPLY)


def _of(one: _Program, case: Case, seen: Seen) -> Iterator[Drift]:
    if one.spec is None:
        yield made("missing", one.address, [Field("program", "there", one.was("there"), None)])
    elif one.want is None and seen.declared:
        yield made("orphan_owned", one.address, [Field("program", None, one.was("there"), "there")])
    else:
        rows = tuple(_differences(one, one.spec, case))
        if rows:
            found = made("modified", one.address, rows)
            yield replace(found, moved=None) if one.last is None and seen.declared else found
        yield from _process(one, one.spec, case, seen)
    if one.name in seen.listeners:
        row = Field("port", one.name, one.was(one.name), seen.listeners[one.name])
        yield made("collision_unmanaged", one.address, [row], "end what listens there, then lmctl apply")


def _differences(one: _Program, spec: ProgramSpec, case: Case) -> Iterator[Field]:
    """Yield how a program's files differ from what is declared; from what was applied, where that is not known."""
    last, want = one.last, one.want
    if spec.key_file is not None and one.id in case.world.daemon.keyless:
        yield Field("key", "as lmctl made it", "as lmctl made it", "gone or damaged")
    hand = [name for name in case.world.daemon.edited if program.belongs(name, one.id)]
    yield from (Field(name, "as lmctl wrote it", "as lmctl wrote it", "edited by hand") for name in hand)
    if want is None:
        if last is not None and last.hash != spec.hash:
            yield Field("configuration", last.hash[:12], last.hash[:12], spec.hash[:12])
        return
    causes = program.rendered(spec, want.spec)
    if spec.hash == want.spec.hash or (last is not None and last.hash == want.spec.hash):
        yield from (Field(cause.field, cause.after, one.was(cause.after), cause.before) for cause in causes)
    elif last is not None and last.hash == spec.hash:
        named = difference(last.fields, want.fields) or causes
        yield from (Field(cause.field, cause.after, cause.before, cause.before) for cause in named)
    else:
        yield from (Field(cause.field, cause.after, None, cause.before) for cause in causes)
    if spec.hash == want.spec.hash:
        for cause in program.quiet(spec, want):
            yield Field(cause.field, cause.after, _was(last, cause), cause.before)


def _was(last: Applied | None, cause: Cause) -> Json:
    """Return what was applied of a field that restarts nothing; what is not remembered counts as it is now."""
    if last is None or cause.field not in last.fields:
        return cause.before
    return last.fields[cause.field]


def _process(one: _Program, spec: ProgramSpec, case: Case, seen: Seen) -> Iterator[Drift]:
    """Yield what is wrong with what runs, or does not."""
    daemon, memory = case.world.daemon, case.world.memory
    process, condition = daemon.processes.get(one.id), seen.conditions.get(one.name)
    held = one.name in (memory.holds or {}) or one.id in daemon.held
    runs = one.want.runs if one.want is not None else spec.autostart and not held
    state = condition.state if condition is not None else None
    if one.id in daemon.orphans:
        row = Field("process", "supervised", one.was("supervised"), "outlived its supervisord")
        yield made("orphan_owned", one.address, [row])
    elif daemon.problem:
        return
    elif daemon.pid is not None and process is None:
        row = Field("supervisord", "knows it", one.was("knows it"), "does not know it")
        yield made("pending_reload", one.address, [row])
    elif process is not None and process.running:
        if process.hash not in (None, spec.hash):
            row = Field("configuration", spec.hash[:12], one.was(spec.hash[:12]), str(process.hash)[:12])
            yield made("stale_process", one.address, [row])
        if state == "unhealthy":
            row = Field("health", "healthy", one.was("healthy"), "unhealthy")
            yield made("unhealthy", one.address, [row], f"lmctl restart {one.name}")
    elif runs and state != "starting":
        down = "supervisord is not running" if daemon.pid is None else "not running"
        now = "stopped after crashing" if state == "crash-loop" else down
        yield made("stopped", one.address, [Field("process", "running", one.was("running"), now)])
