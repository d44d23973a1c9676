"""Removing what lmctl placed, and nothing else: by descriptors, without following a link, inside the cache alone."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from lmctl.errors import LmctlError, escape
from lmctl.hosts.placing import TEMPORARY, cache_lock
from lmctl.paths import disk_error
from lmctl.spec import Signature

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DEPTH = 32  # of folders in a snapshot


def links(hub: Path, blob: Path) -> tuple[Path, ...]:
    """Return the snapshot entries of the blob's repository that lead to `blob`."""
    parts = _parts(hub, blob)
    try:
        with opened(hub, (parts[0], "snapshots")) as folder:
            return tuple(hub / parts[0] / "snapshots" / path for path in _leading(folder, blob.name))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise refused(blob, "its snapshots cannot be read") from error


def remove(hub: Path, own: Path, blob: Path, signature: Signature, ours: Sequence[Path]) -> int:
    """Unlink `blob` and `ours`, the links to it that lmctl placed; return the bytes freed.

    These are 0 while another hard link keeps the content. Raises E-PRUNE unless `blob` is a regular file of the cache
    that still has `signature`, and nothing but `ours` leads to it. A ref goes with the snapshot of `ours` that it
    names, once nothing is left in that.
    """
    parts = _parts(hub, blob)
    snapshots = hub / parts[0] / "snapshots"
    known = {str(path.relative_to(snapshots)) for path in ours if path.is_relative_to(snapshots)}
    with cache_lock(own):
        try:
            with opened(hub, parts[:-1]) as blobs, opened(hub, parts[:1]) as repo:
                status = _unchanged(blobs, blob, signature)
                _unlink_links(repo, blob, known)
                # again: what was checked is what is unlinked, also when something was swapped meanwhile
                _unchanged(blobs, blob, signature)
                os.unlink(blob.name, dir_fd=blobs)
                _tidy(repo, {path.partition("/")[0] for path in known})
            with contextlib.suppress(OSError):
                (hub / parts[0]).rmdir()  # only when nothing of another program is in it
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENOENT):
                raise refused(blob, "a folder on its way was replaced") from error
            raise disk_error(blob, error) from error
    return status.st_size if status.st_nlink == 1 else 0


def _parts(hub: Path, blob: Path) -> tuple[str, str, str]:
    """Return repository folder, "blobs" and name; raises E-PRUNE for any other path."""
    if not is_blob(hub, blob):
        raise refused(blob, "it is not a blob of the Hugging Face cache")
    repo, blobs, name = blob.relative_to(hub).parts
    return repo, blobs, name


def is_blob(hub: Path, path: Path) -> bool:
    """Return whether `path` is named as a blob of the cache `hub` is."""
    parts = path.relative_to(hub).parts if path.is_relative_to(hub) else ()
    return len(parts) == 3 and parts[1] == "blobs" and ".." not in parts


def refused(path: Path, why: str) -> LmctlError:
    """Return the error of a file that stays."""
    return LmctlError("E-PRUNE", f"{escape(str(path))} is kept: {why}", fix="remove it by hand if it is not needed")


@contextlib.contextmanager
def opened(root: Path, parts: tuple[str, ...]) -> Iterator[int]:
    """Open the folder below `root` step by step, none of the steps being a link."""
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with _below(top, parts) as descriptor:
            yield descriptor
    finally:
        os.close(top)


def _unchanged(blobs: int, blob: Path, signature: Signature) -> os.stat_result:
    status = os.stat(blob.name, dir_fd=blobs, follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode):
        raise refused(blob, "it was replaced by a link or a folder")
    if Signature(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev) != signature:
        raise refused(blob, "it changed since lmctl verified it")
    return status


def _leading(folder: int, name: str, above: str = "") -> Iterator[str]:
    """Yield the paths below an open `snapshots` folder whose link leads to the blob `name`."""
    if above.count("/") > _DEPTH:
        return
    for entry in sorted(os.listdir(folder)):
        path, mode = f"{above}{entry}", os.stat(entry, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            target = PurePosixPath("snapshots") / PurePosixPath(path).parent / os.readlink(entry, dir_fd=folder)
            if os.path.normpath(target) == f"blobs/{name}":
                yield path
        elif stat.S_ISDIR(mode):
            below = os.open(entry, _FOLDER, dir_fd=folder)
            try:
                yield from _leading(below, name, f"{path}/")
            finally:
                os.close(below)


def _unlink_links(repo: int, blob: Path, known: set[str]) -> None:
    """Unlink what leads to the blob, and the folders that are empty then. Raises E-PRUNE for a link not `known`."""
    try:
        snapshots = os.open("snapshots", _FOLDER, dir_fd=repo)
    except FileNotFoundError:
        return
    try:
        found = list(_leading(snapshots, blob.name))
        if foreign := [path for path in found if path not in known]:
            raise refused(blob, f"another tool links it (snapshots/{escape(foreign[0])})")
        for path in found:
            *above, entry = path.split("/")
            with _below(snapshots, above) as folder:
                os.unlink(entry, dir_fd=folder)
            for depth in range(len(above), 0, -1):
                with _below(snapshots, above[: depth - 1]) as folder, contextlib.suppress(OSError):
                    os.rmdir(above[depth - 1], dir_fd=folder)
    finally:
        os.close(snapshots)


@contextlib.contextmanager
def _below(folder: int, parts: Sequence[str]) -> Iterator[int]:
    descriptor = os.dup(folder)
    try:
        for part in parts:
            below = os.open(part, _FOLDER, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def _tidy(repo: int, commits: set[str]) -> None:
    """Remove refs to those of `commits` whose snapshot is gone, and folders of the repository that are empty."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(TEMPORARY, dir_fd=repo)  # of a run that was killed: whoever places holds the lock
    with contextlib.suppress(FileNotFoundError):
        refs = os.open("refs", _FOLDER, dir_fd=repo)
        try:
            _tidy_refs(refs, {commit for commit in commits if not there(repo, f"snapshots/{commit}")})
        finally:
            os.close(refs)
    for name in ("refs", "snapshots", "blobs"):
        with contextlib.suppress(OSError):
            os.rmdir(name, dir_fd=repo)


def _tidy_refs(folder: int, gone: set[str]) -> None:
    for entry in os.listdir(folder):
        mode = os.stat(entry, dir_fd=folder, follow_symlinks=False).st_mode
        if stat.S_ISDIR(mode):
            below = os.open(entry, _FOLDER, dir_fd=folder)
            try:
                _tidy_refs(below, gone)
            finally:
                os.close(below)
            with contextlib.suppress(OSError):
                os.rmdir(entry, dir_fd=folder)
        elif stat.S_ISREG(mode) and _content(folder, entry) in gone:
            os.unlink(entry, dir_fd=folder)


def _content(folder: int, ref: str) -> str:
    """Return what a ref names, as lmctl writes it: the commit and nothing else."""
    descriptor = os.open(ref, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    with os.fdopen(descriptor, "rb") as file:
        return file.read(64).decode("ascii", "replace")


def there(folder: int, path: str) -> bool:
    """Return whether an open folder has an entry at `path`."""
    try:
        os.stat(path, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True
