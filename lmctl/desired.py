"""The programs that a declaration asks for on this machine: argv, address, hash, and whether each one runs. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping

from lmctl import addresses, services
from lmctl.all_backends import BACKENDS
from lmctl.backend import Serve
from lmctl.errors import LmctlError
from lmctl.record import record
from lmctl.resource import Case
from lmctl.resources import weights
from lmctl.secret import hidden
from lmctl.spec import Artifact, Json, Probe, Profile, ProgramSpec, program_id

# declared keys that no engine is told, or that are shown in another way
_UNRENDERED = frozenset(
    {
        *("env", "port", "description", "tasks", "aliases", "ttl", "fetch", "protect", "start", "start_timeout"),
        *("stop_timeout", "max_concurrency", "max_queue", "fallback"),
    }
)
_SCHEMA = 1  # raised when the meaning of a program file changes: every program restarts once


@record
class Desired:
    """One program as it should be. `fields` is what a person declared, for causes; `timeout` is seconds to health.

    `front` is where the gateway answers for it, None where clients ask it itself. `probe` None: it holds a lock.
    """

    profile: Profile
    spec: ProgramSpec
    fields: Mapping[str, Json]
    runs: bool
    probe: Probe | None
    timeout: float
    front: str | None = None


@record
class Programs:
    """`ready` can be written once their weights are there; `refused` cannot be rendered; `waiting` stay as they are."""

    ready: Mapping[str, Desired]
    refused: Mapping[str, LmctlError]
    waiting: Mapping[str, str]  # profile -> why, for people


def programs(case: Case) -> Programs:
    """Return the desired programs of the profiles that this run covers, by profile name, and lmctl's own ones."""
    ready: dict[str, Desired] = {}
    refused: dict[str, LmctlError] = {}
    waits, listens = waiting(case), addresses.listens(case)
    for profile in case.profiles():
        if profile.name in waits:
            continue
        try:
            ready[profile.name] = _desired(case, profile, listens[profile.name])
        except LmctlError as error:
            refused[profile.name] = error
    for name in _services(case):
        try:
            ready[name] = _service(case, name)
        except LmctlError as error:
            refused[name] = error
    return Programs(ready, refused, waits)


def _services(case: Case) -> Iterator[str]:
    """Yield lmctl's own programs that this run covers; one about some profiles brings the gateway before them."""
    for name in services.names(case.declaration):
        if case.scope.covers(name) or (case.scope.touches(name) and not lives(case, name)):
            yield name


def _service(case: Case, name: str) -> Desired:
    made = services.make(name, case.declaration, case.world.environ)
    return Desired(made.profile, made.spec, made.fields, runs(case, made.profile), made.probe, services.PATIENCE)


def waiting(case: Case) -> Mapping[str, str]:
    """Return the covered profiles about whose programs nothing is decided now, each with why."""
    found = ((profile.name, _waits(case, profile)) for profile in case.profiles())
    return {name: why for name, why in found if why is not None}


def _waits(case: Case, profile: Profile) -> str | None:
    """Return why nothing is decided about the program now: not locked, not fetched, or its place is taken."""
    if any(wanted.id not in case.lock.artifacts for wanted in profile.artifacts):
        return "not locked"
    if not case.fetches(profile) and not all(weights.verified(case, wanted.id) for wanted in profile.artifacts):
        return "not fetched until it is started"
    if profile.start == "always" and profile.name not in case.scope.run:
        others = () if lives(case, profile.name) else running_rivals(case, profile)
        if others:
            return f"{others[0]} runs in its place"
    return None


def rivals(case: Case, profile: Profile) -> frozenset[str]:
    """Return the profiles that must not run beside this one: members of its exclusive groups, those on its port too."""
    groups = (group for group in case.declaration.groups if group.exclusive and profile.name in group.members)
    return frozenset(member for group in groups for member in group.members) - {profile.name}


def running_rivals(case: Case, profile: Profile) -> tuple[str, ...]:
    """Return those rivals that run, or outlived their daemon."""
    return tuple(name for name in sorted(rivals(case, profile)) if lives(case, name))


def lives(case: Case, name: str) -> bool:
    """Whether the program of a profile runs, or outlived its daemon."""
    daemon, program = case.world.daemon, program_id(name)
    process = daemon.processes.get(program)
    return bool(process and process.running) or program in daemon.orphans


def refuse_rivals(case: Case) -> None:
    """Raise E-CONFLICT when two profiles that exclude each other are to be started at once."""
    for profile in case.profiles():
        both = rivals(case, profile) & case.scope.run if profile.name in case.scope.run else frozenset()
        if both:
            what = f"{profile.name} and {min(both)} cannot run at once: they share a port or an exclusive group"
            raise LmctlError("E-CONFLICT", what, fix="start one of them")


def _desired(case: Case, profile: Profile, listen: str) -> Desired:
    backend = BACKENDS[profile.backend]
    engine = case.world.engines.get(profile.backend)
    if isinstance(engine, LmctlError):
        raise engine
    if engine is None:
        raise LmctlError("E-ENGINE", f"no engine for backend {profile.backend} is installed", fix=backend.INSTALL)
    host, _, port = listen.rpartition(":")
    artifacts = {wanted.id: case.lock.artifacts[wanted.id] for wanted in profile.artifacts}
    files = {(name, file.file.path): file.path for name in artifacts for file in case.world.found.get(name, ())}
    template = _template(case, profile)
    program, front = program_id(profile.name), addresses.front(case.declaration, profile)
    key_file = f"keys/{program}" if front and backend.ASKS_KEY else None
    serve = Serve(profile, engine, host, int(port), artifacts, files, case.world.hardware, template, key_file)
    argv = backend.command(serve)
    env = {**backend.environment(serve), **profile.settings.env}
    cwd = str(case.declaration.folder) if profile.backend == "command" else "."
    digest = hashlib.sha256(template).hexdigest() if template is not None else None
    spec = ProgramSpec(
        id=program,
        profile=profile.name,
        argv=argv,
        env=env,
        cwd=cwd,
        hash=_hash(argv, env, cwd, [*_contents(artifacts), *filter(None, [digest])]),
        listen=listen,
        key_file=key_file,
        autostart=profile.start == "always",
        stop_timeout=profile.stop_timeout,
    )
    fields = _fields(profile, artifacts, spec)
    if digest:
        fields["sha256 of chat_template"] = digest[:12]
    timeout = start_timeout(profile, artifacts)
    return Desired(profile, spec, fields, runs(case, profile), backend.probe(serve), timeout, front)


def _template(case: Case, profile: Profile) -> bytes | None:
    """Return the content of the profile's chat template, None when it has no file. Raises why it cannot be read."""
    path = profile.settings.chat_template_file
    content = case.world.templates[path] if path else None
    if isinstance(content, LmctlError):
        raise content
    return content


def _contents(artifacts: Mapping[str, Artifact]) -> list[str]:
    return sorted(file.sha256 for artifact in artifacts.values() for file in artifact.files)


def _hash(argv: tuple[str, ...], env: Mapping[str, str], cwd: str, content: list[str]) -> str:
    """Cover what makes the process what it is: `content` is the sha256 of every file that it reads by its path."""
    parts = [_SCHEMA, list(argv), dict(env), cwd, content]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _fields(profile: Profile, artifacts: Mapping[str, Artifact], spec: ProgramSpec) -> dict[str, Json]:
    """What a person would name when asked why: declared keys, commits, the address.

    Values of `env` are left out, and secrets: the ledger keeps it. The hash of the program covers them all.
    """
    declared = ((key, value) for key, value in profile.changed.items() if key not in _UNRENDERED)
    fields: dict[str, Json] = {key: hidden(value, key) for key, value in declared}
    fields |= {f"commit of {a.repo}": a.commit[:12] for a in artifacts.values() if a.commit}
    local = {f"sha256 of {a.id}": a.files[0].sha256[:12] for a in artifacts.values() if not a.commit and a.files}
    settings: dict[str, Json] = {"start by itself": spec.autostart, "stop_timeout": float(spec.stop_seconds)}
    return {**fields, **local, **settings, "listen": spec.listen}


def will_run(case: Case, profile: Profile) -> bool:
    """Whether the profile runs after this run, also when it is not locked or fetched yet, as far as nothing fails."""
    if not case.fetches(profile) and not all(weights.verified(case, wanted.id) for wanted in profile.artifacts):
        return False
    makes_way = profile.name not in case.scope.run and not lives(case, profile.name)
    return runs(case, profile) and not (makes_way and running_rivals(case, profile))


def runs(case: Case, profile: Profile) -> bool:
    """Whether the profile should run as far as it alone decides: by its `start`, or because a person asked for it."""
    if profile.name in case.scope.run or profile.name in case.world.memory.unconfirmed:
        return True
    return profile.start == "always" and not held(case, profile)


def stopped(case: Case) -> tuple[str, ...]:
    """Return what would run, or be woken, if nobody had stopped it: covered profiles, and lmctl's own programs."""
    wakes = {"always", "on-demand"} if case.declaration.front.enabled else {"always"}
    found = [profile for profile in case.profiles() if profile.start in wakes]
    own = filter(case.scope.touches, services.names(case.declaration))
    found += [services.stand_in(name) for name in own]
    return tuple(profile.name for profile in found if held(case, profile))


def held(case: Case, profile: Profile) -> bool:
    """Whether a person stopped it and nobody names it now; the launcher knows even where the ledger is lost.

    A hold for want of trust is none here: what is planned for has been trusted since.
    """
    daemon = case.world.daemon
    stopped = program_id(profile.name) in daemon.held - daemon.untrusted
    noted = stopped or profile.name in (case.world.memory.holds or {})
    return noted and not case.scope.named(profile.name)


def start_timeout(profile: Profile, artifacts: Mapping[str, Artifact]) -> float:
    """Seconds to become healthy: as declared, else 60 and 5 per GiB of weights."""
    if profile.start_timeout is not None:
        return profile.start_timeout
    return patience(sum(artifact.size for artifact in artifacts.values()))


def patience(size: int) -> float:
    """Seconds that `size` bytes of weights may take to be loaded."""
    return 60.0 + 5.0 * size / (1 << 30)
