"""Other processes of this machine: who holds a port or a file, how much memory, and whether a program serves."""

from __future__ import annotations

import os
from pathlib import Path

from lmctl.errors import escape
from lmctl.host import Listener
from lmctl.hosts import pids, probe, sockets
from lmctl.spec import Health, Probe


class LocalProcesses:
    """Implements `host.Processes`."""

    def listener(self, port: int) -> Listener | None:
        """Return who listens on a port of the loopback addresses; `pid` is None when it is another user's."""
        taken, pid = sockets.owner(port)
        if not taken:
            return None
        return Listener(pid, _name(pid) if pid else "")

    def descends(self, pid: int, root: int) -> bool:
        """Return whether `pid` is `root` or one of its descendants."""
        return pid in pids.tree(root)

    def memory(self, pid: int) -> int | None:
        """Return the resident bytes of a process and its descendants, None when it ended.

        Pages that they share count once for each of them: an upper bound, and the number that `ps` and `top` show.
        """
        sizes = [size for member in pids.tree(pid) if (size := pids.resident(member)) is not None]
        return sum(sizes) if sizes else None

    def holders(self, path: Path) -> tuple[int, ...]:
        """Return the other processes that have a file open or mapped, as far as this user may see."""
        try:
            status = path.stat()
        except OSError:
            return ()
        holds = _holds if pids.LINUX else _holds_psutil
        found = (stat.pid for stat in pids.every() if stat.pid != os.getpid())
        return tuple(pid for pid in found if holds(pid, path.resolve(), status))

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


def _holds(pid: int, path: Path, status: os.stat_result) -> bool:
    return _opened(pid, status) or _mapped(pid, path, status)


def _opened(pid: int, status: os.stat_result) -> bool:
    try:
        names = os.listdir(f"/proc/{pid}/fd")  # noqa: PTH208 thousands of them, names alone
    except OSError:
        return False
    for name in names:
        link = f"/proc/{pid}/fd/{name}"
        try:
            # sockets and pipes have no path, and a name is cheaper to read than a file that may lie on a dead server
            if Path(link).readlink().is_absolute() and os.path.samestat(Path(link).stat(), status):
                return True
        except OSError:  # closed in the meantime
            continue
    return False


def _mapped(pid: int, path: Path, status: os.stat_result) -> bool:
    try:
        text = Path(f"/proc/{pid}/maps").read_bytes()
    except OSError:
        return False
    inode, name = str(status.st_ino).encode(), os.fsencode(path)
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}".encode()
    for line in text.splitlines() if inode in text else ():
        fields = line.split(maxsplit=5)
        # some file systems (btrfs, overlayfs) show another device here than stat does
        if len(fields) == 6 and fields[4] == inode and (fields[3] == device or fields[5] == name):
            return True
    return False


def _holds_psutil(pid: int, _: Path, status: os.stat_result) -> bool:
    library = pids.psutil()
    try:
        opened = [file.path for file in library.Process(pid).open_files()]
    except (library.Error, OSError):
        return False
    # a file that is mapped and closed does not show here; unlinking it takes nothing from the process that maps it
    return any(_same(name, status) for name in opened)


def _same(name: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(Path(name).stat(), status)
    except OSError:
        return False
