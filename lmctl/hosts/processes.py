"""Other processes of this machine: who holds a port or a file, how much memory, and whether a program serves."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from lmctl.errors import escape
from lmctl.host import Listener
from lmctl.hosts import pids, probe, sockets
from lmctl.record import record
from lmctl.spec import Health, Probe


@record
class File:
    """A file by what it is; `name` is where it really lies."""

    device: int
    inode: int
    name: bytes

    @property
    def number(self) -> tuple[bytes, bytes]:
        """Device and inode as the kernel writes them where it lists what a process maps."""
        return f"{os.major(self.device):02x}:{os.minor(self.device):02x}".encode(), str(self.inode).encode()


class LocalProcesses:
    """Implements `host.Processes`."""

    def listener(self, port: int) -> Listener | None:
        """Return who listens on a port of the loopback addresses; `pid` is None when it is another user's."""
        taken, pid = sockets.owner(port)
        if not taken:
            return None
        return Listener(pid, _name(pid) if pid else "")

    def root(self, pid: int, roots: Collection[int]) -> int | None:
        """Return which of `roots` a process is or descends from, the nearest one; None where there is none."""
        return next((above for above in pids.lineage(pid) if above in roots), None)

    def memory(self, roots: Collection[int]) -> Mapping[int, int]:
        """Return the resident bytes of each process with its descendants, but for those that ended.

        Pages that they share count once for each of them: an upper bound, and the number that `ps` and `top` show.
        """
        sizes = {
            root: [size for member in members if (size := pids.resident(member)) is not None]
            for root, members in pids.trees(roots).items()
        }
        return {root: sum(found) for root, found in sizes.items() if found}

    def holders(self, paths: Iterable[Path]) -> Mapping[Path, tuple[int, ...]]:
        """Return the other processes that have a file open or mapped, as far as this user may see, by file.

        Looks at every process once, whatever the number of files; one that cannot be read has no holders.
        """
        asked = {path: _file(path) for path in paths}
        files = frozenset(file for file in asked.values() if file is not None)
        holders: dict[File, list[int]] = {file: [] for file in files}
        held = _held if pids.LINUX else _held_psutil
        for stat in pids.every() if files else ():
            if stat.pid != os.getpid():
                for file in held(stat.pid, files):
                    holders[file].append(stat.pid)
        return {path: tuple(holders[file]) if file else () for path, file in asked.items()}

    def probe(self, listen: str, how: Probe, root: int | None) -> Health:
        """Return the health of the program that should listen on `listen`; see `probe.probe`."""
        return probe.probe(listen, how, root, self._describe)

    def _describe(self, port: int) -> str:
        found = self.listener(port)
        if found is None:
            return "a process that ended in the meantime"
        return f"pid {found.pid} ({found.command})" if found.pid else "another user's process"


def _name(pid: int) -> str:
    argv = pids.command(pid)
    return escape(Path(argv[0]).name, 60) if argv else ""


def _file(path: Path) -> File | None:
    try:
        status = path.stat()
        return File(status.st_dev, status.st_ino, os.fsencode(path.resolve()))
    except OSError:
        return None


def _held(pid: int, files: Collection[File]) -> set[File]:
    """Return those of `files` that a process has open or mapped."""
    return _opened(pid, files) | _mapped(pid, files)


def _opened(pid: int, files: Collection[File]) -> set[File]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 thousands of them, names alone
    except OSError:
        return set()
    # sockets and pipes have no path, and a name is cheaper to read than a file that may lie on a dead server
    return _among((link for name in names if _leads_to_a_path(link := f"/proc/{pid}/fd/{name}")), files)


def _leads_to_a_path(link: str) -> bool:
    try:
        return os.readlink(link).startswith("/")  # noqa: PTH115 no object for each of many
    except OSError:  # closed in the meantime
        return False


def _mapped(pid: int, files: Collection[File]) -> set[File]:
    try:
        text = Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:
        return set()
    mapped = {
        (fields[3], fields[4], fields[5])
        for fields in (line.split(maxsplit=5) for line in text.splitlines())
        if len(fields) == 6
    }
    numbers = {(device, inode) for device, inode, _ in mapped}
    names = {(inode, name) for _, inode, name in mapped}
    # some file systems (btrfs, overlayfs) show another device here than stat does
    return {file for file in files if file.number in numbers or (file.number[1], file.name) in names}


def _held_psutil(pid: int, files: Collection[File]) -> set[File]:
    library = pids.psutil()
    try:
        opened = [file.path for file in library.Process(pid).open_files()]
    except (library.Error, OSError):
        return set()
    # a file that is mapped and closed does not show here; unlinking it takes nothing from the process that maps it
    return _among(opened, files)


def _among(paths: Iterable[str], files: Collection[File]) -> set[File]:
    """Return those of `files` that `paths` lead to."""
    known, found = {(file.device, file.inode): file for file in files}, set()
    for path in paths:
        with contextlib.suppress(OSError):  # closed or removed in the meantime
            status = os.stat(path)  # noqa: PTH116 no object for each of many
            found.add(known.get((status.st_dev, status.st_ino)))
    return {file for file in found if file is not None}
