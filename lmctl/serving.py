"""Carrying out changes of programs: ports first, one write, one reload, starts, then health over HTTP."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from lmctl import condition, logtail, unsupervised
from lmctl.desired import Desired, lives, running_rivals
from lmctl.errors import LmctlError, escape
from lmctl.host import Daemon, Progress
from lmctl.ledger import Applied
from lmctl.plan import Change
from lmctl.record import replace
from lmctl.resource import Case, Outcome, Run
from lmctl.resources import weights
from lmctl.spec import Health, Process, Profile, program_id
from lmctl.text import human_id

_SOONEST = 0.01  # seconds between two times that a program is asked
_GLANCE = 0.2  # seconds between two times that supervisord is asked about it


def carry_out(changes: Mapping[str, Change], asked: Mapping[str, Desired], case: Case, run: Run) -> Iterator[Outcome]:
    """Make the programs of `changes` (by profile) what `asked` says; yield one outcome per change."""
    possible: dict[str, Change] = {}
    leaving = _leaving(changes, asked, case)
    for name, change in changes.items():
        error = _obstacle(change, asked.get(name), case, run, leaving)
        if error is None:
            possible[name] = change
        else:
            yield Outcome(change, error)
    if not possible:
        return
    waiting = {name: asked[name] for name, change in possible.items() if _starts(change, asked.get(name))}
    try:
        with run.host.desk.drained(_ending(possible, asked, case), case.declaration.front.drain_timeout):
            _write(possible, asked, case, run)
            failures = _start(waiting, run)
    except LmctlError as error:
        yield from (Outcome(change, error) for change in possible.values())
        return
    with run.unlocked():
        failures |= await_health({name: want for name, want in waiting.items() if name not in failures}, run)
    _confirm(waiting, failures, run)
    yield from (Outcome(change, failures.get(name)) for name, change in possible.items())


def _starts(change: Change, want: Desired | None) -> bool:
    return want is not None and change.verb != "delete" and (change.verb == "restart" or want.runs)


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
    if want is None or not _starts(change, want):
        return None
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


def obstacle(change: Change, want: Desired, case: Case, run: Run) -> LmctlError | None:
    """Return why a program that sleeps cannot be started."""
    return _obstacle(change, want, case, run, frozenset())


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


def _taken(want: Desired, case: Case, run: Run, leaving: frozenset[int]) -> LmctlError | None:
    """Return who else holds the port, None when it is free or becomes free."""
    port = int(want.spec.listen.rpartition(":")[2])
    listener = run.host.processes.listener(port)
    if listener is None:
        return None
    process = case.world.daemon.processes.get(want.spec.id)
    ours = {*leaving, *([process.pid] if process and process.pid else [])}
    if listener.pid and run.host.processes.root(listener.pid, ours) is not None:
        return None
    who = f"pid {listener.pid} ({escape(listener.command, 60)})" if listener.pid else "another user's process"
    if listener.pid in case.world.daemon.orphans.values():
        what = f"port {port} is held by {who}, which outlived a supervisord of lmctl"
        return LmctlError("E-PORT", what, fix="run `lmctl down`, then apply again")
    return LmctlError("E-PORT", f"port {port} is taken by {who}", fix="choose another port or stop it")


def _write(possible: Mapping[str, Change], asked: Mapping[str, Desired], case: Case, run: Run) -> None:
    supervisor, before = run.host.supervisor, case.world.daemon
    specs, replaced, starting = dict(before.specs), set(), set()
    leaving = _going(possible, asked, case)
    unsupervised.refuse_others(leaving, case)
    for name, change in possible.items():
        if change.verb == "delete":
            specs.pop(program_id(name), None)
            continue
        want = asked[name]
        if _replaces(change, want, before) or name in case.scope.again:
            replaced.add(want.spec.id)
        if _starts(change, want):
            starting.add(name)
        specs[want.spec.id] = want.spec
    with run.ledger.writing(run.host.now()) as ledger:
        ledger.starting(sorted(starting), run.host.now())
    for name in sorted(starting):
        _make_way(name, asked[name], case, run)
    # a daemon that is about to be started starts nothing by itself: not what this run has not looked at, and not the
    # rest at once, which would keep it from answering for as long as it takes to start them all
    quiet = [replace(spec, autostart=False) for spec in specs.values()]
    supervisor.write(quiet if before.pid is None else list(specs.values()))
    unsupervised.end(leaving, case, run)
    supervisor.reload(frozenset(replaced))
    supervisor.write(list(specs.values()))
    _record(possible, asked, run)


def _going(possible: Mapping[str, Change], asked: Mapping[str, Desired], case: Case) -> frozenset[str]:
    """Return the profiles whose processes of today end in this run: what it starts, removes or makes way from."""
    starting = {name for name, change in possible.items() if _starts(change, asked.get(name))}
    rivals = {rival for name in starting & case.scope.run for rival in running_rivals(case, asked[name].profile)}
    return frozenset({*starting, *rivals, *(name for name, change in possible.items() if change.verb == "delete")})


def _ending(possible: Mapping[str, Change], asked: Mapping[str, Desired], case: Case) -> frozenset[str]:
    """Return those of them that serve now, behind a gateway: what is asked of them may end first."""
    if not case.declaration.front.enabled:
        return frozenset()
    return frozenset(name for name in _going(possible, asked, case) if lives(case, name))


def _replaces(change: Change, want: Desired, before: Daemon) -> bool:
    old, process = before.specs.get(want.spec.id), before.processes.get(want.spec.id)
    # one that the daemon knows and no file declares has lost its file
    return process is not None if old is None else old.hash != want.spec.hash or _stale(process, want)


def rewrite(change: Change, run: Run) -> Outcome:
    """Write what belongs to no program as it was meant; nothing restarts, and no daemon is started for it."""
    supervisor = run.host.supervisor
    try:
        daemon = supervisor.observe()
        supervisor.write(list(daemon.specs.values()))
        if daemon.pid is not None:
            supervisor.reload(frozenset())
    except LmctlError as error:
        return Outcome(change, error)
    return Outcome(change)


def _stale(process: Process | None, want: Desired) -> bool:
    return process is not None and process.running and process.hash not in (None, want.spec.hash)


def _make_way(name: str, want: Desired, case: Case, run: Run) -> None:
    """A deliberate start lifts a hold, clears the count of crashes and, where it was asked for, stops a rival."""
    for rival in running_rivals(case, want.profile) if name in case.scope.run else ():
        run.say(f"stopping {rival}: it runs in the place of {name}")
        run.host.supervisor.stop(program_id(rival))
    run.host.supervisor.release(want.spec.id)


def _record(possible: Mapping[str, Change], asked: Mapping[str, Desired], run: Run) -> None:
    with run.ledger.writing(run.host.now()) as ledger:
        for name, change in possible.items():
            want = asked.get(name)
            if change.verb == "delete" or want is None:
                ledger.applied(change.address, None, run.generation)
                ledger.port(name, None)
                ledger.confirm(name)
                continue
            ledger.applied(change.address, Applied(want.fields, want.spec.hash), run.generation)
            if want.profile.port is None:
                ledger.port(name, want.spec.listen)
            if _starts(change, want):
                ledger.lift(name)


def _confirm(waiting: Mapping[str, Desired], failures: Mapping[str, LmctlError], run: Run) -> None:
    """Forget that starts were under way; one that still runs without having been seen healthy is waited for again."""
    processes = run.host.supervisor.observe().processes if failures else {}
    with run.ledger.writing(run.host.now()) as ledger:
        for name, want in waiting.items():
            process = processes.get(want.spec.id)
            if name not in failures or process is None or not process.running:
                ledger.confirm(name)


def _start(waiting: Mapping[str, Desired], run: Run) -> dict[str, LmctlError]:
    """Start programs; return the error of each that does not start, of all where supervisord does not answer."""
    if not waiting:
        return {}
    try:
        run.host.supervisor.start(*(want.spec.id for want in waiting.values()))
    except LmctlError as error:
        refused = {problem.change: LmctlError.of([replace(problem, change="")]) for problem in error.problems}
        if "" in refused:
            return dict.fromkeys(waiting, error)
        return {name: refused[want.spec.id] for name, want in waiting.items() if want.spec.id in refused}
    return {}


def await_health(waiting: Mapping[str, Desired], run: Run) -> dict[str, LmctlError]:
    """Probe until every program is healthy, dead or out of time; return the error of each that is not healthy.

    Waiting adds at most a twentieth to the time that a program needs.
    """
    failures: dict[str, LmctlError] = {}
    pending = dict(waiting)
    begin, seen, daemon = time.monotonic(), -math.inf, Daemon(None, {}, {})
    with _side_by_side(len(pending)) as each:
        while pending and not run.stop.is_set():
            asked = time.monotonic()
            if asked - seen >= _GLANCE or any(want.spec.id not in daemon.processes for want in pending.values()):
                daemon, seen = run.host.supervisor.observe(), asked
            known, names = daemon, list(pending)
            tries = each(lambda name: _probe(pending[name], known, run), names)  # noqa: B023 done in this round
            for name, health in zip(names, tries, strict=True):
                elapsed = time.monotonic() - begin
                verdict = _verdict(pending[name], health, daemon, elapsed, run)
                if health.state == "healthy" or verdict is not None:
                    want = pending.pop(name)
                    why = verdict.problems[0].what.partition("\n")[0] if verdict else want.spec.listen
                    run.on_progress(Progress(name, 1, 1, "failed" if verdict else "done", why))
                else:
                    run.on_progress(Progress(name, 0, 0, "wait", health.why or health.state))
                if verdict is not None:
                    failures[name] = verdict
            if pending:
                now = time.monotonic()
                # asking many takes what they need to start
                busy = 2 * (now - asked) if len(waiting) > 1 else 0.0
                run.stop.wait(min(1.0, max(_SOONEST, (now - begin) / 20, busy)))
    return failures | {name: _interrupted(name) for name in pending}


@contextmanager
def _side_by_side(count: int) -> Iterator[Callable[[Callable[[str], Health], list[str]], list[Health]]]:
    """Yield what asks about several names at once; a single one needs no threads."""
    if count < 2:
        yield lambda ask, names: [ask(name) for name in names]
        return
    with ThreadPoolExecutor(max_workers=min(16, count)) as pool:
        yield lambda ask, names: [*pool.map(ask, names)]


def _interrupted(name: str) -> LmctlError:
    what = f"{name} was started and is not healthy yet"
    return LmctlError("E-INTERRUPTED", what, fix="see `lmctl status`; `lmctl apply` waits for it")


def _probe(want: Desired, daemon: Daemon, run: Run) -> Health:
    process = daemon.processes.get(want.spec.id)
    if process is None or process.pid is None:
        return Health("down", process.state.lower() if process else "supervisord does not know it")
    return run.host.processes.probe(want.spec.listen, want.probe, process.pid)


def _verdict(want: Desired, health: Health, daemon: Daemon, elapsed: float, run: Run) -> LmctlError | None:
    """Return why to give up on a program, None to go on waiting (or when it is healthy)."""
    if health.state == "healthy":
        return None
    name, process = want.profile.name, daemon.processes.get(want.spec.id)
    hint = f"read `lmctl logs {name}`"
    if daemon.pid is None and not daemon.problem:
        return LmctlError("E-SUPERVISOR", f"supervisord was stopped before {name} was healthy", fix="run `lmctl apply`")
    if _stopped(want.spec.id, daemon):
        return LmctlError("E-UNHEALTHY", f"{name} was stopped before it was healthy", fix=f"run `lmctl start {name}`")
    if condition.crashed(process):
        ending = run.host.supervisor.ending(want.spec.id)
        how = f" ({ending})" if ending else ""
        what = f"{name} crashed again and again{how}{_last_words(run, want.spec.id)}"
        return LmctlError("E-CRASHLOOP", what, fix=hint)
    if process is not None and process.state == "FATAL":  # EXITED is the moment before supervisord starts it again
        what = f"{name} cannot be started: {escape(process.spawn_error)}{_last_words(run, want.spec.id)}"
        return LmctlError("E-ENGINE", what, fix=hint)
    if elapsed > want.timeout:
        why = f": {escape(health.why)}" if health.why else ""
        what = f"{name} is not healthy after {elapsed:.0f} s ({health.state}{why})"
        asked = want.probe.health
        wrong = want.profile.backend == "command" and f"{asked} answers " in health.why
        other = f"or correct `health`, which is {escape(asked)}" if wrong else "or raise start_timeout"
        return LmctlError("E-UNHEALTHY", what, fix=f"{hint}, {other}")
    return None


def _stopped(program: str, daemon: Daemon) -> bool:
    """Whether somebody stopped the program meanwhile, and held it or removed it."""
    process = daemon.processes.get(program)
    if process is None:
        return program in daemon.held or (program not in daemon.specs and not daemon.problem)
    return not process.running and program in daemon.held


def _last_words(run: Run, program: str) -> str:
    """Return the end of a program's log as lines of their own; empty when there is none."""
    return "".join(f"\n  | {line}" for line in logtail.last_words(run.host.supervisor.log(program)))
