"""Where a committed path leads: the file or folder itself, the shards beside it, and every link inside a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from lmctl.errors import LmctlError, escape
from lmctl.paths import real_path

MOST_ENTRIES = 10_000  # of one folder and all below it
NEITHER = ""  # where what is neither a file nor a folder leads: a socket, a pipe, a device


def reach(path: str, root: str) -> dict[str, str]:
    """Return the real path behind `path`, and behind every other name that an engine would follow with it.

    Of what lies beside or below it only links, and what is neither file nor folder, are told. Nothing outside of
    `root`, a real path, is looked at. Raises E-LIMIT for a folder that holds too much.
    """
    found = {path: real_path(path)}
    if not holds(root, found[path]):
        return found
    kind = _kind(path)
    if kind == stat.S_IFDIR:
        found.update(_inside(path, root))
    elif kind == stat.S_IFREG:
        found.update({name: real_path(name) for name in _beside(path)})
    elif kind is not None:
        found[path] = NEITHER
    return found


def holds(root: str, path: str) -> bool:
    """Return whether `path` is `root` or lies below it, by its name alone."""
    return path == root or path.startswith(root.rstrip("/") + "/")


def _kind(path: str) -> int | None:
    """Return the type of what is behind all links, None where there is nothing."""
    try:
        return stat.S_IFMT(os.stat(path).st_mode)  # noqa: PTH116 (called for every path of a quick plan)
    except (OSError, ValueError):
        return None


def _beside(path: str) -> Iterator[str]:
    """Yield the other shards of a set that are links."""
    if "-of-" not in path:
        return
    from lmctl.shards import shard_names  # its pattern takes longer to compile than most plans have to look at paths

    for name in shard_names(path):
        if name != path and os.path.islink(name):  # noqa: PTH114
            yield name


def _inside(top: str, root: str) -> Iterator[tuple[str, str]]:
    """Yield every link below a folder with what is behind it; hidden folders are not entered: no engine does."""
    pending, seen, count = [top], set[str](), 0
    while pending:
        folder = pending.pop()
        if (real := real_path(folder)) in seen:
            continue
        seen.add(real)
        for entry in _entries(folder):
            count += 1
            if count > MOST_ENTRIES:
                what = f"{escape(top)} holds more than {MOST_ENTRIES} files and folders"
                raise LmctlError("E-LIMIT", what, fix="name a folder that holds a model and nothing else")
            if entry.is_file(follow_symlinks=False):
                continue
            target = real_path(entry.path) if entry.is_symlink() else ""
            kind = _kind(entry.path) if not target or holds(root, target) else None
            if kind not in (stat.S_IFDIR, stat.S_IFREG, None):
                yield entry.path, NEITHER
            elif target:
                yield entry.path, target
            if kind == stat.S_IFDIR and not entry.name.startswith("."):
                pending.append(entry.path)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:  # what cannot be read is told by whoever has to read it
        return []
