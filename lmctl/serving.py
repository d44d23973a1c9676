"""Carrying out changes of programs: ports first, one write, one reload, starts, then health over HTTP."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from lmctl import condition, logtail, obstacles, unsupervised
from lmctl.desired import Desired, lives, running_rivals
from lmctl.errors import LmctlError, escape
from lmctl.host import Daemon, Progress
from lmctl.ledger import Applied
from lmctl.obstacles import Refused
from lmctl.plan import Change
from lmctl.record import replace
from lmctl.resource import Case, Outcome, Run
from lmctl.spec import GATEWAY, RESIDENT, Health, Probe, Process, program_id

_FRONTS = 10.0  # seconds that the gateway has to answer at the ports of what was started: it looks once a second
_PAUSE = 0.1  # seconds between two looks at that
_SOONEST = 0.01  # seconds between two times that a program is asked
_GLANCE = 0.2  # seconds between two times that supervisord is asked about it


def carry_out(
    changes: Mapping[str, Change], asked: Mapping[str, Desired], refused: Refused, case: Case, run: Run
) -> Iterator[Outcome]:
    """Make the programs of `changes` (by profile) what `asked` says; yield one outcome per change.

    `refused` are those of which is known already that they cannot be.
    """
    errors = obstacles.find(changes, asked, refused, case, run)
    yield from (Outcome(changes[name], error) for name, error in errors.items())
    possible = {name: change for name, change in changes.items() if name not in errors}
    if not possible:
        return
    waiting = {name: asked[name] for name, change in possible.items() if obstacles.starts(change, asked.get(name))}
    try:
        with run.host.desk.drained(_ending(possible, asked, case), case.declaration.front.drain_timeout):
            _write(possible, asked, case, run)
            failures = _start(waiting, run)
    except LmctlError as error:
        yield from (Outcome(change, error) for change in possible.values())
        return
    with run.unlocked():
        failures |= await_health({name: want for name, want in waiting.items() if name not in failures}, run)
        if case.declaration.front.enabled:
            run.host.desk.caught_up()
        _await_fronts([want for name, want in waiting.items() if name not in failures], run)
    _confirm(waiting, failures, run)
    yield from (Outcome(change, failures.get(name)) for name, change in possible.items())


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
        if obstacles.starts(change, want):
            starting.add(name)
        specs[want.spec.id] = want.spec
    with run.ledger.writing(run.host.now()) as ledger:
        ledger.starting(sorted(starting), run.host.now())
    written = [asked[name].spec for name, change in possible.items() if change.verb != "delete"]
    if keyed := [spec.id for spec in written if spec.key_file is not None]:
        supervisor.make_keys(keyed)
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
    starting = {name for name, change in possible.items() if obstacles.starts(change, asked.get(name))}
    rivals = {rival for name in starting & case.scope.run for rival in running_rivals(case, asked[name].profile)}
    return frozenset({*starting, *rivals, *(name for name, change in possible.items() if change.verb == "delete")})


def _ending(possible: Mapping[str, Change], asked: Mapping[str, Desired], case: Case) -> frozenset[str]:
    """Return those of them that serve now, behind a gateway: what is asked of them may end first."""
    if not case.declaration.front.enabled:
        return frozenset()
    return frozenset(name for name in _going(possible, asked, case) if name not in RESIDENT and lives(case, name))


def _replaces(change: Change, want: Desired, before: Daemon) -> bool:
    old, process = before.specs.get(want.spec.id), before.processes.get(want.spec.id)
    # one that the daemon knows and no file declares has lost its file
    if old is None:
        return process is not None
    return old.hash != want.spec.hash or _stale(process, want) or want.spec.id in before.keyless


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
            if want.front is not None or want.profile.port is None:
                ledger.port(name, want.spec.listen)
            if obstacles.starts(change, want):
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


def _await_fronts(healthy: Iterable[Desired], run: Run) -> None:
    """Wait until the gateway, where it runs, answers at the ports of these profiles: it opens them by itself."""
    pending = {want.front for want in healthy if want.front is not None and want.profile.port is not None}
    end = time.monotonic() + _FRONTS
    while pending and not run.stop.is_set():
        gateway = run.host.supervisor.observe().processes.get(GATEWAY)
        if gateway is None or not gateway.running or gateway.pid in (None, os.getpid()):
            return
        health = {address: run.host.processes.probe(address, Probe(), gateway.pid) for address in sorted(pending)}
        pending -= {address for address, found in health.items() if found.state == "healthy"}
        if pending and time.monotonic() > end:
            run.say(f"the gateway does not answer at {', '.join(sorted(pending))} yet: read `lmctl logs gateway`")
            return
        run.stop.wait(_PAUSE if pending else 0.0)


def _interrupted(name: str) -> LmctlError:
    what = f"{name} was started and is not healthy yet"
    return LmctlError("E-INTERRUPTED", what, fix="see `lmctl status`; `lmctl apply` waits for it")


def _probe(want: Desired, daemon: Daemon, run: Run) -> Health:
    process = daemon.processes.get(want.spec.id)
    if process is None or process.pid is None:
        return Health("down", process.state.lower() if process else "supervisord does not know it")
    if want.probe is None:
        return condition.works(daemon, want.spec.id, process.pid)
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
        asked = want.probe.health if want.probe else ""
        wrong = want.profile.backend == "command" and f"{asked} answers " in health.why
        other = f", or correct `health`, which is {escape(asked)}" if wrong else ", or raise start_timeout"
        return LmctlError("E-UNHEALTHY", what, fix=hint + ("" if name in RESIDENT else other))
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
