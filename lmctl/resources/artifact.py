"""Artifacts that a profile asks for and the lock does not hold yet: one change each, of unknown size."""

from __future__ import annotations

from collections.abc import Iterable

from lmctl.plan import Cause, Change
from lmctl.resource import Case

NAME = "lock"


def address(artifact_id: str) -> str:
    return f"{NAME}:{artifact_id}"


def missing(case: Case, *, waiting: bool) -> dict[str, tuple[str, ...]]:
    """Return the ids that the lock lacks and the profiles that ask; `waiting`: those that no run fetches unasked."""
    asked: dict[str, tuple[str, ...]] = {}
    for profile in case.profiles():
        if case.fetches(profile) == waiting:
            continue
        for wanted in profile.artifacts:
            if wanted.id not in case.lock.artifacts:
                asked[wanted.id] = (*asked.get(wanted.id, ()), profile.name)
    return asked


def changes(case: Case) -> Iterable[Change]:
    """Yield one change per artifact that has to be locked before anything can be said about it."""
    for artifact_id, profiles in sorted(missing(case, waiting=False).items()):
        cause = Cause("asked for by", None, ", ".join(profiles))
        local = artifact_id.startswith("path=")  # it lies here, so nothing is ever fetched for it
        yield Change("lock", "create", address(artifact_id), (cause,), download=0 if local else None)


def note(case: Case) -> tuple[str, ...]:
    """Return the line that says which profiles wait for `lmctl lock`, if any."""
    names = sorted({name for profiles in missing(case, waiting=True).values() for name in profiles})
    if not names:
        return ()
    return (f"{len(names)} profile{'s' * (len(names) != 1)} not locked (lmctl lock): {', '.join(names)}",)
