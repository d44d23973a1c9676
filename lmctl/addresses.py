"""Where engines listen and where clients ask: the gateway takes the declared ports, engines move behind it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lmctl.errors import LmctlError
from lmctl.host import Daemon
from lmctl.ledger import Memory
from lmctl.record import record
from lmctl.resource import Case
from lmctl.spec import GATEWAY, Declaration, Profile, program_id

LOOPBACK = "127.0.0.1"


@record
class Asked:
    """Where clients ask a program; `shared`: by its name, others are asked there too."""

    address: str
    shared: bool = False


def behind(declaration: Declaration, profile: Profile) -> bool:
    """Whether the engine of a profile listens where only the gateway asks it.

    A command that is not told a port cannot be moved: it listens where it says, and the gateway passes on to it.
    """
    moves = profile.backend != "command" or any("{port}" in word for word in profile.command)
    return declaration.front.enabled and moves


def listens(case: Case) -> Mapping[str, str]:
    """Return where each declared profile's engine listens.

    Without the gateway on the declared port; else, and behind it, on the one that it had, else on the next free one of
    `engine_ports`. Raises E-PORT when none is left.
    """
    declaration = case.declaration
    sticky = kept(declaration, case.world.daemon, case.world.memory)
    first, last = declaration.engine_ports
    taken = {*sticky.values(), *case.world.taken_ports}
    free = (port for port in range(first, last + 1) if port not in taken)
    found: dict[str, str] = {}
    for profile in declaration.profiles:
        private = behind(declaration, profile)
        port = (None if private else profile.port) or sticky.get(profile.name) or _next(free)
        found[profile.name] = f"{LOOPBACK if private else declaration.machine.bind}:{port}"
    return found


def kept(declaration: Declaration, daemon: Daemon, memory: Memory) -> Mapping[str, int]:
    """Return the ports of `engine_ports` that profiles have, so that they never move by themselves.

    The files of programs tell where the ledger was lost.
    """
    known = {spec.profile: spec.listen for spec in daemon.specs.values()} | dict(memory.ports or {})
    first, last = declaration.engine_ports
    ports = {name: int(at.rpartition(":")[2] or 0) for name, at in known.items()}
    return {name: port for name, port in ports.items() if first <= port <= last}


def unsettled(declaration: Declaration, daemon: Daemon, memory: Memory) -> range:
    """Return the ports of which one has to be chosen or taken; none where every program has its address."""
    has, (first, last) = kept(declaration, daemon, memory), declaration.engine_ports
    needs = (p.name for p in declaration.profiles if p.port is None or behind(declaration, p))
    settled = all(name in has for name in needs) and (not declaration.front.enabled or GATEWAY in daemon.specs)
    return range(0) if settled else range(first, last + 1)


def _next(free: Iterator[int]) -> int:
    for port in free:
        return port
    raise LmctlError("E-PORT", "no port of engine_ports is free", fix="widen `engine_ports` in [gateway]")


def gateway(declaration: Declaration) -> str:
    """Return the address of the gateway."""
    return f"{declaration.machine.bind}:{declaration.front.port}"


def front(declaration: Declaration, profile: Profile) -> str | None:
    """Return the address at which the gateway answers for a profile, None where its engine is asked itself."""
    if not behind(declaration, profile):
        return None
    return gateway(declaration) if profile.port is None else f"{declaration.machine.bind}:{profile.port}"


def asked(case: Case, name: str, listen: str) -> Asked:
    """Return how clients ask a program that listens on `listen`; what is applied decides."""
    profile, specs = case.declaration.profile(name), case.world.daemon.specs
    found = front(case.declaration, profile) if profile is not None else None
    applied = program_id(name) not in specs or (GATEWAY in specs and listen.startswith(f"{LOOPBACK}:"))
    direct = profile is not None and listen.endswith(f":{profile.port}")
    if profile is None or found is None or not applied or direct:
        return Asked(listen)
    return Asked(found, shared=profile.port is None)
