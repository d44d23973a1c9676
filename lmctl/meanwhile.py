"""What others did while a run had let go of the writer's lock: a later `stop` or `down` counts. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from lmctl import desired
from lmctl.errors import LmctlError, Problem
from lmctl.plan import Change
from lmctl.record import record
from lmctl.resource import Case
from lmctl.resources import program


@record
class Sifted:
    """What became of planned changes of programs: still to do, done by others, not to be done, or impossible."""

    ready: tuple[Change, ...] = ()
    done: tuple[Change, ...] = ()
    withheld: tuple[Change, ...] = ()
    error: LmctlError | None = None  # why none of them is done
    warnings: tuple[Problem, ...] = ()


def stopped(begun: Case, now: Case) -> frozenset[str]:
    """Return the profiles that somebody stopped since the run began."""
    before = begun.world.memory.held_since
    return frozenset(name for name, since in now.world.memory.held_since.items() if before.get(name) != since)


def rewritten(begun: Case, now: Case) -> frozenset[str]:
    """Return the profiles whose programs somebody wrote since the run began, otherwise than this run would."""
    before, after = ({spec.profile: spec.hash for spec in case.world.daemon.specs.values()} for case in (begun, now))
    asked = desired.programs(now).ready
    return frozenset(
        name
        for name, digest in after.items()
        if before.get(name) != digest and (name not in asked or asked[name].spec.hash != digest)
    )


def sift(changes: Iterable[Change], begun: Case, now: Case, fresh: Iterable[Change]) -> Sifted:
    """Return what is left of `changes`, planned when the run had begun; `fresh` is what would be planned now."""
    planned = tuple(changes)
    if begun.world.daemon.pid is not None and now.world.daemon.pid is None and not now.world.daemon.orphans:
        error = LmctlError(
            "E-SUPERVISOR", "supervisord was stopped meanwhile", fix="run `lmctl apply` to start it again"
        )
        return Sifted(error=error)
    current = {change.address: change for change in fresh}
    held = {program.address(name): name for name in stopped(begun, now)}
    waiting = {program.address(name) for name in desired.waiting(now)}
    others = {program.address(name): name for name in rewritten(begun, now)}
    kept = {c.address for c in planned if c.verb != "delete" and (c.address in held or c.address in waiting)}
    newer = {c.address for c in planned if c.address in others} - kept
    kept |= newer
    return Sifted(
        ready=tuple(current[c.address] for c in planned if c.address in current and c.address not in kept),
        done=tuple(c for c in planned if c.address not in current and c.address not in kept),
        withheld=tuple(c for c in planned if c.address in kept),
        warnings=(
            *(
                Problem("W-HELD", f"{held[address]} was stopped meanwhile", f"`lmctl start {held[address]}` starts it")
                for address in sorted(kept & held.keys())
            ),
            *(
                Problem("W-HELD", f"{others[address]} was applied otherwise meanwhile", "run `lmctl apply` again")
                for address in sorted(newer)
            ),
        ),
    )
