"""How many profiles one supervisord serves at once, and the refusal of one more. Pure."""

from __future__ import annotations

from lmctl import desired
from lmctl.errors import LmctlError, Place
from lmctl.host import MOST_RUNNING
from lmctl.resource import Case
from lmctl.spec import RESIDENT


def problem(case: Case) -> LmctlError | None:
    """Return E-LIMIT when this run would start a profile beyond the most that run at once, None when it may go on.

    Profiles that run count, and those that this run starts; those that it removes or makes way from do not, nor does
    what is merely declared. A run that starts nothing more is never refused, whatever runs already.
    """
    if case.scope.only not in (None, "serve"):
        return None
    running, starting = _running(case), frozenset(p.name for p in case.profiles() if desired.will_run(case, p))
    count = len(running | starting)
    if count <= MOST_RUNNING or starting <= running:
        return None
    what = f"{count} profiles would run at once, and one supervisord serves at most {MOST_RUNNING}"
    fix = 'declare `start = "manual"` for those that need not run now'
    if case.scope.run:
        fix = "stop one that need not run now (`lmctl stop NAME`), then start it"
    return LmctlError("E-LIMIT", what, fix=fix, place=Place(case.declaration.file.name))


def refuse(case: Case) -> None:
    """Raise what `problem` returns."""
    if error := problem(case):
        raise error


def _running(case: Case) -> frozenset[str]:
    """Return the profiles that run, but for those that this run removes or makes way from."""
    declared = frozenset(profile.name for profile in case.declaration.profiles)
    programs = {spec.profile for spec in case.world.daemon.specs.values()}
    found = {name for name in programs.difference(RESIDENT) if desired.lives(case, name)}
    if case.scope.whole and (declared or case.scope.leaving):
        found &= declared
    asked = (profile for profile in case.profiles() if profile.name in case.scope.run)
    return frozenset(found - {rival for profile in asked for rival in desired.rivals(case, profile)})
