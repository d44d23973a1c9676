"""What lmctl fetched and nothing declares any more: content of the cache, superseded revisions, dead partial files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from lmctl.errors import LmctlError, escape
from lmctl.ledger import Owned
from lmctl.plan import Cause, Change, Kept, Stage
from lmctl.record import NOTHING, record, replace
from lmctl.resource import Case, Outcome, Run, Stray
from lmctl.safety import Facts, keeps
from lmctl.text import human_bytes, human_time

NAME = "content"
STAGE: Stage = "prune"
_PARTIAL = "partial"
_AT_ONCE = 32  # files that are removed after one look at who uses them
_RESUMABLE = "a download that is declared goes on with it"


def _asked(case: Case) -> frozenset[str]:
    declaration = case.declaration
    own = (wanted.id for profile in declaration.profiles for wanted in profile.artifacts)
    return frozenset({*own, *(wanted.id for wanted in (*declaration.variants, *declaration.local_variants))})


def referenced(case: Case) -> frozenset[str]:
    """Return the sha256 of everything that this declaration asks for on any machine, as far as it is locked.

    What was brought for an artifact that is declared and has lost its lock entry counts as well.
    """
    asked, artifacts = _asked(case), case.lock.artifacts
    locked = {file.sha256 for name in asked if name in artifacts for file in artifacts[name].files}
    lost = {row.sha256 for row in case.world.owned.values() if row.artifact in asked and row.artifact not in artifacts}
    return frozenset(locked | lost)


def _declares(case: Case) -> bool:
    """Whether the declaration says anything about content: an empty one, or one without its lock, never prunes.

    One that leaves says that it wants nothing, and who names what shall go says it of that.
    """
    wants = bool(case.declaration.profiles) and any(name in case.lock.artifacts for name in _asked(case))
    return wants or bool(case.scope.leaving) or case.scope.artifacts is not None


def verdicts(case: Case) -> Iterable[tuple[Owned, str | None]]:
    """Yield every file that lmctl brought with why it stays, None when it may go."""
    found = list(_by_rules(case))
    total = sum(row.signature.size for row, why in found if why is None)
    limit = case.declaration.machine.prune_max_bytes
    too_much = total > limit and not case.scope.approved
    for row, why in found:
        if why is None and too_much:
            why = f"{human_bytes(total)} would go, prune.max_bytes is {human_bytes(limit)}: approve it with --yes"
        yield row, why


def _by_rules(case: Case) -> Iterable[tuple[Owned, str | None]]:
    refers, declares = referenced(case), _declares(case)
    for path, row in sorted(case.world.owned.items()):
        if row.kind != "blob" or path in case.world.gone:
            continue
        if case.scope.artifacts is not None:
            if row.artifact not in case.scope.artifacts:
                continue
            row = replace(row, protect=False)
        facts = Facts(
            unchanged=path in case.world.there,
            referenced=row.sha256 in refers,
            others=case.world.references.others,
            served=path in case.world.served,
            outside=path in case.world.outside,
            linked=case.world.linked.get(path),
            holders=case.world.held.get(path, ()),
            whole=case.scope.whole,
            declared=declares,
            after=0.0 if case.scope.waive_wait or case.scope.artifacts is not None else case.declaration.prune_after,
            now=case.world.now,
        )
        yield row, keeps(row, facts)


def changes(case: Case) -> Iterable[Change]:
    """Yield a deletion for everything that all rules let go."""
    if not case.scope.prune:
        return
    for row, why in verdicts(case):
        if why is None:
            cause = Cause("declared", row.artifact, None)
            size = 0 if row.path in case.world.shared else row.signature.size
            needs = case.world.let_go.get(row.path, ())
            yield Change("prune", "delete", f"{NAME}:{row.path}", (cause,), free=size, destroys=True, needs=needs)
    for stray, why in stray_verdicts(case):
        if why is None:
            cause = Cause("partial file", "nobody is writing it", None)
            yield Change("prune", "delete", f"{_PARTIAL}:{stray.path}", (cause,), free=stray.size, destroys=True)


def own_links(case: Case, path: str) -> list[Path]:
    """Return the links to a file of the cache that lmctl placed."""
    digest = case.world.owned[path].sha256
    return [Path(row.path) for row in case.world.owned.values() if row.kind == "link" and row.sha256 == digest]


def stray_verdicts(case: Case) -> Iterable[tuple[Stray, str | None]]:
    """Yield every partial and quarantined file that nobody writes, with why it stays, None when it may go."""
    refers, others = referenced(case), case.world.references.others
    for stray in case.world.strays if case.scope.artifacts is None else ():
        path = Path(stray.path)
        resumable = path.parent.name == _PARTIAL and (path.name in refers or path.name in (others or frozenset()))
        left = 0.0 if case.scope.waive_wait else case.declaration.prune_after - stray.age
        rules = (
            (not _declares(case), "nothing is declared: that never means remove everything"),
            (not case.scope.whole, "this run names or leaves out profiles"),
            (others is None, "another declaration on this machine cannot be read"),
            (resumable, _RESUMABLE),
            (left > 0, f"left behind, goes in {human_time(left)} (lmctl prune --now)"),
        )
        yield stray, next((why for holds, why in rules if holds), None)


def kept(case: Case) -> Iterable[Kept]:
    """Yield what is no longer declared and stays all the same, with the reason."""
    for row, why in verdicts(case):
        if why is not None and why != "declared":
            yield Kept(row.path, row.signature.size, why, row.artifact)
    for stray, why in stray_verdicts(case):
        if why is not None:
            yield Kept(stray.path, stray.size, why, declared=why == _RESUMABLE)


def refuse_large(case: Case) -> None:
    """Raise E-PRUNE when more than `prune.max_bytes` would go and nobody approved it."""
    for why in (why for _, why in verdicts(case) if why and "prune.max_bytes" in why):
        raise LmctlError("E-PRUNE", why.partition(":")[0], fix="read `lmctl prune --dry-run`, then add --yes")


def apply(changes: tuple[Change, ...], case: Case, run: Run) -> Iterable[Outcome]:
    """Remove files one by one, each looked at once more; a failed one stays in the ledger.

    The changes were planned before bytes were fetched and programs ended: what a rule keeps by now stays, as E-PRUNE.
    """
    stays = {f"{NAME}:{row.path}": why for row, why in verdicts(case) if why is not None}
    stays |= {f"{_PARTIAL}:{stray.path}": why for stray, why in stray_verdicts(case) if why is not None}
    for change, holders in _looked_at(changes, run):
        try:
            if change.address in stays:
                raise _kept_by(change, stays[change.address])
            _remove(change, holders, case, run)
        except LmctlError as error:
            yield Outcome(change, error)
        else:
            yield Outcome(change)


def _kept_by(change: Change, why: str) -> LmctlError:
    what = f"{escape(change.address.partition(':')[2])} stays: {why}"
    return LmctlError("E-PRUNE", what, fix="`lmctl prune --dry-run` tells what else stays")


def _looked_at(changes: tuple[Change, ...], run: Run) -> Iterable[tuple[Change, tuple[int, ...]]]:
    """Yield each change with who uses its file: asked for a few at a time, it means looking at every process."""
    for some in (changes[at : at + _AT_ONCE] for at in range(0, len(changes), _AT_ONCE)):
        paths = [Path(change.address.partition(":")[2]) for change in some]
        holders = run.host.processes.holders(paths)
        yield from ((change, holders[path]) for change, path in zip(some, paths, strict=True))


def _remove(change: Change, holders: tuple[int, ...], case: Case, run: Run) -> None:
    kind, _, path = change.address.partition(":")
    if kind == _PARTIAL:
        run.host.store.remove_partial(Path(path))
        return
    row = case.world.owned[path]
    if holders:
        what = f"{escape(path)} is in use by pid {', '.join(map(str, holders))}"
        raise LmctlError("E-PRUNE", what, fix="stop what uses it, then prune again")
    links = own_links(case, path)
    run.host.store.remove(Path(path), row.signature, links)
    with run.ledger.writing(run.host.now()) as ledger:
        ledger.forget([path, *map(str, links)])


@record
class Marks:
    """What the ledger has to learn besides the changes: by path, since when nobody refers to it, and its protection."""

    unreferenced: Mapping[str, float | None] = NOTHING
    protect: Mapping[str, bool] = NOTHING

    @property
    def empty(self) -> bool:
        return not self.unreferenced and not self.protect


def marks(case: Case) -> Marks:
    """Return what changed about the ledger's rows: now unreferenced or referred to again, protected or no more."""
    brought = {path: row for path, row in case.world.owned.items() if row.kind == "blob"}
    declared: dict[str, bool] = {}
    for profile in case.profiles():
        for wanted in profile.artifacts:
            declared[wanted.id] = profile.protect or declared.get(wanted.id, False)
    shielded = ((path, row, declared.get(row.artifact)) for path, row in brought.items())
    protect = {path: want for path, row, want in shielded if want is not None and want != row.protect}
    if not case.scope.whole or not _declares(case) or case.scope.artifacts is not None:
        return Marks(protect=protect)
    refers = referenced(case) | (case.world.references.others or frozenset())
    unreferenced = {
        path: None if row.sha256 in refers else case.world.now
        for path, row in brought.items()
        if (row.sha256 in refers) != (row.unreferenced_since is None)
    }
    return Marks(unreferenced, protect)
