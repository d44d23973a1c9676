"""Folders that lmctl reads and writes, and the few ways in which it may touch a file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import BinaryIO

from lmctl.errors import LmctlError, escape
from lmctl.record import record
from lmctl.text import human_bytes

_TEMPORARY = re.compile(r"\.(.+)\.([1-9][0-9]{0,9})\.tmp", re.DOTALL)  # the file to be, the pid that writes it
_LONGEST = 200  # characters of a name that a temporary one repeats


@record
class Folders:
    """Where things live for one user; every path is absolute. Nothing here exists until something is written."""

    home: Path
    config: Path  # holds machine.toml
    state: Path  # declarations, ledgers, programs, logs
    cache: Path  # may vanish at any time
    hf_home: Path  # partial files and quarantine lie in its `lmctl` folder
    hub: Path  # the Hugging Face cache proper

    @classmethod
    def of(cls, environ: Mapping[str, str], home: Path) -> Folders:
        """Read the Hugging Face variables as huggingface_hub does; relative XDG values are ignored, as XDG asks."""

        def xdg(variable: str, default: str) -> Path:
            value = environ.get(variable, "")
            return Path(value) if Path(value).is_absolute() else home / default

        def expanded(value: str) -> Path:
            value = value.replace("$HOME", str(home), 1) if value.startswith("$HOME") else value
            path = Path(str(home) + value[1:]) if value == "~" or value.startswith("~/") else Path(value)
            return path if path.is_absolute() else Path.cwd() / path

        cache = xdg("XDG_CACHE_HOME", ".cache")
        hf_home = expanded(environ["HF_HOME"]) if environ.get("HF_HOME") else cache / "huggingface"
        hub = expanded(environ["HF_HUB_CACHE"]) if environ.get("HF_HUB_CACHE") else hf_home / "hub"
        return cls(
            home=home,
            config=xdg("XDG_CONFIG_HOME", ".config") / "lmctl",
            state=xdg("XDG_STATE_HOME", ".local/state") / "lmctl",
            cache=cache / "lmctl",
            hf_home=hf_home,
            hub=hub,
        )

    def declaration(self, name: str) -> Path:
        """Return the state folder of one declaration."""
        return self.state / name


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading; never blocks on a FIFO or device. Raises E-FILE or E-PERM."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LmctlError("E-FILE", f"{escape(str(path))} is not a regular file", fix="name a file")
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, limit: int) -> bytes:
    """Return the bytes of a regular file of at most `limit` bytes; never blocks on a FIFO or device.

    Raises E-FILE when there is no such regular file, E-PERM when it may not be read, E-LIMIT when it is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = file.read(limit + 1) if size <= limit else b""
        if size > limit or len(content) > limit:
            raise LmctlError(
                "E-LIMIT", f"{escape(str(path))} is larger than {limit} bytes", fix="split it into profiles"
            )
        return content


def read_own(path: Path, limit: int, *, private: bool = False) -> bytes:
    """Return the bytes of a file that nobody but this user could have written; `private`: nor read.

    Raises OSError for a link, another owner or a looser mode, of the file or of its folder; else as `read_regular`.
    """
    for part, loose in ((path, 0o077 if private else 0o022), (path.parent, 0o022)):
        status = part.lstat()
        if status.st_uid != os.geteuid() or status.st_mode & loose or stat.S_ISLNK(status.st_mode):
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(part))
    return read_regular(path, limit)


def _unreadable(path: Path, error: OSError) -> LmctlError:
    shown = escape(str(path))
    if error.errno in (errno.EACCES, errno.EPERM):
        return LmctlError("E-PERM", f"{shown} may not be read", fix="check its permissions")
    if error.errno == errno.ENOENT:
        return LmctlError("E-FILE", f"{shown} does not exist", fix="check the path")
    return LmctlError("E-FILE", f"{shown} cannot be read: {os.strerror(error.errno or 0)}", fix="name a regular file")


def real_path(path: str | Path) -> str:
    """Return `path` with all links followed; one whose name this locale cannot ask for leads nowhere."""
    try:
        return os.path.realpath(path)
    except UnicodeEncodeError:
        return os.path.normpath(path)


def make_private(folder: Path) -> Path:
    """Create `folder` and its missing parents with mode 0700; return it. Raises E-PERM, E-SPACE or E-IO."""
    try:
        missing = [part for part in (folder, *folder.parents) if not part.exists()]
        for part in reversed(missing):
            part.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise disk_error(folder, error) from error
    return folder


def write_atomic(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace `path` so that readers see the old or the new bytes, also after a crash: temporary, fsync, rename, fsync.

    What a killed writer of the same file left is removed. Raises E-FILE for what is no regular file, E-SPACE when the
    disk is full and E-IO or E-PERM otherwise; what was there is then untouched.
    """
    temporary = path.with_name(f".{path.name[:_LONGEST]}.{os.getpid()}.tmp")
    try:
        _refuse_special(path)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                with contextlib.suppress(OSError):  # not every file system has locks
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.fchmod(descriptor, mode)
                file.write(content)
                file.flush()
                sync(descriptor)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise disk_error(path, error, len(content)) from error
    remove_left(path.parent, {path.name})


def _refuse_special(path: Path) -> None:
    """Raise E-FILE for a device, a pipe or a socket: a file would take its place. Of a folder the kernel says it."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode) or stat.S_ISDIR(mode)):
        raise LmctlError("E-FILE", f"{escape(str(path))} is not a regular file", fix="name a file")


def remove_left(folder: Path, names: Collection[str] | None = None) -> None:
    """Remove the temporary files of writers that were killed in `folder`: of the files `names`, else of every file.

    Every file is for folders that lmctl alone writes into. What cannot be told or removed stays.
    """
    for path, pid in _temporaries(folder, names):
        _abandoned(path, pid, remove=True)


def left(folder: Path, names: Collection[str] | None = None) -> tuple[Path, ...]:
    """Return what `remove_left` would remove."""
    return tuple(path for path, pid in _temporaries(folder, names) if _abandoned(path, pid, remove=False))


def _temporaries(folder: Path, names: Collection[str] | None) -> list[tuple[Path, int]]:
    wanted = None if names is None else {name[:_LONGEST] for name in names}
    found: list[tuple[Path, int]] = []
    with contextlib.suppress(OSError):
        for path in folder.iterdir():
            named = _TEMPORARY.fullmatch(path.name)
            if named and (wanted is None or named[1] in wanted):
                found.append((path, int(named[2])))
    return found


def _abandoned(path: Path, pid: int, *, remove: bool) -> bool:
    """Return whether nobody writes a temporary file of this user: its process is gone, and nobody holds its lock.

    The lock speaks where the number does not: for a writer in another container, or on another machine. It is held
    while the file is removed.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        pass
    except (OSError, OverflowError):
        return False
    else:
        return False
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if remove:
                    path.unlink()
                return True
        finally:
            os.close(descriptor)
    return False


def sync(descriptor: int) -> None:
    """Bring what was written to the disk. Raises OSError."""
    full = getattr(fcntl, "F_FULLFSYNC", None)  # macOS's fsync leaves it in the drive's own memory
    if full is not None:
        with contextlib.suppress(OSError):  # a file system that does not have it
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Make a rename in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def room(path: Path, needed: int | None) -> str:
    """Return in words, for the end of a sentence, the bytes that `path` needs and those that are free there."""
    try:
        held = os.statvfs(next((part for part in (path, *path.parents) if part.exists()), "/"))
    except OSError:
        return ""
    free = "no file more fits" if held.f_files and not held.f_favail else ""
    free = free or f"{human_bytes(held.f_bavail * held.f_frsize)} are free"
    return f"; {human_bytes(needed)} are needed, {free}" if needed else f"; {free}"


def disk_error(path: Path, error: OSError, needed: int | None = None) -> LmctlError:
    """Return the error that a failed write of `path` is reported as; `needed` bytes were still to be written."""
    shown, why = escape(str(path)), os.strerror(error.errno or 0)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        why += room(path, needed) if error.errno == errno.ENOSPC else ""
        return LmctlError("E-SPACE", f"{shown} cannot be written: {why}", fix="free some space and run it again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return LmctlError("E-PERM", f"{shown} cannot be written: {why}", fix="check who owns the folder")
    fixes = {errno.ENOENT: "make its folder first", errno.ENOTDIR: "choose another place", errno.EISDIR: "name a file"}
    what = f"{shown} cannot be written: {why}"
    return LmctlError("E-IO", what, fix=fixes.get(error.errno or 0, "check the disk"))
