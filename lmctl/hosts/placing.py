"""The Hugging Face cache as huggingface_hub lays it out: where a file belongs, and how it gets there."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from lmctl.errors import LmctlError, escape
from lmctl.host import Fetch
from lmctl.mutex import exclusive
from lmctl.paths import disk_error, sync_folder

# What becomes a link or a ref, in the repository's folder: one name for all, because the lock of the cache is held, so
# that what a killed run left is replaced by the next one; and not beside its place, where other tools would see it.
TEMPORARY = ".lmctl.tmp"
_HERE = threading.Lock()  # threads of this process need not look whether the kernel's lock is free, again and again


def repo_folder(hub: Path, repo: str) -> Path:
    """Return the cache's folder of a model repository."""
    return hub / f"models--{repo.replace('/', '--')}"


def blob_path(hub: Path, fetch: Fetch) -> Path:
    """Return where the content of the file lies."""
    return repo_folder(hub, fetch.repo) / "blobs" / fetch.file.etag


def snapshot_path(hub: Path, repo: str, commit: str, path: str) -> Path:
    """Return the link that programs open. Raises E-PATH for a name that leaves the snapshot."""
    if path.startswith("/") or "\0" in path or not {"", ".", ".."}.isdisjoint(path.split("/")):
        raise LmctlError("E-PATH", f"{escape(path)} leaves its repository", fix="do not use this repository")
    return repo_folder(hub, repo) / "snapshots" / commit / path


@contextlib.contextmanager
def cache_lock(own: Path) -> Iterator[None]:
    """Hold the lock of placing and pruning (`<HF_HOME>/lmctl/lock`); both are short, so whoever comes second waits."""
    with _HERE, exclusive(own / "lock", "placing or pruning", wait=True):
        yield


def place(partial: Path, hub: Path, own: Path, fetch: Fetch) -> Path:
    """Move a verified file to its blob, link it into its snapshot, return the blob. Raises E-IO, E-PERM, E-SPACE."""
    blob = blob_path(hub, fetch)
    with cache_lock(own):
        try:
            blob.parent.mkdir(parents=True, exist_ok=True)
            partial.replace(blob)
            sync_folder(blob.parent)
        except OSError as error:
            raise disk_error(blob, error) from error
        _link(hub, fetch, blob)
    return blob


def link(hub: Path, own: Path, fetch: Fetch) -> Path:
    """Link a blob that is already there into the snapshot, and return the link."""
    with cache_lock(own):
        return _link(hub, fetch, blob_path(hub, fetch))


def _link(hub: Path, fetch: Fetch, blob: Path) -> Path:
    path = snapshot_path(hub, fetch.repo, fetch.commit, fetch.file.path)
    target = os.path.relpath(blob, path.parent)
    try:
        # the link comes last: where it is, nothing before it can be missing, or half done by a run that was killed
        _refer(repo_folder(hub, fetch.repo), fetch)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not (path.is_symlink() and path.readlink() == Path(target)):
            with _temporary(repo_folder(hub, fetch.repo)) as temporary:
                temporary.symlink_to(target)
                temporary.replace(path)
            sync_folder(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error
    return path


@contextlib.contextmanager
def _temporary(folder: Path) -> Iterator[Path]:
    """Yield a name in `folder` where nothing is; what a full disk keeps from being renamed goes again."""
    path = folder / TEMPORARY
    path.unlink(missing_ok=True)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def _refer(folder: Path, fetch: Fetch) -> None:
    """Let the asked revision name the commit, unless it names another one that is there.

    huggingface_hub overwrites a ref with what it has just resolved. What lmctl places was resolved when it was locked,
    maybe long ago: taking a newer snapshot away from other programs would be wrong, mending a ref that leads nowhere
    is not.
    """
    ref = folder / "refs" / fetch.revision
    if fetch.revision == fetch.commit or not {"", ".", ".."}.isdisjoint(fetch.revision.split("/")):
        return
    try:
        named = ref.read_text().strip()
    except (FileNotFoundError, UnicodeDecodeError):
        named = ""
    if not named or not (folder / "snapshots" / named).is_dir():
        ref.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(folder) as temporary:
            temporary.write_bytes(fetch.commit.encode())
            temporary.chmod(0o644)
            temporary.replace(ref)
        sync_folder(ref.parent)
