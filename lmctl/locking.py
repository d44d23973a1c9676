"""Bring the lock files up to date: keep what is locked, resolve what is missing, upgrade only what is named."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from lmctl import adhoc, lockfile
from lmctl.errors import LmctlError, Problem, escape
from lmctl.host import Hub, Listing
from lmctl.record import NOTHING, record, replace
from lmctl.resolving import hashed, resolve
from lmctl.spec import Artifact, Declaration, Lock, Wanted
from lmctl.text import human_id

_AT_ONCE = 4  # artifacts resolved side by side: local files are hashed while the Hub is asked

Resolve = Callable[[Wanted], Artifact]


@record
class Changed:
    """One artifact of the lock that is new (`before` None), resolved anew, or dropped (`after` None)."""

    id: str
    before: Artifact | None
    after: Artifact | None


@record
class Update:
    """A lock brought up to date, what changed in it, and by id why an artifact could not be resolved."""

    lock: Lock
    changes: tuple[Changed, ...] = ()
    errors: Mapping[str, LmctlError] = NOTHING


def update(lock: Lock, wanted: Iterable[Wanted], resolve: Resolve, upgrade: Collection[str] = frozenset()) -> Update:
    """Return `lock` with all of `wanted` in it; only what is missing or whose id is in `upgrade` is resolved.

    Nothing is dropped. What fails keeps its old entry, if any, and does not keep the others from being locked.
    """
    artifacts, errors = dict(lock.artifacts), {}
    todo = [one for one in unique(wanted) if one.id in upgrade or not _holds(lock, one)]
    for one, outcome in zip(todo, _side_by_side(todo, resolve), strict=True):
        if isinstance(outcome, LmctlError):
            errors[one.id] = outcome
        else:
            artifacts[one.id] = outcome
    changed = [one.id for one in todo if artifacts.get(one.id) != lock.artifacts.get(one.id)]
    changes = tuple(Changed(name, lock.artifacts.get(name), artifacts[name]) for name in sorted(changed))
    return Update(Lock(artifacts), changes, errors)


def without(lock: Lock, wanted: Iterable[Wanted]) -> Update:
    """Return `lock` less what nothing in `wanted`, the whole declaration's artifacts, asks for."""
    asked = {one.id for one in wanted}
    gone = sorted(lock.artifacts.keys() - asked)
    kept = {name: artifact for name, artifact in lock.artifacts.items() if name in asked}
    return Update(Lock(kept), tuple(Changed(name, lock.artifacts[name], None) for name in gone))


def check(lock: Lock, wanted: Iterable[Wanted]) -> list[Problem]:
    """Return what is wrong between `lock` and `wanted`, all that is asked for; pure, and offline.

    E-LOCK-STALE for an artifact that is not locked, W-STALE for an entry that nothing asks for.
    """
    asked = unique(wanted)
    problems = [
        Problem("E-LOCK-STALE", f"{escape(human_id(one.id))} is not locked", "run `lmctl lock`")
        for one in asked
        if not _holds(lock, one)
    ]
    unasked = sorted(lock.artifacts.keys() - {one.id for one in asked})
    problems += [
        Problem("W-STALE", f"nothing asks for {escape(human_id(name))}", "drop it with `lmctl lock --prune`")
        for name in unasked
    ]
    return problems


def check_local(lock: Lock, wanted: Iterable[Wanted]) -> list[Problem]:
    """Return E-LOCK-STALE for each local file whose bytes are not the locked ones; reads them. Absent files pass."""
    problems = []
    for one in unique(wanted):
        artifact = lock.artifacts.get(one.id)
        if artifact is None or one.path is None or not one.path.exists():
            continue
        folder = one.path if one.path.is_dir() else one.path.parent
        for file in artifact.files:
            content = folder / file.path
            if content.exists() and hashed(content) != (file.size, file.sha256):
                what = f"{escape(file.path)} of {escape(human_id(one.id))} is not the file that is locked"
                problems.append(Problem("E-LOCK-STALE", what, "lock it anew with `lmctl lock --upgrade PROFILE`"))
    return problems


def unique(wanted: Iterable[Wanted]) -> list[Wanted]:
    """Return one Wanted for each id, sorted by it; what is weights somewhere is locked as weights."""
    found: dict[str, Wanted] = {}
    for one in wanted:
        if one.id not in found or (one.role == "weights" and found[one.id].role != "weights"):
            found[one.id] = one
    return [found[name] for name in sorted(found)]


def named(problem: Problem, name: str) -> Problem:
    """Say which artifact it is about where the problem itself does not name its repository or path."""
    plain = name.removeprefix("path=").partition("@")[0]
    what = problem.what if plain in problem.what else f"{escape(human_id(name))}: {problem.what}"
    return replace(problem, what=what, change=f"lock:{name}")


def _holds(lock: Lock, wanted: Wanted) -> bool:
    artifact = lock.artifacts.get(wanted.id)
    return artifact is not None and artifact.format == wanted.format


def _side_by_side(todo: list[Wanted], resolve: Resolve) -> list[Artifact | LmctlError]:
    def outcome(future: Future[Artifact]) -> Artifact | LmctlError:
        try:
            return future.result()
        except LmctlError as error:
            return error

    with ThreadPoolExecutor(_AT_ONCE, "resolve") as pool:
        futures = [pool.submit(resolve, one) for one in todo]
        try:
            return [outcome(future) for future in futures]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)  # an interrupt does not wait for what has not begun
            raise


@record
class Selected:
    """What a run of `lock` is about: these ids (None: all), whether to move them on, whether to drop the unasked."""

    ids: Collection[str] | None = None
    upgrade: bool = False
    prune: bool = False

    def among(self, asked: Iterable[Wanted]) -> list[Wanted]:
        return [one for one in asked if self.ids is None or one.id in self.ids]


def ids(declaration: Declaration, profiles: Collection[str]) -> frozenset[str]:
    """Return the id of everything that `profiles` ask for, on whatever machine."""
    return frozenset(name for name, asking in declaration.asked_by.items() if not set(asking).isdisjoint(profiles))


def files(declaration: Declaration) -> tuple[tuple[Path, list[Wanted]], ...]:
    """Return both lock files with all that each is for: the committed one, then the git-ignored one for the rest.

    An id that the committed files ask for is in the committed lock alone.
    """
    committed = unique(declaration.variants)
    ids = {one.id for one in committed}
    used = (one for profile in declaration.profiles for one in profile.artifacts)
    local = [one for one in unique((*declaration.local_variants, *used)) if one.id not in ids]
    return (declaration.folder / lockfile.COMMITTED, committed), (declaration.folder / lockfile.LOCAL, local)


class _Turns:
    """A Hub that threads share: one question at a time, since its connections belong to one thread."""

    def __init__(self, hub: Hub) -> None:
        self._hub, self._turn = hub, threading.Lock()

    def list(self, repo: str, revision: str) -> Listing:
        with self._turn:
            return self._hub.list(repo, revision)

    def read(self, repo: str, commit: str, path: str, start: int, length: int) -> bytes:
        with self._turn:
            return self._hub.read(repo, commit, path, start, length)


def relock(declaration: Declaration, hub: Hub, selected: Selected) -> Update:
    """Bring both lock files of `declaration` up to date and write what changed; return both as one Update."""
    done = [_relock_file(declaration, path, asked, hub, selected) for path, asked in files(declaration)]
    changes = tuple(change for one in done for change in one.changes)
    errors = {name: error for one in done for name, error in one.errors.items()}
    return Update(lockfile.merged(done[0].lock, done[1].lock), changes, errors)


def _relock_file(
    declaration: Declaration, path: Path, asked: list[Wanted], hub: Hub, selected: Selected, mode: int = 0o644
) -> Update:
    lock, todo = lockfile.read(path), selected.among(asked)
    upgrade = {one.id for one in todo} if selected.upgrade else frozenset[str]()
    done = update(lock, todo, partial(_resolve, declaration, _Turns(hub)), upgrade)
    dropped = without(done.lock, asked) if selected.prune else Update(done.lock)
    lockfile.write(path, dropped.lock, mode)
    return Update(dropped.lock, (*done.changes, *dropped.changes), done.errors)


def _resolve(declaration: Declaration, hub: Hub, wanted: Wanted) -> Artifact:
    """Resolve one artifact; it may bring code where its profile or the whole declaration is allowed to."""
    asking = declaration.asked_by.get(wanted.id, ())
    trusted = any(profile.remote_code for profile in declaration.profiles if profile.name in asking)
    everywhere = "remote_code" in declaration.machine.allow.get(declaration.name, ())
    try:
        return resolve(wanted, hub, remote_code=trusted or everywhere)
    except LmctlError as error:
        raise LmctlError.of(_told(declaration, problem) for problem in error.problems) from error


def _told(declaration: Declaration, problem: Problem) -> Problem:
    """Say what lets weights bring code: a flag of their profile, trusted."""
    if problem.code != "E-REMOTECODE":
        return problem
    command = f"lmctl trust {shlex.quote(str(declaration.file))}"
    flag = 'extra_args = ["--trust-remote-code"]'
    return replace(problem, fix=f"choose another model, or declare `{flag}` and run `{command}`")


def lock_missing(
    declaration: Declaration, ids: Collection[str], hub: Hub, undeclared: frozenset[str], beside: Path
) -> Mapping[str, LmctlError]:
    """Lock those artifacts of `declaration` that `ids` names and no lock holds; return by id what failed.

    What only the profiles of `undeclared` ask for goes into a lock of its own, `beside`.
    """
    alone = adhoc.only_for(declaration, undeclared)
    done = relock(declaration, hub, Selected({*ids} - alone))
    wanted = [one for profile in declaration.profiles for one in profile.artifacts if one.id in alone]
    more = _relock_file(declaration, beside, unique(wanted), hub, Selected({*ids} & alone), 0o600)
    return {**done.errors, **more.errors}


def check_files(declaration: Declaration, ids: Collection[str] | None = None) -> list[Problem]:
    """Return what `check` finds in both lock files; with `ids`, only which of those are not locked."""
    problems = []
    for path, asked in files(declaration):
        found = check(lockfile.read(path), Selected(ids).among(asked))
        problems += [problem for problem in found if ids is None or problem.code != "W-STALE"]
    return problems


def check_contents(declaration: Declaration, ids: Collection[str] | None = None) -> list[Problem]:
    """Return what `check_local` finds for both lock files."""
    found = [check_local(lockfile.read(path), Selected(ids).among(asked)) for path, asked in files(declaration)]
    return [problem for problems in found for problem in problems]
