"""What of a plan may be applied while nobody looks. Pure."""

from __future__ import annotations

from lmctl import desired, services
from lmctl.errors import Problem
from lmctl.record import record
from lmctl.resource import Case, Scope
from lmctl.resources import artifact
from lmctl.spec import WATCH
from lmctl.watcher.settings import Mode


@record
class Decision:
    """`scope` is what a plan may be about; `waits` tells what it leaves alone, `stays` why nothing is applied."""

    scope: Scope
    waits: tuple[Problem, ...] = ()
    stays: Problem | None = None


def decide(case: Case, mode: Mode, *, served: bool) -> Decision:
    """Decide for a look at everything; `served`: supervisord ran at an earlier look of this watcher.

    Nothing is ever pruned. What a person stopped stays as it is, also when it is edited. Under `safe` nothing is asked
    of the Hub that is not locked.
    """
    declaration = case.declaration
    own = map(services.stand_in, services.names(declaration))
    held = frozenset(one.name for one in (*declaration.profiles, *own) if desired.held(case, one))
    unlocked = frozenset(_unlocked(case)) if mode == "safe" else frozenset()
    scope = Scope(prune=False, left=held | unlocked | {WATCH})
    names = ", ".join(sorted(unlocked - held))
    waits = (Problem("E-LOCK", f"not locked: {names}", "`lmctl apply` locks and fetches it"),) if names else ()
    return Decision(scope, (*waits, *_itself(case)), _stays(case, mode, served=served))


def _itself(case: Case) -> tuple[Problem, ...]:
    """Return what is to happen to the watcher's own program: it leaves that alone, not to end in the middle of it."""
    declared, supervised = WATCH in services.names(case.declaration), WATCH in case.world.daemon.specs
    if declared == supervised or not case.declaration.profiles:
        return ()
    what = "the watcher is to run under supervision" if declared else "the watcher is to end"
    return (Problem("W-HELD", what, "`lmctl apply` does it"),)


def _unlocked(case: Case) -> set[str]:
    return {name for names in artifact.missing(case, waiting=False).values() for name in names}


def _stays(case: Case, mode: Mode, *, served: bool) -> Problem | None:
    memory, daemon = case.world.memory, case.world.daemon
    if memory.in_force is not None or memory.rolled_back:
        generation = "" if memory.in_force is None else f" to generation {memory.in_force}"
        return Problem("W-HELD", f"the rollback{generation} holds", "the next `lmctl apply` ends it")
    if WATCH in daemon.orphans:
        what = "supervisord was killed, and this watcher outlived it"
        return Problem("E-SUPERVISOR", what, "`lmctl apply` starts everything anew")
    if daemon.problem:
        return Problem("E-SUPERVISOR", f"supervisord does not answer: {daemon.problem}", "see `lmctl doctor`")
    if served and daemon.pid is None and not daemon.orphans and not daemon.killed:
        return Problem("W-HELD", "everything was ended (`lmctl down`)", "`lmctl apply` starts it again")
    if mode == "never":
        return Problem("W-HELD", 'watch.apply is "never"', "`lmctl apply` does it")
    return None
