"""Weights: every file of a locked artifact on disk, its sha256 seen by lmctl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock as Mutex

from lmctl.errors import LmctlError, Problem, escape
from lmctl.host import Fetch, Fetched, Found, Host, OnProgress
from lmctl.ledger import Owned
from lmctl.plan import Cause, Change, Stage
from lmctl.record import record
from lmctl.resource import Case, Hashed, Outcome, Run, keeps_nothing
from lmctl.spec import Artifact, Wanted
from lmctl.text import human_id

NAME = "weights"
STAGE: Stage = "fetch"
kept = keeps_nothing
_TO_HASH = ("unverified", "modified")


@record
class Needed:
    """A locked artifact that this run needs, and who keeps it from being pruned."""

    wanted: Wanted
    artifact: Artifact
    protect: bool


def address(artifact: Artifact) -> str:
    """Return the artifact's address: a new commit is another address, so it travels by itself."""
    if artifact.commit is None:
        return f"{NAME}:{artifact.id}"
    repo, _, selection = artifact.id.partition("@")
    _, _, selection = selection.partition(":")
    return f"{NAME}:{repo}@{artifact.commit[:12]}" + (f":{selection}" if selection else "")


def needed(case: Case) -> Mapping[str, Needed]:
    """Return what the covered profiles need on disk now, by artifact id: locked, and not waiting for a start."""
    found: dict[str, Needed] = {}
    for profile in case.profiles():
        if not case.fetches(profile):
            continue
        for wanted in profile.artifacts:
            artifact = case.lock.artifacts.get(wanted.id)
            if artifact is not None:
                earlier = found.get(wanted.id)
                found[wanted.id] = Needed(wanted, artifact, profile.protect or bool(earlier and earlier.protect))
    return found


def verified(case: Case, artifact_id: str) -> bool:
    """Whether every file of the artifact is there with a sha256 that lmctl has seen and nothing touched since."""
    found = case.world.found.get(artifact_id, ())
    return bool(found) and all(state(case, file) == "verified" for file in found)


def unreadable(case: Case, wanted: Wanted, profile: str) -> LmctlError | None:
    """Return why the engine of `profile` could not load the artifact that it wants, None when it can read all of it."""
    for found in case.world.found.get(wanted.id, ()):
        if not found.readable:
            what = f"{escape(str(found.path), 300)} may not be read, and the engine of {profile} would have to"
            return LmctlError("E-PERM", what, fix="check its permissions")
    return None


def changes(case: Case) -> Iterable[Change]:
    """Yield a change for every artifact that is incomplete, was never hashed, or was touched since."""
    told: set[str] = set()
    counted: set[tuple[str | None, str]] = set()
    resumed: set[str] = set()
    for artifact_id, need in sorted(needed(case).items()):
        if address(need.artifact) in told:
            continue  # the same commit under another revision's name
        told.add(address(need.artifact))
        found = case.world.found.get(artifact_id, ())
        states = [state(case, file) for file in found]
        missing = [file for file, state in zip(found, states, strict=True) if state == "missing"]
        if all(state == "verified" for state in states):
            continue
        content = {(need.artifact.repo, file.file.sha256): file.file.size for file in missing}
        fresh = {key: size for key, size in content.items() if key not in counted}
        digests = {digest for _, digest in fresh} - resumed  # one partial file each, whoever asks for it
        received = sum(case.world.received.get(digest, 0) for digest in digests)
        counted |= fresh.keys()
        resumed |= digests
        yield Change(
            stage="fetch",
            verb="create" if missing or "modified" not in states else "update",
            address=address(need.artifact),
            cause=(_cause(states, found, need.artifact),),
            download=0 if need.artifact.commit is None else sum(fresh.values()) - received,
            received=received,
        )


def state(case: Case, found: Found) -> str:
    """`missing`, `unverified` (never hashed here), `modified` (touched since, or of another size) or `verified`."""
    if found.signature is None:
        return "missing"
    if found.signature.size != found.file.size:
        return "modified"
    row = case.owned_at(str(found.content))
    if row is None or row.sha256 != found.file.sha256:
        return "unverified"
    return "verified" if row.signature == found.signature else "modified"


def resized(found: Found) -> str | None:
    """Return in words that a local file has not the locked size, None when it has; others then count as missing."""
    if found.signature is None or found.signature.size == found.file.size:
        return None
    return f"{escape(str(found.path))} has {found.signature.size} bytes, the lock says {found.file.size}"


def unlike(case: Case) -> tuple[Problem, ...]:
    """Return why local files cannot be the locked ones, without reading any: E-FILE for none, E-LOCK-STALE by size."""
    every = [(file, need.artifact) for need in needed(case).values() for file in case.world.found[need.artifact.id]]
    local = [(file, artifact) for file, artifact in every if artifact.commit is None]
    errors = [_absent(file) for file, _ in local if file.signature is None]
    errors += [_mismatch(file, None, artifact) for file, artifact in local if resized(file)]
    return tuple(problem for error in errors for problem in error.problems)


def notes(case: Case) -> tuple[str, ...]:
    """Return a line per covered local artifact that cannot be applied as it is locked: a file has another size."""
    names: dict[str, str] = {}
    for profile in case.profiles():
        for wanted in profile.artifacts:
            names.setdefault(wanted.id, profile.name)
    stale = [
        artifact_id
        for artifact_id, need in sorted(needed(case).items())
        if need.artifact.commit is None and any(map(resized, case.world.found.get(artifact_id, ())))
    ]
    told = "is not as locked, apply refuses it: run `lmctl lock --upgrade"
    return tuple(f"{human_id(name)} {told} {names[name]}` if the new file is meant" for name in stale)


def _cause(states: list[str], found: Sequence[Found], artifact: Artifact) -> Cause:
    missing = states.count("missing")
    if missing and artifact.commit is None:
        return Cause("file", "missing", "put it there, or correct `path`")
    if missing:
        there = len(states) - missing
        before = f"{there} of {len(states)} files" if there else None
        return Cause("files", before, f"{len(states)} file{'s' * (len(states) != 1)}")
    other = next((file for file in found if resized(file)), None)
    if other is not None and other.signature is not None:
        return Cause("size", f"{other.signature.size} bytes", f"{other.file.size} bytes as locked")
    if "modified" in states:
        return Cause("sha256", "touched since it was verified", "verified")
    after = "verified" if artifact.commit is None else "0 bytes if its sha256 agrees"
    return Cause("sha256", "not verified here", after)


def apply(changes: tuple[Change, ...], case: Case, run: Run) -> Iterable[Outcome]:
    """Hash what is there, fetch what is missing; every file is recorded as soon as it is verified."""
    by_address = {address(need.artifact): need for need in needed(case).values()}
    errors: dict[str, LmctlError] = {}
    fetches: dict[Fetch, list[str]] = {}
    places: dict[Fetch, Path] = {}
    for change in changes:
        need = by_address[change.address]
        try:
            for fetch, place in _missing_after_hashing(need, case, run):
                fetches.setdefault(fetch, []).append(change.address)
                places[fetch] = place
        except LmctlError as error:
            errors[change.address] = error
    errors |= _fetch(fetches, places, by_address, run)
    return [Outcome(change, errors.get(change.address)) for change in changes]


def _missing_after_hashing(need: Needed, case: Case, run: Run) -> list[tuple[Fetch, Path]]:
    found = case.world.found[need.artifact.id]
    repo, commit = need.artifact.repo, need.artifact.commit
    missing = [file for file in found if file.signature is None]
    if missing and (repo is None or commit is None):
        raise _absent(missing[0])
    there = [file for file in found if file.signature is not None and state(case, file) != "verified"]
    _hash(there, need, run)
    if repo is None or commit is None:
        return []
    return [(Fetch(repo, need.wanted.revision or commit, commit, file.file), file.path) for file in missing]


def hash_local(case: Case, host: Host, on_progress: OnProgress) -> Hashed:
    """Hash every local file that is not as it was verified; return what was found, by content path. Writes nothing.

    Raises E-LOCK-STALE for all files that are not the locked ones, and E-PERM for those that cannot be read.
    """
    found = [(file, need.artifact) for need in needed(case).values() for file in case.world.found[need.artifact.id]]
    todo = [(file, artifact) for file, artifact in found if not artifact.commit and state(case, file) in _TO_HASH]
    fit = [file.content for file, _ in todo if not resized(file)]
    digests = dict(zip(fit, host.store.hashes(fit, on_progress), strict=True))
    seen = [(file, digests.get(file.content), artifact) for file, artifact in todo]
    wrong = [_mismatch(file, digest, artifact) for file, digest, artifact in seen if digest != file.file.sha256]
    if wrong:
        raise LmctlError.of(problem for error in wrong for problem in error.problems)
    return {file.content: (file.signature, digest) for file, digest, _ in seen if file.signature and digest}


def _digests(files: list[Found], run: Run) -> list[str | None]:
    """Return the sha256 of each file; what was hashed before the run began is not read again unless it was touched."""
    seen = {(file.content, file.signature) for file in files}
    known = {path: digest for path, (signature, digest) in run.hashed.items() if (path, signature) in seen}
    fit = [file.content for file in files if file.content not in known and not resized(file)]
    digests = {**known, **dict(zip(fit, run.host.store.hashes(fit, run.on_progress), strict=True))}
    return [digests.get(file.content) for file in files]


def _hash(files: list[Found], need: Needed, run: Run) -> None:
    rows = []
    for file, digest in zip(files, _digests(files, run), strict=True):
        if digest != file.file.sha256:
            raise _mismatch(file, digest, need.artifact)
        signature = run.host.store.signature(file.content)
        if signature != file.signature or signature is None:
            what = f"{escape(str(file.path))} changed while it was read"
            raise LmctlError("E-HASH", what, fix="find out what writes to it, then apply again")
        kind = "local" if need.artifact.commit is None else "adopted"
        now = run.host.now()
        rows.append(Owned(str(file.content), kind, need.artifact.id, signature, digest, now, now, need.protect))
    with run.ledger.writing(run.host.now()) as ledger:
        ledger.own(rows)


def _absent(file: Found) -> LmctlError:
    what = f"{escape(str(file.path))} does not exist"
    return LmctlError("E-FILE", what, fix="put the file there or correct `path`")


def _mismatch(file: Found, digest: str | None, artifact: Artifact) -> LmctlError:
    what = resized(file) or f"{escape(str(file.path))} has sha256 {digest}, the lock says {file.file.sha256}"
    if digest is None and not resized(file):
        return LmctlError("E-PERM", f"{escape(str(file.path))} cannot be read", fix="check its permissions")
    if artifact.commit is None:
        return LmctlError("E-LOCK-STALE", what, fix="run `lmctl lock --upgrade` if the new file is meant")
    return LmctlError("E-HASH", what, fix="move the file away and apply again")


def _fetch(
    fetches: Mapping[Fetch, list[str]], places: Mapping[Fetch, Path], needs: Mapping[str, Needed], run: Run
) -> dict[str, LmctlError]:
    """Bring all files in one go; return the error of each address that lacks one."""
    if not fetches:
        return {}
    try:
        run.host.transfer.room(list(fetches))
    except LmctlError as error:
        return {address: error for waiting in fetches.values() for address in waiting}
    recording, came = Mutex(), set[Fetch]()

    def record(fetched: Fetched, kind: str) -> None:
        need, now = needs[fetches[fetched.fetch][0]], run.host.now()
        rows = brought(fetched, kind, places[fetched.fetch], need.artifact.id, now, need.protect)
        with recording, run.ledger.writing(now) as ledger:
            ledger.own(rows)

    def own(fetched: Fetched) -> None:
        # before the file gets its place: a crash in between leaves a row without a file, never a file without an owner
        came.add(fetched.fetch)
        record(fetched, "blob")

    problems: dict[str, list[Problem]] = {}
    for fetched in run.host.transfer.fetch(list(fetches), run.on_progress, own):
        if fetched.fetch not in came:
            record(fetched, "adopted")  # somebody else put it there meanwhile
        for address in fetches[fetched.fetch] if fetched.error else ():
            problems.setdefault(address, []).extend(fetched.error.problems if fetched.error else ())
    return {address: LmctlError.of(found) for address, found in problems.items()}


def brought(fetched: Fetched, kind: str, link: Path, artifact: str, now: float, protect: bool) -> list[Owned]:
    """Return the ledger's rows for a file that came from the Hub: its content, and the name by which it is opened."""
    if fetched.blob is None or fetched.signature is None:
        return []
    signature, digest = fetched.signature, fetched.fetch.file.sha256
    return [
        Owned(str(path), what, artifact, signature, digest, now, now, protect)
        for path, what in ((fetched.blob, kind), (link, "link"))
    ]
