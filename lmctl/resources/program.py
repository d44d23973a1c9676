"""Programs: what supervisord runs for each profile, replaced only when their own configuration changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise

from lmctl import condition, desired, services, unsupervised
from lmctl.desired import Desired
from lmctl.errors import LmctlError, Problem
from lmctl.plan import Cause, Change, Stage, Verb, difference
from lmctl.resource import Case, Outcome, Run, keeps_nothing
from lmctl.resources import weights
from lmctl.spec import RESIDENT, Json, ProgramSpec, program_id

NAME = "program"
STAGE: Stage = "serve"
kept = keeps_nothing
FILES = "supervisord:files"  # the address of what belongs to no program
STRANDED = "names a Python that is gone"


def address(profile: str) -> str:
    return f"{NAME}:{profile}"


def changes(case: Case) -> Iterable[Change]:
    """Yield what has to happen to programs; one that is as declared and runs as declared yields nothing."""
    asked = desired.programs(case)
    fetched = {change.address for change in weights.changes(case)}
    needed = weights.needed(case)
    for want in (asked.ready[name] for name in sorted(asked.ready)):
        needs = {weights.address(needed[w.id].artifact) for w in want.profile.artifacts if w.id in needed}
        change = _compare(case, want, tuple(sorted(needs & fetched)))
        if change is not None:
            yield change
    for name in sorted(asked.refused):
        spec = _observed(case, name)
        cause = _refused(asked.refused[name], spec)
        yield Change("serve", "update" if spec else "create", address(name), (cause,))
    yield from _removals(case)
    yield from _leftovers(case)


def notes(case: Case) -> tuple[str, ...]:
    """Return a line per profile that would run if another did not run in its place."""
    waits = (
        f"{name} waits: {why} (`lmctl start {name}` changes places)"
        for name, why in desired.waiting(case).items()
        if "in its place" in why
    )
    return (*waits, *_asleep(case), *_more_than_trained(case), *unsupervised.note(case.world.daemon))


def _asleep(case: Case) -> Iterable[str]:
    """Yield who waits to be asked for, or cannot be."""
    names = [profile.name for profile in case.profiles() if profile.start == "on-demand"]
    if names and not case.declaration.front.enabled:
        yield f'{", ".join(names)}: start = "on-demand" counts as "manual" while the gateway is off'
    elif asleep := [name for name in names if not desired.lives(case, name)]:
        yield f"{', '.join(asleep)}: started when a request asks for it"


def _more_than_trained(case: Case) -> Iterable[str]:
    for profile in case.profiles():
        artifact = case.lock.artifacts.get(profile.weights.id) if profile.weights else None
        trained = artifact.shape.get("context_length") if artifact else None
        asked = profile.settings.ctx
        if asked is not None and isinstance(trained, int) and asked > trained:
            yield f"{profile.name}: ctx {asked} is more than the model was trained on ({trained} tokens)"


def held(case: Case, changes: Iterable[Change]) -> tuple[Problem, ...]:
    """Return a warning per profile that would run if nobody had stopped it, and that `changes` do not start either."""
    reasons = case.world.memory.holds or {}
    started = {change.address for change in changes if change.verb == "restart"}
    return tuple(
        Problem("W-HELD", f"{name} is held ({reasons.get(name, 'stopped')})", f"`lmctl start {name}` lifts it")
        for name in desired.stopped(case)
        if address(name) not in started
    )


def lifted(case: Case) -> tuple[str, ...]:
    """Return the held profiles that a person named; what starts by itself is released when it is started."""
    noted, held = case.world.memory.holds or {}, case.world.daemon.held
    named = (p.name for p in case.profiles() if p.start != "always" and case.scope.named(p.name))
    return tuple(name for name in named if name in noted or program_id(name) in held)


def named(changes: Iterable[Change]) -> tuple[str, ...]:
    """Return the profiles whose programs are among `changes`."""
    return tuple(_name(change) for change in changes if change.address.startswith(f"{NAME}:"))


def _removals(case: Case) -> Iterable[Change]:
    for name in _removed(case):
        yield Change("serve", "delete", address(name), (Cause("declared", True, None),), destroys=True)


def _removed(case: Case) -> list[str]:
    if not case.scope.whole or not (case.declaration.profiles or case.scope.leaving):
        return []
    declared = {profile.name for profile in case.declaration.profiles}
    stays = {*declared, *services.names(case.declaration), *case.scope.left}
    return sorted({spec.profile for spec in case.world.daemon.specs.values()} - stays)


def ending(case: Case) -> Mapping[int, str]:
    """Return the pid of every program that this run removes, with the program's address."""
    daemon, removed = case.world.daemon, _removed(case) if case.scope.only is None else []
    running = {name: daemon.processes.get(program_id(name)) for name in removed}
    found = {process.pid: address(name) for name, process in running.items() if process and process.pid}
    return found | {daemon.orphans[p]: address(n) for n in removed if (p := program_id(n)) in daemon.orphans}


def _refused(error: LmctlError, spec: ProgramSpec | None) -> Cause:
    if error.code == "E-ENGINE":
        return Cause("engine", spec.argv[0] if spec else None, "none")
    return Cause(error.code, None, error.problems[0].what)


def _leftovers(case: Case) -> Iterable[Change]:
    """What of lmctl's files is not as it wrote it and belongs to no program: written again, and nothing restarts."""
    names = unclaimed(case)
    causes = [Cause(name, "edited", "as lmctl writes it") for name in names]
    causes += [Cause(name, STRANDED, "as lmctl writes it") for name in case.world.daemon.stranded]
    if causes and case.scope.whole and case.declaration.profiles:
        yield Change("serve", "update", FILES, tuple(causes))


def unclaimed(case: Case) -> list[str]:
    """Return what was edited by hand and belongs to no program that is written, asked for, or runs without a file."""
    declared = (*(profile.name for profile in case.declaration.profiles), *services.names(case.declaration))
    ids = {*case.world.daemon.specs, *map(program_id, declared)}
    ids |= case.world.daemon.fileless  # nobody knows whose it is: it runs until it is ended by `down`
    return [name for name in case.world.daemon.edited if not any(belongs(name, program) for program in ids)]


def belongs(edited: str, program: str) -> bool:
    """Whether what was edited by hand is a program's section or file."""
    return edited in (program, f"program:{program}", f"programs/{program}.json")


def _observed(case: Case, profile: str) -> ProgramSpec | None:
    return case.world.daemon.specs.get(program_id(profile))


def _compare(case: Case, want: Desired, needs: tuple[str, ...]) -> Change | None:
    name = want.profile.name
    before, process = _observed(case, name), case.world.daemon.processes.get(want.spec.id)
    running = process is not None and process.running
    orphan = want.spec.id in case.world.daemon.orphans and not desired.held(case, want.profile)
    if before is None and want.spec.id in case.world.daemon.fileless:
        cause = Cause("file", "gone or damaged", "as lmctl writes it")
        return Change("serve", "restart", address(name), (cause,), needs=needs)
    if before is None:
        return Change("serve", "create", address(name), _first(want), needs=needs)
    if before.hash != want.spec.hash:
        # a change of what is declared lifts a hold
        verb: Verb = "restart" if running or orphan or want.profile.start == "always" else "update"
        return Change("serve", verb, address(name), _why(case, before, want), needs=needs)
    if orphan:
        cause = Cause("process", _word(case, want.spec.id), "supervised")
        return Change("serve", "restart", address(name), (cause,), needs=needs)
    if running and (keyless := _keyless(case, want)):
        return Change("serve", "restart", address(name), keyless, needs=needs)
    if running and process is not None and process.hash not in (None, want.spec.hash):
        cause = Cause("process", "runs an older configuration", "runs this one")
        return Change("serve", "restart", address(name), (cause,), needs=needs)
    if running and name in case.scope.again:
        cause = Cause("process", "running", "restart asked for")
        return Change("serve", "restart", address(name), (cause,), needs=needs)
    if running and name in case.world.memory.unconfirmed:
        cause = Cause("health", "not seen yet", "healthy")
        return Change("serve", "update", address(name), (cause,), needs=needs)
    if running and want.runs and want.spec.id in case.world.daemon.untrusted:
        return Change("serve", "update", address(name), (Cause("trust", "revoked", "given again"),), needs=needs)
    if want.runs and not running:
        cause = Cause("process", _word(case, want.spec.id), "running")
        return Change("serve", "restart", address(name), (cause,), needs=needs)
    return _quiet(case, before, want)


def _keyless(case: Case, want: Desired) -> tuple[Cause, ...]:
    """Return the cause where a program that demands a key has none that lmctl made."""
    lacks = want.spec.key_file is not None and want.spec.id in case.world.daemon.keyless
    return (Cause("key", "gone or damaged", "made anew"),) if lacks else ()


def _quiet(case: Case, before: ProgramSpec, want: Desired) -> Change | None:
    """Differences that restart nothing: settings of supervisord's, and files edited by hand."""
    edited = tuple(name for name in case.world.daemon.edited if belongs(name, want.spec.id))
    causes = (*rendered(before, want.spec), *quiet(before, want), *_keyless(case, want))
    causes += tuple(Cause(name, "edited by hand", "as lmctl wrote it") for name in edited)
    return Change("serve", "update", address(want.profile.name), causes) if causes else None


def quiet(before: ProgramSpec, want: Desired) -> tuple[Cause, ...]:
    """Return what differs and restarts nothing: whether it starts by itself, how long a stop may take, its address."""
    pairs = (
        ("start by itself", before.autostart, want.spec.autostart),
        ("stop_timeout", before.stop_timeout, float(want.spec.stop_seconds)),
        ("listen", before.listen, want.spec.listen),
    )
    return tuple(Cause(field, old, new) for field, old, new in pairs if old != new)


def _first(want: Desired) -> tuple[Cause, ...]:
    if want.profile.name in RESIDENT:
        return (Cause("listen", None, want.spec.listen),) if want.spec.listen else ()
    shown: dict[str, Json] = {"backend": want.profile.backend, "listen": want.spec.listen}
    return (*(Cause(field, None, value) for field, value in shown.items()), Cause("start", None, want.profile.start))


def _word(case: Case, program: str) -> str:
    daemon = case.world.daemon
    process = daemon.processes.get(program)
    if program in daemon.orphans:
        return f"orphaned (pid {daemon.orphans[program]})"
    if process is None:
        return f"not seen ({daemon.problem})" if daemon.problem else "not running"
    return "stopped after crashing" if condition.crashed(process) else process.state.lower()


def _why(case: Case, before: ProgramSpec, want: Desired) -> tuple[Cause, ...]:
    """Causes in a person's words when the ledger knows what was applied, else the flags that differ."""
    applied = (case.world.memory.applied or {}).get(address(want.profile.name))
    if applied is not None and applied.hash == before.hash:
        causes = difference(applied.fields, want.fields)
        if causes:
            return causes
    return rendered(before, want.spec)


def rendered(before: ProgramSpec, after: ProgramSpec) -> tuple[Cause, ...]:
    """Return how two renderings of a program differ, flag by flag; values of the environment are not shown."""
    causes = difference(_flags(before.argv), _flags(after.argv))
    if before.argv != after.argv and not causes:
        causes = (Cause("argv", "in another order", "as it is rendered"),)
    hidden = sorted(n for n in {*before.env, *after.env} if before.env.get(n) != after.env.get(n))
    causes += tuple(Cause(f"env.{name}", "(hidden)", "(hidden, changed)") for name in hidden)
    if before.cwd != after.cwd:
        causes += (Cause("folder", before.cwd, after.cwd),)
    if before.hash != after.hash and not causes:
        causes = (Cause("weights", before.hash[:12], after.hash[:12]),)
    return causes


def _flags(argv: tuple[str, ...]) -> Mapping[str, Json]:
    """Return argv as flag -> value; a flag without a value is true, anything else goes by its position."""
    found: dict[str, Json] = {}
    for n, (word, after) in enumerate(pairwise((*argv, "--"))):
        if word.startswith("--"):
            found[word] = True if after.startswith("--") else after
        elif n == 0 or not argv[n - 1].startswith("--"):
            found["engine" if n == 0 else f"argument {n}"] = word
    return found


def apply(changes: tuple[Change, ...], case: Case, run: Run) -> Iterable[Outcome]:
    """Write all programs, reload once, then start what must run and wait until it is healthy."""
    from lmctl import serving  # thread pools and all: only a run that changes something pays for them

    asked = desired.programs(case)
    programs = {_name(change): change for change in changes if change.address != FILES}
    yield from serving.carry_out(programs, asked.ready, asked.refused, case, run)
    yield from (serving.rewrite(change, run) for change in changes if change.address == FILES)


def _name(change: Change) -> str:
    return change.address.partition(":")[2]
