"""What this machine offers lmctl to work on: folders and their file systems, limits, and what killed runs left."""

from __future__ import annotations

import contextlib
import os
import resource
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from lmctl.hosts import pids, supervisor_conf, supervisor_daemon
from lmctl.hosts.endpoint import Endpoint, token_file
from lmctl.paths import Folders, disk_error, left, remove_left, write_atomic
from lmctl.premises import Ground, HubFacts
from lmctl.spec import Machine

Mount = tuple[str, str, str]  # where it is, the kind of file system, its options
_INNER = ("", "programs", "logs", "starts", "keys", "snapshots")  # folders of a declaration that lmctl alone writes to


def mounted() -> list[Mount]:
    """Return the file systems of this machine, as far as this user may see."""
    return [(one.mountpoint, one.fstype, one.opts) for one in pids.psutil().disk_partitions(all=True)]


class LocalPremises:
    """Implements `host.Premises`."""

    def __init__(
        self,
        environ: Mapping[str, str],
        folders: Folders,
        machine: Machine,
        mounts: Callable[[], list[Mount]] = mounted,
    ) -> None:
        self._environ, self._folders, self._machine, self._mounts = environ, folders, machine, mounts

    def ground(self, path: Path) -> Ground:
        """Return the facts of a folder; of the nearest one above where it does not exist yet."""
        there = next((one for one in (path, *path.parents) if os.path.lexists(one)), Path("/"))
        real = Path(os.path.realpath(there))
        kind, options = self._mount(real)
        try:
            status, room = real.stat(), os.statvfs(real)
        except OSError:
            return Ground(path, there, kind=kind, options=options)
        return Ground(
            path,
            there,
            folder=stat.S_ISDIR(status.st_mode),
            ours=status.st_uid == os.geteuid(),
            mode=stat.S_IMODE(status.st_mode),
            writable=os.access(real, os.W_OK | os.X_OK),
            device=status.st_dev,
            free=room.f_bavail * room.f_frsize,
            kind=kind,
            options=options,
            folds_case=_folds_case(real),
        )

    def _mount(self, real: Path) -> tuple[str, frozenset[str]]:
        try:
            found = [one for one in self._mounts() if real.is_relative_to(one[0])]
        except (OSError, RuntimeError):
            found = []
        _, kind, options = max(found, key=lambda one: len(one[0]), default=("", "", ""))
        return kind, frozenset(options.split(","))

    def hub(self) -> HubFacts:
        """Return which Hub is asked, with which token. Raises E-MACHINE and E-AUTH."""
        endpoint = Endpoint.of(self._environ, self._folders, self._machine)
        file = token_file(self._environ, self._folders, self._machine)
        if endpoint.token is None:
            return HubFacts(endpoint.url)
        if file is None:
            return HubFacts(endpoint.url, "HF_TOKEN")
        return HubFacts(endpoint.url, str(file), stat.S_IMODE(file.stat().st_mode))

    def root(self) -> bool:
        """Return whether this process is the superuser's."""
        return os.geteuid() == 0

    def files(self, programs: int) -> tuple[int, int | None]:
        """Return how many open files supervisord needs for so many programs, and how many it may have at most."""
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return supervisor_conf.descriptors(programs), None if hard in (resource.RLIM_INFINITY, -1) else hard

    def stale_socket(self, state: Path) -> Path | None:
        """Return the socket of a declaration whose daemon is gone, None when there is none or a daemon lives."""
        path = supervisor_daemon.socket_path(state)
        if not supervisor_daemon.trusted_socket(state) or not path.is_socket():
            return None
        alive = supervisor_daemon.lives(state) or supervisor_daemon.pid(state) is not None
        return None if alive else path

    def remove_socket(self, state: Path) -> None:
        """Remove a stale socket. Raises E-PERM or E-IO; whoever calls holds the declaration's lock."""
        if self.stale_socket(state) is not None:
            supervisor_daemon.remove_socket(state)

    def login_script(self, state: Path, *, on: bool) -> Path:
        """Write, or remove, the script that a unit starts at login. Raises E-SPACE, E-PERM, E-IO."""
        path = state / "service"
        if on:
            write_atomic(path, supervisor_conf.login(state), 0o700)
        else:
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise disk_error(path, error) from error
        return path

    def left(self, folder: Path, names: Iterable[str] | None = None) -> tuple[Path, ...]:
        """Return temporary files of killed writers: in a declaration's folder with those inside, or of `names`."""
        if names is not None:
            return left(folder, frozenset(names))
        return tuple(path for part in _INNER for path in left(folder / part))

    def remove_left(self, folder: Path, names: Iterable[str] | None = None) -> None:
        """Remove what `left` returns; what is written at this moment stays."""
        if names is not None:
            remove_left(folder, frozenset(names))
            return
        for part in _INNER:
            remove_left(folder / part)

    def loose(self, folder: Path) -> tuple[Path, ...]:
        """Return what of this user's own, in a folder of lmctl, other users may open: the folder included."""
        return tuple(path for path, mode in _own(folder) if mode & 0o077)

    def tighten(self, folder: Path) -> None:
        """Take from others what `loose` returns. Raises E-PERM or E-IO."""
        for path, mode in list(_own(folder)):
            if mode & 0o077:
                try:
                    _chmod(path, mode & 0o700)
                except OSError as error:
                    raise disk_error(path, error) from error


def _chmod(path: Path, mode: int) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _own(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield folders and regular files of this user's, with their modes; links are not followed."""
    inside = (Path(above) / name for above, names, files in os.walk(folder) for name in (*names, *files))
    for path in (folder, *inside):
        with contextlib.suppress(OSError):
            status = path.lstat()
            kind = status.st_mode
            if status.st_uid == os.geteuid() and (stat.S_ISDIR(kind) or stat.S_ISREG(kind)):
                yield path, stat.S_IMODE(kind)


def _folds_case(folder: Path) -> bool:
    """Return whether names that differ in case alone are one here; False where the folder's name has no letters."""
    other = folder.with_name(folder.name.swapcase())
    if other == folder:
        return False
    with contextlib.suppress(OSError):
        return other.samefile(folder)
    return False
