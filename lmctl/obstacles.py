"""Why a program cannot be started or moved at all: asked of all of them before anything stops."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lmctl import client_keys, unsupervised
from lmctl.desired import Desired, running_rivals
from lmctl.errors import LmctlError, escape
from lmctl.plan import Change
from lmctl.resource import Case, Run
from lmctl.resources import weights
from lmctl.spec import GATEWAY, RESIDENT, Profile, program_id
from lmctl.text import human_id

Refused = Mapping[str, LmctlError]


def find(
    changes: Mapping[str, Change], asked: Mapping[str, Desired], refused: Refused, case: Case, run: Run
) -> dict[str, LmctlError]:
    """Return why changes of programs (by profile) cannot be carried out; `refused` cannot even be rendered.

    What would move behind a gateway that cannot be there stays as it is.
    """
    leaving = _leaving(changes, asked, case)
    found = {
        name: error
        for name, change in changes.items()
        if (error := refused.get(name) or _obstacle(change, asked.get(name), case, run, leaving)) is not None
    }
    return found | _unreached(changes, asked, found)


def of_one(change: Change, want: Desired, case: Case, run: Run) -> LmctlError | None:
    """Return why a program that sleeps cannot be started."""
    return _obstacle(change, want, case, run, frozenset())


def starts(change: Change, want: Desired | None) -> bool:
    """Whether carrying out a change makes its program run."""
    return want is not None and change.verb != "delete" and (change.verb == "restart" or want.runs)


def _unreached(changes: Mapping[str, Change], asked: Mapping[str, Desired], found: Refused) -> dict[str, LmctlError]:
    error = found.get(GATEWAY)
    if error is None:
        return {}
    moving = [name for name, want in asked.items() if name in changes.keys() - found.keys() and want.front is not None]
    what = "{} stays as it is: the gateway, by which it would be reached, cannot be there"
    fix = "see what is said of program:gateway"
    return {name: LmctlError(error.code, what.format(escape(name)), fix=fix) for name in moving}


def _leaving(changes: Mapping[str, Change], asked: Mapping[str, Desired], case: Case) -> frozenset[int]:
    """Return the pids that this run ends before it starts anything: what it replaces, removes or makes way from."""
    names = {name for name, change in changes.items() if change.verb in {"restart", "delete"}}
    for name in case.scope.run & changes.keys() & asked.keys():
        names.update(running_rivals(case, asked[name].profile))
    names |= case.scope.run
    found = (case.world.daemon.processes.get(program_id(name)) for name in names)
    return frozenset(process.pid for process in found if process and process.pid) | unsupervised.pids(names, case)


def _obstacle(change: Change, want: Desired | None, case: Case, run: Run, leaving: frozenset[int]) -> LmctlError | None:
    """Return why a program cannot be started at all; asked before anything stops."""
    if case.world.daemon.problem:
        return LmctlError("E-SUPERVISOR", case.world.daemon.problem, fix="run `lmctl down`, then apply again")
    if error := unsupervised.obstacle(case):
        return error
    if want is None or change.verb == "delete":
        return None
    if not starts(change, want):
        return _taken(want, case, run, leaving) if want.profile.start == "on-demand" and want.front else None
    if want.profile.name in RESIDENT:
        return _rival(want, case) or _shut(want, case) or _taken(want, case, run, leaving)
    for wanted in want.profile.artifacts:
        if not weights.verified(case, wanted.id):
            what = f"the weights of {want.profile.name} are not verified: {escape(human_id(wanted.id))}"
            return LmctlError("E-HASH", what, fix="run `lmctl apply` again")
        if error := weights.unreadable(case, wanted, want.profile.name):
            return error
    if error := _unlocked(want.profile, case, run):
        return error
    try:
        run.host.engines.check(want.profile.backend, want.spec.argv, Path(want.spec.cwd))
    except LmctlError as error:
        return error
    return _taken(want, case, run, leaving)


def _unlocked(profile: Profile, case: Case, run: Run) -> LmctlError | None:
    """Return which weights the engine would load although no lock names them: it is given their folder."""
    for wanted in profile.artifacts:
        files = case.world.found.get(wanted.id, ())
        if not any(one.file.path.endswith(".safetensors") for one in files):
            continue
        if extra := run.host.store.beside(files):
            what = f"{escape(str(extra[0]), 300)} is not locked, and the engine of {profile.name} would load it"
            return LmctlError("E-HASH", what, fix=f"move it away, or run `lmctl lock --upgrade {profile.name}`")
    return None


def _rival(want: Desired, case: Case) -> LmctlError | None:
    """Return who does already what one of lmctl's own programs is to do."""
    holder, process = case.world.daemon.locks.get(want.spec.id), case.world.daemon.processes.get(want.spec.id)
    if holder is None or holder == (process.pid if process else None) or holder in case.world.daemon.orphans.values():
        return None
    what = f"pid {holder} is a `lmctl {want.profile.name}` that somebody started"
    return LmctlError("E-BUSY", what, fix="end it, then apply again")


def _shut(want: Desired, case: Case) -> LmctlError | None:
    """Return what is wrong with the keys that clients of the gateway must show."""
    if want.profile.name == GATEWAY and case.declaration.front.keys_file is not None:
        try:
            client_keys.read(case.declaration.front.keys_file)
        except LmctlError as error:
            return error
    return None


def _taken(want: Desired, case: Case, run: Run, leaving: frozenset[int]) -> LmctlError | None:
    """Return who else holds a port that is needed, None when all are free or become free."""
    needed = [want.spec.listen] if want.spec.listen else []
    if want.front is not None and want.profile.port is not None:
        needed.append(want.front)  # the gateway's to listen on
    errors = (_held(int(address.rpartition(":")[2]), want, case, run, leaving) for address in needed)
    return next(filter(None, errors), None)


def _held(port: int, want: Desired, case: Case, run: Run, leaving: frozenset[int]) -> LmctlError | None:
    listener = run.host.processes.listener(port)
    if listener is None:
        return None
    processes = (case.world.daemon.processes.get(program) for program in (want.spec.id, GATEWAY))
    ours = {*leaving, *(process.pid for process in processes if process and process.pid)}
    ours |= {case.world.daemon.locks.get(GATEWAY, 0)}  # one that somebody started
    if listener.pid and run.host.processes.root(listener.pid, ours) is not None:
        return None
    who = f"pid {listener.pid} ({escape(listener.command, 60)})" if listener.pid else "another user's process"
    if listener.pid in case.world.daemon.orphans.values():
        what = f"port {port} is held by {who}, which outlived a supervisord of lmctl"
        return LmctlError("E-PORT", what, fix="run `lmctl down`, then apply again")
    other = case.world.taken_ports.get(port)
    if want.profile.name == GATEWAY:
        who = f"the gateway of declaration {other}" if other else who
        fix = "set another `port` in [gateway], or `enabled = false`"
        return LmctlError("E-PORT", f"port {port}, which the gateway needs, is taken by {who}", fix=fix)
    private = want.front is not None and want.spec.listen.endswith(f":{port}")
    fix = "set other `engine_ports` in [gateway], or stop it" if private else "choose another port or stop it"
    return LmctlError("E-PORT", f"port {port} is taken by {who}", fix=fix)
