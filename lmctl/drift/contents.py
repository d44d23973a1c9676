"""Drift of what the lock names: artifacts it lacks, files that are not the verified ones, what is left over. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lmctl.classes import Class
from lmctl.drift.records import APPLY, Drift, Field, made
from lmctl.host import Found
from lmctl.resource import Case
from lmctl.resources import artifact, content, weights
from lmctl.spec import Artifact

_WORST: tuple[Class, ...] = ("corrupt", "missing", "modified", "unverifiable")
_STATES: Mapping[str, Class] = {"missing": "missing", "unverified": "unverifiable", "modified": "modified"}
_TOUCHED = "touched since it was verified"


def of_locks(case: Case) -> Iterator[Drift]:
    """Yield what is declared and not locked."""
    for waiting in (False, True):
        for name, profiles in artifact.missing(case, waiting=waiting).items():
            row = Field("locked", f"asked for by {', '.join(profiles)}", None, None)
            yield made("lock_outdated", artifact.address(name), [row], "lmctl lock")


def of_weights(case: Case) -> Iterator[Drift]:
    """Yield a drift for every locked artifact of which a file is not the one that was verified.

    Signatures tell, and nothing is read. What waits for a start before it is fetched is not missing.
    """
    needed, told = weights.needed(case), set[str]()
    for wanted in (wanted for profile in case.profiles() for wanted in profile.artifacts):
        locked = case.lock.artifacts.get(wanted.id)
        if locked is None or weights.address(locked) in told:
            continue
        told.add(weights.address(locked))
        kinds = [(_kind(case, file), file) for file in case.world.found.get(wanted.id, ())]
        rows = [(kind, _row(case, file, kind)) for kind, file in kinds if kind is not None]
        rows = [(kind, row) for kind, row in rows if kind != "missing" or wanted.id in needed]
        if rows:
            worst = min((kind for kind, _ in rows), key=_WORST.index)
            yield made(worst, weights.address(locked), (row for _, row in rows), _mend(worst, locked))


def _kind(case: Case, file: Found) -> Class | None:
    signature = file.signature or case.world.changed.get(str(file.content))
    if signature is not None and signature.size != file.file.size:
        return "corrupt"
    return _STATES.get(weights.state(case, file))


def _row(case: Case, file: Found, kind: Class) -> Field:
    locked, known = file.file, case.owned_at(str(file.content))
    if kind in {"corrupt", "missing"}:
        signature = file.signature or case.world.changed.get(str(file.content))
        there = None if signature is None or kind == "missing" else signature.size
        return Field(f"bytes of {locked.path}", locked.size, known.signature.size if known else None, there)
    short = locked.sha256[:12]
    now = None if kind == "unverifiable" else _TOUCHED
    return Field(f"sha256 of {locked.path}", short, known.sha256[:12] if known and now else None, now)


def _mend(kind: Class, locked: Artifact) -> str:
    if locked.commit is not None or kind in {"unverifiable", "modified"}:
        return APPLY
    back = "put the file back, then lmctl apply"
    return back if kind == "missing" else f"{back}; if this one is meant: lmctl lock --upgrade"


def of_owned(case: Case) -> Iterator[Drift]:
    """Yield what became of locked content that was verified here, where nobody can say who asks for it."""
    digests = {file.sha256 for one in case.lock.artifacts.values() for file in one.files}
    for path, row in sorted(case.world.owned.items()):
        changed = case.world.changed.get(path)
        if row.kind == "link" or row.sha256 not in digests or not (changed or path in case.world.gone):
            continue
        if changed is not None and changed.size == row.signature.size:
            short = row.sha256[:12]
            yield made("modified", f"content:{path}", [Field("sha256", short, short, _TOUCHED)])
        else:
            bytes_ = Field("bytes", row.signature.size, row.signature.size, changed.size if changed else None)
            yield made("corrupt" if changed else "missing", f"content:{path}", [bytes_])


def of_leftovers(case: Case) -> Iterator[Drift]:
    """Yield what lmctl brought, nobody wants and no rule keeps any more."""
    mend = APPLY if case.declaration.prune_auto else "lmctl prune"
    for change in content.changes(case):
        yield made("orphan_owned", change.address, [Field("content", None, "there", "there")], mend)
