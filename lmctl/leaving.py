"""What leaves this machine with a declaration, or with all of them: looked at first, then carried out in stages.

Content goes by the rules of prune, but for those that wait or ask what the declaration itself wants. State goes last
and only when everything before succeeded: without its ledger nobody would know what is lmctl's.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from lmctl import belongings, census
from lmctl.errors import LmctlError, Problem, escape
from lmctl.host import OnProgress
from lmctl.mutex import exclusive
from lmctl.paths import Folders, disk_error
from lmctl.plan import Change, Kept
from lmctl.record import record, replace
from lmctl.resource import Case, Run, Scope
from lmctl.resources import content, program
from lmctl.session import Session
from lmctl.spec import Lock
from lmctl.units import Unit


@record
class Leave:
    """One declaration that leaves, as it was looked at."""

    session: Session
    case: Case
    unit: Unit | None = None  # that starts it at login, where lmctl wrote it
    beside: tuple[Kept, ...] = ()  # what lies where lmctl's own would, and is not, or not any more

    @property
    def name(self) -> str:
        return self.session.declaration.name

    @property
    def changes(self) -> tuple[Change, ...]:
        """Content that goes."""
        return tuple(content.changes(self.case))

    @property
    def kept(self) -> tuple[Kept, ...]:
        """Content that lmctl brought and that stays, and what is not lmctl's, each with the reason."""
        return (*content.kept(self.case), *self.beside)

    @property
    def programs(self) -> int:
        """How many programs run."""
        daemon = self.case.world.daemon
        return len(daemon.orphans) + sum(process.pid is not None for process in daemon.processes.values())


def look(sessions: Iterable[Session]) -> tuple[Leave, ...]:
    """Return what of each declaration goes and stays when all of them go together; reads only."""
    leaving = frozenset(session.declaration.name for session in sessions)
    scope = Scope(waive_wait=True, approved=True, leaving=leaving)
    found = [Leave(session, session.look(scope, Lock()), _unit(session), _beside(session)) for session in sessions]
    ending = frozenset(pid for leave in found for pid in program.ending(leave.case))
    return tuple(_let_go(leave, ending) for leave in found)


def _unit(session: Session) -> Unit | None:
    """Return the unit where it is lmctl's, or the link to one that is gone."""
    with contextlib.suppress(LmctlError):  # a path that no unit could name
        unit = session.unit
        state = unit.state()
        return unit if state == "ours" or (state == "absent" and unit.enabled()) else None
    return None


def _beside(session: Session) -> tuple[Kept, ...]:
    """Return what of this declaration is not lmctl's to remove: an edited unit with its link, files of somebody's."""
    found = [*map(_unknown, belongings.foreign(session.state))]
    with contextlib.suppress(LmctlError):  # as above
        unit = session.unit
        state = unit.state()
        if state in ("edited", "foreign"):
            whose = "edited since lmctl wrote it" if state == "edited" else "not written by lmctl"
            found.append(_kept(unit.path, f"{whose}; look at it, and remove it by hand"))
        if state in ("edited", "foreign") and unit.link is not None and unit.enabled():
            found.append(_kept(unit.link, "enables that unit; remove it along with it"))
    return tuple(found)


def _unknown(path: Path) -> Kept:
    return _kept(path, "not lmctl's; move it elsewhere, or remove it by hand")


def _kept(path: Path, why: str) -> Kept:
    return Kept(str(path), 0 if path.is_dir() else path.lstat().st_size, why)


def _let_go(leave: Leave, ending: frozenset[int]) -> Leave:
    """Return the same with nothing in use by programs that leave, too: those of the others among them."""
    world, processes = leave.case.world, leave.session.host.processes
    held = {
        path: tuple(pid for pid in pids if processes.root(pid, ending) is None) for path, pids in world.held.items()
    }
    return replace(leave, case=replace(leave.case, world=replace(world, held=held)))


def last(folders: Folders, leaving: frozenset[str]) -> bool:
    """Return whether no other declaration is left on this machine: what all share goes along then."""
    return not {*census.names(folders)} - leaving


def strangers(folders: Folders) -> tuple[Kept, ...]:
    """Return what lies in the state folder beside declarations and is not lmctl's."""
    return tuple(map(_unknown, belongings.strangers(folders)))


def size(folder: Path) -> tuple[int, int]:
    """Return how many files lie below a folder and their bytes; links count as they are."""
    found = [Path(above) / name for above, _, files in os.walk(folder) for name in files]
    sizes = [path.lstat().st_size for path in found if os.path.lexists(path)]
    return len(sizes), sum(sizes)


@contextlib.contextmanager
def held(leaves: Iterable[Leave], say: Callable[[str], None], *, wait: bool) -> Iterator[None]:
    """Hold the locks of all of them. Raises as `mutex.exclusive`, and nothing was done."""
    with contextlib.ExitStack() as stack:
        for path in [path for leave in leaves for path in (leave.session.turn, leave.session.writer)]:
            stack.enter_context(exclusive(path, "lmctl uninstall", wait=wait, say=say))
        yield


def carry_out(leaves: tuple[Leave, ...], on_progress: OnProgress, say: Callable[[str], None]) -> dict[str, LmctlError]:
    """Stop, prune and remove the state of all that leave; return by name why one of them stays in part.

    The locks are held. No more content goes than was looked at, and of that only what the rules still let go.
    """
    errors: dict[str, LmctlError] = {}
    for leave in leaves:
        with _noted(leave.name, errors):
            if leave.unit is not None:
                leave.unit.remove()
            say(f"stopping what {leave.name} runs")
            leave.session.host.supervisor.shutdown()
    stopped = look([leave.session for leave in leaves if leave.name not in errors])
    shown = frozenset(change.id for leave in leaves for change in leave.changes)
    for leave in stopped:
        with _noted(leave.name, errors):
            _prune(leave, shown, on_progress, say)
    for leave in leaves:
        if leave.name not in errors:
            with _noted(leave.name, errors):
                _forget(leave.session)
    return errors


@contextlib.contextmanager
def _noted(name: str, errors: dict[str, LmctlError]) -> Iterator[None]:
    try:
        yield
    except LmctlError as error:
        errors[name] = error


def _prune(leave: Leave, shown: frozenset[str], on_progress: OnProgress, say: Callable[[str], None]) -> None:
    session, changes = leave.session, tuple(change for change in leave.changes if change.id in shown)
    run = Run(session.host, session.ledger, 0, on_progress, session.host.stop, say)
    problems: list[Problem] = []
    for outcome in content.apply(changes, leave.case, run):
        if outcome.error is not None:
            problems += [replace(problem, change=outcome.change.id) for problem in outcome.error.problems]
    if problems:
        raise LmctlError.of(problems)


def _forget(session: Session) -> None:
    """Remove the state folder, then the record by which the declaration is found: an interrupted run is taken up.

    What lmctl did not write stays there.
    """
    stays = {str(path) for path in belongings.foreign(session.state)}
    remove_tree(session.state, stays)
    _unlink(session.record)


def forget_shared(folders: Folders) -> tuple[Kept, ...]:
    """Remove what the last declaration leaves: lmctl's cache, empty folders of downloads, logs; return what stays."""
    if folders.cache.is_dir():
        remove_tree(folders.cache)
    own = folders.hf_home / "lmctl"
    if own.is_dir():
        with exclusive(own / "lock", "lmctl uninstall", wait=True):  # nobody places or prunes now
            _unlink(own / "lock")
        _rmdir(own / "partial", own / "quarantine", own)
    for path in folders.state.glob("crash-*.json"):
        _unlink(path)
    _rmdir(folders.state / belongings.RECORDS, folders.state)
    return (*map(_unknown, _below(own)), *strangers(folders))


def remove_tree(folder: Path, stays: Collection[str] = ()) -> None:
    """Remove a folder of lmctl's with all that is in it but `stays`; no link is followed. Raises E-PERM, E-IO.

    A folder that is a link, or another user's, is refused with E-PRUNE.
    """
    try:
        status = folder.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        what = f"{escape(str(folder))} is not a folder of this user"
        raise LmctlError("E-PRUNE", what, fix="look at it, and remove it by hand")
    try:
        for above, names, files, descriptor in os.fwalk(folder, topdown=False, follow_symlinks=False):
            for name in files:
                if f"{above}/{name}" not in stays:
                    os.unlink(name, dir_fd=descriptor)
            for name in names:
                if not any(one == f"{above}/{name}" or one.startswith(f"{above}/{name}/") for one in stays):
                    _remove_folder(name, descriptor)
        if not stays:
            folder.rmdir()
    except OSError as error:
        raise disk_error(folder, error) from error


def _remove_folder(name: str, above: int) -> None:
    """Remove an empty folder, or a link to one."""
    if stat.S_ISLNK(os.stat(name, dir_fd=above, follow_symlinks=False).st_mode):
        os.unlink(name, dir_fd=above)
    else:
        os.rmdir(name, dir_fd=above)


def _unlink(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise disk_error(path, error) from error


def _rmdir(*folders: Path) -> None:
    """Remove folders that are empty."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _below(folder: Path) -> Iterator[Path]:
    for above, _, files in os.walk(folder):
        yield from (Path(above) / name for name in sorted(files))
