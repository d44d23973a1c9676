"""Where the sockets of a state folder lie, over which one process of lmctl talks to another."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

_LIMIT = 96  # supervisord first binds a name of up to eight bytes more, and the kernel takes 104 to 108


def path(folder: Path, name: str) -> Path:
    """Return the path of a socket of a state folder: in it, or in /tmp where that path would be too long."""
    inside = folder / f"{name}.sock"
    if len(os.fsencode(inside)) <= _LIMIT:
        return inside
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    return short_folder() / (f"{digest}.sock" if name == "s" else f"{digest}-{name}.sock")


def short_folder() -> Path:
    """Return the folder for sockets whose own path would be too long; whoever uses it sees first whose it is."""
    return Path(f"/tmp/lmctl-{os.getuid()}")  # noqa: S108


def trusted(socket: Path) -> bool:
    """Return whether the folder that a socket lies in can hold nobody else's socket."""
    try:
        status = socket.parent.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
