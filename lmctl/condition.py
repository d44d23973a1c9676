"""What a program is, in one word, and why: the states that `status` shows and a plan names as causes."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import pairwise
from typing import Literal

from lmctl import desired, launch
from lmctl.errors import escape
from lmctl.host import Daemon
from lmctl.record import record
from lmctl.resource import Case
from lmctl.spec import GATEWAY, Health, Probe, Process, Profile, ProgramSpec, program_id
from lmctl.text import human_time

State = Literal["starting", "healthy", "unhealthy", "waiting", "stopped", "crash-loop", "orphaned", "held"]
# asks a program that should listen on an address; the number is its process
Ask = Callable[[str, Probe, int], Health]


@record
class Condition:
    """One program now. `pid` is its process; `since` is when it began to be late, in seconds since the epoch."""

    state: State
    why: str = ""
    pid: int | None = None
    since: float | None = None


def crashed(process: Process | None) -> bool:
    """Whether the launcher refused one more start after too many, or because the program is held."""
    return process is not None and not process.running and process.exit_status == launch.REFUSED


def of(name: str, case: Case, ask: Ask) -> Condition:
    """Return what the program of a profile is; asks it when it runs, and nobody else."""
    daemon, program = case.world.daemon, program_id(name)
    process, spec = daemon.processes.get(program), daemon.specs.get(program)
    if program in daemon.orphans:
        why = "its supervisord was killed; `lmctl apply` ends it and starts it anew, `lmctl down` ends it"
        return Condition("orphaned", why, daemon.orphans[program])
    if process is not None and program in daemon.fileless:
        why = "lmctl's file of it is gone or damaged; `lmctl apply` writes it anew and restarts it"
        return Condition("unhealthy", why, process.pid)
    pid = process.pid if process is not None and process.running else daemon.unseen.get(program)
    if pid is not None and spec is not None:
        return _running(name, case, pid, ask)
    if name in (case.world.memory.holds or {}) or program in daemon.held:
        return Condition("held", "its trust was revoked" if program in daemon.untrusted else "")
    if crashed(process):
        return Condition("crash-loop", "it crashed again and again")
    if process is not None and process.state in {"EXITED", "BACKOFF"}:
        return Condition("starting", "it ended by itself and is started again")
    if process is not None and process.state == "FATAL":
        return Condition("stopped", f"it cannot be started: {escape(process.spawn_error)}")
    profile = case.declaration.profile(name)
    asleep = profile is not None and profile.start == "on-demand" and GATEWAY in daemon.specs
    return Condition("waiting" if asleep else "stopped")


def _running(name: str, case: Case, pid: int, ask: Ask) -> Condition:
    profile, program = case.declaration.profile(name), program_id(name)
    daemon = case.world.daemon
    process, spec = daemon.processes.get(program), daemon.specs[program]
    health = ask(spec.listen, probe_of(case, name, spec), pid) if spec.listen else works(daemon, program, pid)
    if health.state == "healthy":
        return Condition("healthy", pid=pid)
    if health.state == "wrong":
        return Condition("unhealthy", escape(health.why), pid)
    started = process.started if process is not None else None
    if process is None or started is None:
        return Condition("unhealthy", escape(health.why), pid)
    age, limit = case.world.now - started, _patience(case, profile, spec)
    again = f"; it was started {process.starts} times within 10 minutes" if process.starts > 1 else ""
    if age <= limit:
        return Condition("starting", escape(health.why) + again, pid)
    never = name in case.world.memory.unconfirmed
    why = f"{escape(health.why)}, {human_time(age)} after its start{again}"
    return Condition("unhealthy", why, pid, started + limit if never else None)


def works(daemon: Daemon, program: str, pid: int) -> Health:
    """Return the health of a program that listens nowhere: who does its work holds its lock."""
    holder = daemon.locks.get(program)
    if holder is None:
        return Health("down", "it has not begun yet")
    return Health("healthy") if holder == pid else Health("wrong", f"pid {holder} does its work")


def _patience(case: Case, profile: Profile | None, spec: ProgramSpec) -> float:
    """Return the seconds that a program has to become healthy: as declared, else by the size of its weights."""
    if profile is not None:
        locked = case.lock.artifacts
        return desired.start_timeout(profile, {w.id: locked[w.id] for w in profile.artifacts if w.id in locked})
    try:
        size = os.stat(flags(spec).get("--model", "")).st_size  # noqa: PTH116 a word of argv
    except OSError:
        size = 0
    return desired.patience(size)


def probe_of(case: Case, name: str, spec: ProgramSpec) -> Probe:
    """Return how to ask what runs, by what it was started with; the ledger knows a command's own way."""
    words, profile = flags(spec), case.declaration.profile(name)
    if profile is None or profile.backend != "command":
        if "--alias" in words:
            return Probe(models="/v1/models", expect=words["--alias"], key_file=spec.key_file)
        if "--model" in words and any("mlx_lm" in word for word in spec.argv[:4]):
            return Probe(models="/v1/models", expect=os.path.realpath(words["--model"]))
    if profile is not None:
        return Probe(health=profile.health)
    applied = (case.world.memory.applied or {}).get(f"program:{name}")
    health = applied.fields.get("health") if applied is not None else None
    return Probe(health=health) if isinstance(health, str) else Probe()


def flags(spec: ProgramSpec) -> dict[str, str]:
    """Return each flag of a program's argv with the word after it."""
    return {word: after for word, after in pairwise(spec.argv) if word.startswith("--")}
