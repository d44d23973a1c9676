"""Other processes of this machine: who holds a port or a file, how much memory, and whether a program serves."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from lmctl.errors import escape
from lmctl.host import Listener
from lmctl.hosts import pids, probe, sockets, supervisor_keys
from lmctl.spec import Health, Probe

Number = tuple[int, int]  # of the device and the inode of a file


class Sought:
    """Files that are looked for in what processes hold: `numbers` of device and inode, as stat tells them.

    `mapped` gives the numbers of what the kernel lists as mapped, by inode and device or name: some file systems
    (btrfs, overlayfs) list another device than stat tells.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths: dict[Path, Number | None] = {}
        self.mapped: dict[tuple[bytes, bytes], Number] = {}
        for path in paths:
            try:
                status, name = path.stat(), os.fsencode(path.resolve())
            except OSError:
                self.paths[path] = None
                continue
            self.paths[path] = number = (status.st_dev, status.st_ino)
            inode, device = str(status.st_ino).encode(), f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
            self.mapped |= {(inode, device.encode()): number, (inode, name): number}
        self.numbers = frozenset(number for number in self.paths.values() if number is not None)


class LocalProcesses:
    """Implements `host.Processes`; the keys of probes lie in the folder `state`."""

    def __init__(self, state: Path | None = None) -> None:
        self._state = state

    def listener(self, port: int) -> Listener | None:
        """Return who listens on a port of the loopback addresses; `pid` is None when it is another user's."""
        taken, pid = sockets.owner(port)
        if not taken:
            return None
        return Listener(pid, _name(pid) if pid else "")

    def busy(self, ports: range) -> frozenset[int]:
        """Return those of some ports at which something listens."""
        return sockets.busy(ports)

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
        sought = Sought(paths)
        holders: dict[Number, list[int]] = {number: [] for number in sought.numbers}
        held = _held if pids.LINUX else _held_psutil
        for stat in pids.every() if holders else ():
            if stat.pid != os.getpid():
                for number in held(stat.pid, sought):
                    holders[number].append(stat.pid)
        return {path: tuple(holders[number]) if number else () for path, number in sought.paths.items()}

    def probe(self, listen: str, how: Probe, root: int | None) -> Health:
        """Return the health of the program that should listen on `listen`; see `probe.probe`."""
        key = ""
        if self._state is not None and how.key_file is not None and root is not None:  # else it may be anybody
            key = supervisor_keys.read(self._state, how.key_file)
        return probe.probe(listen, how, root, self._describe, key)

    def page(self, listen: str, path: str, root: int | None) -> str | None:
        """Return what the program on an address answers to GET `path`; see `probe.page`."""
        return probe.page(listen, path, root)

    def _describe(self, port: int) -> str:
        found = self.listener(port)
        if found is None:
            return "a process that ended in the meantime"
        return f"pid {found.pid} ({found.command})" if found.pid else "another user's process"


def _name(pid: int) -> str:
    argv = pids.command(pid)
    return escape(Path(argv[0]).name, 60) if argv else ""


def _held(pid: int, sought: Sought) -> set[Number]:
    """Return those files that a process has open or mapped."""
    return _opened(pid, sought) | _mapped(pid, sought)


def _opened(pid: int, sought: Sought) -> set[Number]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 thousands of them, names alone
    except OSError:
        return set()
    # sockets and pipes have no path, and a name is cheaper to read than a file that may lie on a dead server
    return _among((link for name in names if _leads_to_a_path(link := f"/proc/{pid}/fd/{name}")), sought)


def _leads_to_a_path(link: str) -> bool:
    try:
        return os.readlink(link).startswith("/")  # noqa: PTH115 no object for each of many
    except OSError:  # closed in the meantime
        return False


def _mapped(pid: int, sought: Sought) -> set[Number]:
    try:
        text = Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:
        return set()
    found = set()
    for fields in (line.split(maxsplit=5) for line in text.splitlines()):
        if len(fields) == 6:
            found |= {sought.mapped.get((fields[4], fields[3])), sought.mapped.get((fields[4], fields[5]))}
    return {number for number in found if number is not None}


def _held_psutil(pid: int, sought: Sought) -> set[Number]:
    library = pids.psutil()
    try:
        opened = [file.path for file in library.Process(pid).open_files()]
    except (library.Error, OSError):
        return set()
    # a file that is mapped and closed does not show here; unlinking it takes nothing from the process that maps it
    return _among(opened, sought)


def _among(paths: Iterable[str], sought: Sought) -> set[Number]:
    """Return those files that `paths` lead to."""
    found = set()
    for path in paths:
        with contextlib.suppress(OSError):  # closed or removed in the meantime
            status = os.stat(path)  # noqa: PTH116 no object for each of many
            found.add((status.st_dev, status.st_ino))
    return found & sought.numbers
