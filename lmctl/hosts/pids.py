"""Facts about other processes: from /proc where there is one, which is quick, and through psutil elsewhere."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType

from lmctl.record import record

LINUX = sys.platform.startswith("linux")
_TICKS = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


@record
class Stat:
    """One live process; `started` in seconds since boot, None where only the date is known."""

    pid: int
    parent: int
    group: int
    session: int
    started: float | None


def stat(pid: int) -> Stat | None:
    """Return a process as it is now; None when it ended, also while its parent has not noticed (a zombie)."""
    if not LINUX:
        return _psutil_stat(pid)
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    fields = text[text.rfind(b")") + 2 :].split()  # the name before it may hold anything
    if fields[0] in (b"Z", b"X"):
        return None
    return Stat(pid, int(fields[1]), int(fields[2]), int(fields[3]), int(fields[19]) / _TICKS)


def every() -> Iterator[Stat]:
    """Yield all processes that can be seen."""
    numbers = (
        (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()) if LINUX else iter(psutil().pids())
    )
    for pid in numbers:
        if found := stat(pid):
            yield found


def own() -> Iterator[int]:
    """Yield the pids of this user's processes."""
    if LINUX:
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # ended in the meantime
                if path.name.isdigit() and path.stat().st_uid == os.geteuid():
                    yield int(path.name)
        return
    library = psutil()
    for pid in library.pids():
        with contextlib.suppress(library.Error):
            if library.Process(pid).uids().effective == os.geteuid():
                yield pid


def shares_files(pid: int) -> bool:
    """Return whether a path means the same file to a process as to this one; it does not in a container or a chroot."""
    if not LINUX:
        return True
    try:
        here, there = (Path(f"/proc/{name}/ns/mnt").readlink() for name in ("self", pid))
        return here == there and Path(f"/proc/{pid}/root").samefile("/")
    except OSError:
        return False


def members(groups: Collection[tuple[int, int]]) -> dict[tuple[int, int], list[int]]:
    """Return the pids of process groups, each named with its session, but for those that are empty."""
    found: dict[tuple[int, int], list[int]] = {}
    for each in every() if groups else ():
        if (each.group, each.session) in groups:
            found.setdefault((each.group, each.session), []).append(each.pid)
    return found


def tree(root: int) -> list[int]:
    """Return `root` and its descendants, those that live."""
    return trees([root])[root]


def trees(roots: Iterable[int]) -> dict[int, list[int]]:
    """Return the same for each of `roots`; looks at every process once."""
    children: dict[int, list[int]] = {}
    alive = set()
    for found in every():
        children.setdefault(found.parent, []).append(found.pid)
        alive.add(found.pid)
    return {root: _below(root, children) if root in alive else [] for root in roots}


def _below(root: int, children: Mapping[int, list[int]]) -> list[int]:
    pending, seen = [root], []
    while pending:
        seen.append(pending.pop())
        pending.extend(pid for pid in children.get(seen[-1], []) if pid not in seen)
    return seen


def lineage(pid: int) -> Iterator[int]:
    """Yield a process, if it lives, and those above it, nearest first."""
    found = stat(pid)
    while found is not None:
        yield found.pid
        found = stat(found.parent) if found.parent else None


def resident(pid: int) -> int | None:
    """Return the resident bytes of one process; pages that several processes share count in each."""
    if LINUX:
        try:
            return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE
        except OSError:
            return None
    library = psutil()
    try:
        return int(library.Process(pid).memory_info().rss)
    except library.Error:
        return None


def command(pid: int) -> tuple[str, ...]:
    """Return the argv of a process, empty when it cannot be read."""
    if LINUX:
        try:
            text = Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return ()
        return tuple(part.decode("utf-8", "replace") for part in text.rstrip(b"\0").split(b"\0"))
    library = psutil()
    try:
        return tuple(library.Process(pid).cmdline())
    except library.Error:
        return ()


def runs_in(pid: int, folder: Path) -> bool:
    """Return whether `folder` is the working folder of a process."""
    try:
        return Path(f"/proc/{pid}/cwd" if LINUX else _psutil_cwd(pid)).samefile(folder)
    except OSError:
        return False


def variable(pid: int, name: str) -> str | None:
    """Return an environment variable of a process, as it was when the process started; None when unknown."""
    if LINUX:
        try:
            parts = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            return None
        prefix = f"{name}=".encode()
        return next((part[len(prefix) :].decode("utf-8", "replace") for part in parts if part.startswith(prefix)), None)
    library = psutil()
    try:
        value: str | None = library.Process(pid).environ().get(name)
    except library.Error:
        return None
    return value


def _psutil_stat(pid: int) -> Stat | None:
    library = psutil()
    try:
        process = library.Process(pid)
        if process.status() == library.STATUS_ZOMBIE:
            return None
        return Stat(pid, process.ppid(), os.getpgid(pid), os.getsid(pid), None)
    except (library.Error, OSError):
        return None


def _psutil_cwd(pid: int) -> str:
    library = psutil()
    try:
        return str(library.Process(pid).cwd())
    except library.Error as error:
        raise OSError(str(error)) from error


def psutil() -> ModuleType:
    """Return psutil: imported when first asked for, because it takes as long as half a plan, and Linux needs none."""
    return importlib.import_module("psutil")
