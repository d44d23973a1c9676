"""Where a change of what the configuration reads shows: the names that decide, and the folders that hold them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path, PurePosixPath

from lmctl.config.find import looked_into, matches
from lmctl.record import record

_MOST_LINKS = 40  # that a path may lead through, as the kernel counts
_MOST_FOLDERS = 256  # that one glob may lead into


@record
class Places:
    """`folders` are real paths of folders that are there. In them count `names`, and below `root` what fits a glob."""

    folders: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()
    root: str = "/"
    patterns: tuple[str, ...] = ()
    files: frozenset[str] = frozenset()  # that all this is about

    def again(self) -> Places:
        """Return where changes of the same files show now: links may lead elsewhere, folders may have come or gone."""
        return places(map(Path, self.files), Path(self.root), self.patterns)

    def counts(self, path: str) -> bool:
        """Whether a change at `path`, which is in one of the folders or is one, can change what is read."""
        if path in self.names:
            return True
        inside = os.path.relpath(path, self.root)
        return not inside.startswith("..") and any(_leads(pattern, inside) for pattern in self.patterns)


def places(files: Iterable[Path], root: Path, patterns: Iterable[str] = ()) -> Places:
    """Return the places of `files`, each absolute and there or not, and of all that the globs find below `root`."""
    patterns, wanted = tuple(patterns), frozenset(map(str, files))
    names = {name for file in wanted for name in trail(file)}
    folders = {name.rpartition("/")[0] or "/" for name in names}
    for pattern in patterns:
        found = list(islice(looked_into(str(root), pattern), _MOST_FOLDERS))
        names.update(name for folder in found for name in trail(folder))
        folders.update(folder for folder in map(os.path.realpath, found) if os.path.isdir(folder))  # noqa: PTH112
    folders.update(name.rpartition("/")[0] or "/" for name in names)
    there = frozenset(folder for folder in folders if os.path.isdir(folder))  # noqa: PTH112
    return Places(there, frozenset(names), str(root), patterns, wanted)


def trail(path: str) -> Iterator[str]:
    """Yield every name that decides what is behind `path`: each link on the way, and the last one, or what is missing.

    The folder of each is there, and its path leads through no link.
    """
    here, pending, links = "/", [part for part in path.split("/") if part not in ("", ".")], 0
    while pending:
        part = pending.pop(0)
        if part == "..":
            here = here.rpartition("/")[0] or "/"
            continue
        name = f"{here.rstrip('/')}/{part}"
        target = _target(name)
        if target is not None:
            yield name
            links += 1
            if links > _MOST_LINKS:
                return
            here = "/" if target.startswith("/") else here
            pending = [one for one in target.split("/") if one not in ("", ".")] + pending
        elif not pending or not os.path.isdir(name):  # noqa: PTH112
            yield name
            return
        else:
            here = name


def _target(name: str) -> str | None:
    try:
        return os.readlink(name)  # noqa: PTH115
    except OSError:
        return None


def _leads(pattern: str, name: str) -> bool:
    """Whether a glob finds `name`, or goes through a folder that may be called so."""
    parts, depth = PurePosixPath(pattern).parts, len(PurePosixPath(name).parts)
    return matches(pattern, name) or (depth < len(parts) and matches("/".join(parts[:depth]), name))
