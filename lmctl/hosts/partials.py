"""What interrupted and failed downloads left: listed without a lock, removed under the one that a download holds."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from pathlib import Path

from lmctl.errors import LmctlError
from lmctl.host import Partial
from lmctl.hosts.journal import busy
from lmctl.hosts.removing import opened, refused, there
from lmctl.paths import disk_error

_NAME = re.compile(r"[0-9a-f]{64}(\.|$)")  # of content, or of what belongs to it; everything else is somebody's own


def partials(own: Path) -> tuple[Partial, ...]:
    """Return what interrupted and failed downloads left, with bytes and age; nothing that is being written.

    Nothing is locked for it: a download that starts right now must not meet a lock. One whose journal does not yet
    say who writes it is listed, too; `remove_partial` decides.
    """
    found = []
    for folder in (own / "partial", own / "quarantine"):
        names = {path for path in _entries(folder) if _NAME.match(path.name)}
        for path in sorted(names):
            journal = path.suffix == ".json" and path.with_suffix("") in names
            with contextlib.suppress(FileNotFoundError):  # placed in the meantime
                status = path.lstat()
                if stat.S_ISREG(status.st_mode) and not journal and not busy(path):
                    found.append(Partial(path, min(status.st_size, status.st_blocks * 512), status.st_mtime))
    return tuple(found)


def _entries(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise disk_error(folder, error) from error


def remove_partial(own: Path, path: Path) -> int:
    """Remove a partial or quarantined file and its journal; return the bytes freed, 0 when it is gone already.

    Raises E-PRUNE for another file, E-BUSY for one that is being written.
    """
    if path.parent not in (own / "partial", own / "quarantine") or not _NAME.match(path.name):
        raise refused(path, "it is not a partial file of lmctl")
    try:
        with opened(own, (path.parent.name,)) as folder:
            return _remove_partial(folder, path)
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise disk_error(path, error) from error


def _remove_partial(folder: int, path: Path) -> int:
    if path.suffix == ".json" and there(folder, path.stem):
        return 0  # a download has begun since: it is its journal now
    descriptor = os.open(path.name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
    try:  # the lock is kept until the file is gone: whoever comes meanwhile finds a new one
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        status, named = os.fstat(descriptor), os.stat(path.name, dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or not os.path.samestat(status, named):
            raise refused(path, "it was replaced")
        for name in (path.name, f"{path.name}.json", f".{path.name}.json.tmp"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=folder)
    except BlockingIOError as error:
        raise LmctlError("E-BUSY", f"{path.name[:12]}… is being downloaded", fix="wait until it is done") from error
    finally:
        os.close(descriptor)
    return min(status.st_size, status.st_blocks * 512)
