"""`lmctl status`: every profile with its process, health, memory and address."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lmctl import addresses, condition, services, unsupervised
from lmctl.acting import remarks, running, standing
from lmctl.command import Context
from lmctl.condition import Condition
from lmctl.errors import DONE, UNHEALTHY, LmctlError, Problem
from lmctl.logtail import last_words
from lmctl.plan import Change
from lmctl.reconcile import make_plan
from lmctl.record import fields, record, replace
from lmctl.resource import Case, Scope
from lmctl.resources import program, weights
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import GATEWAY, RESIDENT, WATCH, Json, Profile, ProgramSpec, program_id
from lmctl.text import Style, human_bytes, human_time, table
from lmctl.usage import database, metering, sums
from lmctl.usage.rows import LOCAL, model_name
from lmctl.watcher import report
from lmctl.watcher.report import Report


@record
class Row:
    """What is known about one profile. `memory` is resident bytes, `size` bytes of weights, `uptime` seconds.

    `requests` and `tokens_per_s` are today's, None: nobody told. `since` is when it began to be late, in seconds since
    the epoch; `log` is the end of what a crashed program printed.
    """

    profile: str
    state: str
    model: str
    size: int | None
    pid: int | None
    uptime: float | None
    memory: int | None
    url: str
    drift: str
    requests: int | None = None
    tokens_per_s: float | None = None
    why: str = ""
    since: float | None = None
    log: tuple[str, ...] = ()

    def cells(self) -> list[str]:
        size = "-" if self.size is None else human_bytes(self.size)
        uptime = "-" if self.uptime is None else human_time(self.uptime)
        memory = "-" if self.memory is None else human_bytes(self.memory)
        requests = "-" if self.requests is None else str(self.requests)
        speed = "-" if self.tokens_per_s is None else f"{self.tokens_per_s:.1f}"
        head = [self.profile, self.state, self.model, size, str(self.pid or "-"), uptime, memory, requests, speed]
        return [*head, self.url, self.drift]

    def json(self) -> dict[str, Json]:
        return {**{name: getattr(self, name) for name in fields(self)}, "log": [*self.log]}

    def story(self) -> list[str]:
        """Return what the table has no column for."""
        since = f" since {_date(self.since)}" if self.since else ""
        head = [f"{self.profile} ({self.state}{since}): {self.why}"] if self.why else []
        return head + [f"  | {line}" for line in self.log]


@record
class View:
    """What rows are made of. `listens` is where each declared program would listen, `words`: the ends of logs too."""

    case: Case
    session: Session
    listens: Mapping[str, str]
    drifts: Mapping[str, str]
    words: bool


_HEADER = ["PROFILE", "STATE", "MODEL", "SIZE", "PID", "UPTIME", "MEMORY", "REQUESTS", "TOK/S", "URL", "DRIFT"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    today = "REQUESTS and TOK/S are of today, since midnight; `lmctl usage` tells of other times."
    parser.description = f"Show every profile: process, health, memory, requests, address. {today}"
    parser.add_argument("profile", nargs="?", metavar="PROFILE", help="one profile; exit 9 when it is not healthy")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Return a table of all profiles, or the state of one."""
    current, warnings = standing(context)
    current.refuse_foreign_name()
    names = running(current, [args.profile]) if args.profile else None
    case = current.look(Scope(prune=False))
    listens = {**addresses.listens(case), GATEWAY: addresses.gateway(case.declaration), WATCH: ""}
    view = View(case, current, listens, {} if warnings else _drifts(case), bool(names))
    with ThreadPoolExecutor(max_workers=16) as pool:
        tries = [pool.submit(_row, name, view) for name in _names(case) if names is None or name in names]
        rows = [each.result() for each in tries]
    memory = current.host.processes.memory({row.pid for row in rows if row.pid is not None})
    today, missed = _today(current, case)
    rows = [replace(row, memory=memory.get(row.pid or 0), **today.get(row.profile, {})) for row in rows]
    watcher = report.read(current.state)
    untrusted = any(problem.code == "E-TRUST" for problem in warnings)
    data: dict[str, Json] = {
        "name": case.declaration.name,
        "supervisord": case.world.daemon.pid,
        "watcher": watcher.json() if watcher else None,
        "untrusted_change": untrusted,
        "accelerator": case.world.hardware.accelerator,
        "profiles": [row.json() for row in rows if row.profile not in RESIDENT],
        "services": [row.json() for row in rows if row.profile in RESIDENT],
    }
    bad = args.profile and rows[0].state != "healthy"
    warnings = (*warnings, *remarks(case.world.memory), *missed)
    about = (*_untrusted(untrusted), *_watched(watcher, case.world.now))
    return Result(data, lambda style: _text(case, rows, about, style), warnings, exit_code=UNHEALTHY if bad else DONE)


def _today(current: Session, case: Case) -> tuple[dict[str, dict[str, Any]], tuple[Problem, ...]]:
    """Return what was counted of each profile since midnight, and what kept it from being known."""
    declared, path = case.declaration, database.path(current.state)
    if not declared.accounts.enabled:
        return {}, ()
    problems = metering.sample(current, case.world.daemon)
    try:
        found = sums.read(path, ("profile", "target"), database.day_begins(case.world.now))
    except LmctlError as error:
        return {}, problems or error.problems
    none = {name: sums.Sums(requests=0) for name in _names(case)} if declared.front.enabled and path.exists() else {}
    counted = {**none, **{name: one for (name, target), one in found.items() if target == LOCAL}}
    told = {name: {"requests": one.requests, "tokens_per_s": one.tokens_per_s} for name, one in counted.items()}
    return told, problems


def _names(case: Case) -> list[str]:
    """Return the declared profiles in their order, then those that only have a program, then lmctl's own programs."""
    declared = [profile.name for profile in case.declaration.profiles]
    there = {spec.profile for spec in case.world.daemon.specs.values()}
    own = [name for name in RESIDENT if name in there or name in services.names(case.declaration)]
    return declared + sorted(there - {*declared, *RESIDENT}) + own


def _drifts(case: Case) -> dict[str, str]:
    """Return how profiles differ from what is declared, in the words of DRIFT; the program's own words come first."""
    changes = {change.address: change for change in make_plan(case).changes}
    declared = {profile.name: profile for profile in case.declaration.profiles}
    found = {spec.profile: "not declared" for spec in case.world.daemon.specs.values()}
    for name, profile in declared.items():
        change = changes.get(program.address(name))
        if any(wanted.id not in case.lock.artifacts for wanted in profile.artifacts):
            found[name] = "not locked"
        elif change is not None and change.word != "start":
            found[name] = _drift(change)
        else:
            found[name] = _weights(case, profile) or _drift(change)
    own = services.names(case.declaration)
    return found | {name: _drift(changes.get(program.address(name))) for name in own}


def _drift(change: Change | None) -> str:
    """Return how a program differs from what is declared, in the words of DRIFT."""
    if change is None:
        return "none"
    words = {"create": "not applied", "update": "pending", "restart": "pending restart"}
    return "pending start" if change.word == "start" else words.get(change.verb, "none")


def _weights(case: Case, profile: Profile) -> str | None:
    """Return what is wrong with the profile's weights, None when nothing is, or when they wait for a start."""
    files = [file for wanted in profile.artifacts for file in case.world.found.get(wanted.id, ())]
    states = {weights.state(case, file) for file in files}
    if "modified" in states:
        return "weights touched"
    return "weights missing" if "missing" in states and case.fetches(profile) else None


def _untrusted(found: bool) -> list[str]:
    return ["untrusted change: what runs goes on, and nothing is applied until `lmctl trust`"] if found else []


def _watched(watcher: Report | None, now: float) -> list[str]:
    """Return who watches, since when, and what is in the way; nothing when nobody does."""
    if watcher is None:
        return []
    since = f" since {_date(watcher.since)}" if watcher.since is not None else ""
    looked = f", looked {human_time(max(0.0, now - watcher.looked))} ago" if watcher.looked is not None else ""
    pid = "" if watcher.pid is None else f" by pid {watcher.pid}"
    problems = (str(one).replace("error[", "warning[", 1) for one in watcher.problems)
    return [f"watched{pid}{since}{looked}", *(f"  | {line}" for line in problems)]


def _date(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _text(case: Case, rows: list[Row], about: Iterable[str], style: Style) -> str:
    hardware = case.world.hardware
    accelerator = "no accelerator" if hardware.accelerator == "none" else hardware.accelerator
    head = f"{case.declaration.name}: {_daemon(case)}, {human_bytes(hardware.ram)} memory, {accelerator}"
    lines = [line for row in rows for line in row.story()]
    more = "".join(f"{line}\n" for line in ["", *lines]) if lines else ""
    heads = "".join(f"{style.dim(line)}\n" for line in (head, *about))
    return f"{heads}{table([_HEADER, *(row.cells() for row in rows)], style)}{more}"


def _daemon(case: Case) -> str:
    daemon = case.world.daemon
    if daemon.problem:
        number = f" (pid {daemon.pid})" if daemon.pid else ""
        return f"{daemon.problem}{number}: run `lmctl down`, then `lmctl apply`"
    if daemon.lost:
        return f"{unsupervised.lost(daemon)}: run `lmctl apply`, or `lmctl down`"
    return f"supervisord pid {daemon.pid}" if daemon.pid else "supervisord is not running"


def _row(name: str, view: View) -> Row:
    case, host, program = view.case, view.session.host, program_id(name)
    profile, spec = case.declaration.profile(name), case.world.daemon.specs.get(program)
    listen = spec.listen if spec else view.listens[name]
    now = _left(condition.of(name, case, host.processes.probe), listen, view)
    process = case.world.daemon.processes.get(program)
    started = process.started if process and process.pid == now.pid else None
    wanted = profile.artifacts if profile else ()
    artifacts = [case.lock.artifacts[one.id] for one in wanted if one.id in case.lock.artifacts]
    crashed = now.state == "crash-loop"
    ending = host.supervisor.ending(program) if crashed else ""
    return Row(
        profile=name,
        state=now.state,
        model=_model(profile, spec),
        size=sum(artifact.size for artifact in artifacts) if artifacts else None,
        pid=now.pid,
        uptime=max(0.0, case.world.now - started) if started else None,
        memory=None,  # of all programs at once, by `run`
        url=f"http://{addresses.asked(case, name, listen).address}" if listen else "-",
        drift=view.drifts.get(name, "-"),
        why=now.why + (f" ({ending})" if ending else ""),
        since=now.since,
        log=last_words(host.supervisor.log(program)) if crashed and view.words else (),
    )


def _left(now: Condition, listen: str, view: View) -> Condition:
    """Return what still listens in the place of a program below a supervisord that lost its state folder."""
    daemon, processes = view.case.world.daemon, view.session.host.processes
    if now.state != "stopped" or not daemon.lost:
        return now
    listener = processes.listener(int(listen.rpartition(":")[2])) if listen else None
    if listener is None or not listener.pid or processes.root(listener.pid, daemon.lost) is None:
        return now
    why = "its supervisord lost its state folder; `lmctl apply` ends it and starts it anew, `lmctl down` ends it"
    return Condition("orphaned", why, listener.pid)


def _model(profile: Profile | None, spec: ProgramSpec | None) -> str:
    if profile is not None and (profile.weights is not None or profile.command):
        return model_name(profile)
    path = condition.flags(spec).get("--model") if spec else None
    return Path(path).name if path else "-"
