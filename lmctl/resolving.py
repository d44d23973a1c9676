"""From what a declaration asks for to exactly what it is now: commit, files, sha256 and the header's numbers."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from pathlib import Path

from lmctl import gguf, safetensors
from lmctl.errors import LmctlError, escape
from lmctl.host import Hub, Listing, RemoteFile
from lmctl.lock_reader import MAX_FILE_SIZE, is_commit, is_sha256
from lmctl.lockfile import in_order
from lmctl.paths import open_regular
from lmctl.selection import is_companion, select, select_tree
from lmctl.shards import shard_names
from lmctl.source import Source, open_local
from lmctl.spec import Artifact, LockedFile, Role, Shape, Wanted

MAX_SMALL = 16 << 20  # bytes of a file that the Hub gives no sha256 for
_PIECE = 1 << 20  # bytes read at once from a local file
_TREES = ("mlx", "safetensors")
_CONFIGS = ("config.json", "tokenizer_config.json", "model.safetensors.index.json")


def resolve(wanted: Wanted, hub: Hub, *, remote_code: bool = False) -> Artifact:
    """Return `wanted` as it is now: on the Hub at the commit its revision names, or on this disk.

    Headers are read and checked, so that what an engine would refuse is never locked; `remote_code` says that this
    machine allows models that bring code. Raises what the Hub does;
    E-MATCH, E-SHARD; E-GGUF, E-SAFETENSORS, E-PICKLE, E-REMOTECODE; E-HASH and E-UPSTREAM for a Hub that contradicts
    itself; E-FILE and E-PERM for local files.
    """
    if wanted.repo is None:
        return _resolve_local(wanted, remote_code)
    listing = listed(wanted, hub)
    chosen = select(listing, wanted)
    remote = _Remote(hub, listing)
    files = tuple(remote.locked(file, role) for file, role in chosen)
    sources = [(file.path, role, remote.source(file)) for file, role in chosen]
    names = [file.path for file, _ in chosen]
    shape = _tree_shape(sources, names, remote_code) if wanted.format in _TREES else _gguf_shape(sources)
    return Artifact(wanted.id, wanted.format, listing.commit, shape, in_order(files))


def listed(wanted: Wanted, hub: Hub) -> Listing:
    """Return the repository of `wanted` at the commit that its revision names now.

    Raises what the Hub does, and E-UPSTREAM for a Hub that contradicts itself.
    """
    repo, revision = wanted.repo or "", wanted.revision or "main"
    listing = hub.list(repo, revision)
    if not is_commit(listing.commit) or (is_commit(revision) and listing.commit != revision):
        what = f"{escape(repo)} answers with commit {escape(listing.commit)!r} when asked for {escape(revision)!r}"
        raise LmctlError("E-UPSTREAM", what, fix="check the Hub's address")
    return listing


class _Remote:
    """One repository at one commit; remembers the small files that were fetched to hash them."""

    def __init__(self, hub: Hub, listing: Listing) -> None:
        self._hub, self._listing = hub, listing
        self._small: dict[str, bytes] = {}

    def read(self, path: str, start: int, length: int) -> bytes:
        held = self._small.get(path)
        if held is not None:
            return held[start : start + length]
        return self._hub.read(self._listing.repo, self._listing.commit, path, start, length)

    def source(self, file: RemoteFile) -> Source:
        return _RemoteSource(self, file)

    def locked(self, file: RemoteFile, role: Role) -> LockedFile:
        if not 0 < file.size <= MAX_FILE_SIZE:
            raise self._contradiction(file, f"has {file.size} bytes")
        if file.sha256 is not None:
            if not is_sha256(file.sha256):
                raise self._contradiction(file, "has no proper sha256")
            return LockedFile(file.path, role, file.size, file.sha256)
        return LockedFile(file.path, role, file.size, self._hashed(file), file.blob)

    def _hashed(self, file: RemoteFile) -> str:
        """Fetch a file that the Hub gives no sha256 for and check it against git's own hash."""
        if file.size > MAX_SMALL:
            raise self._contradiction(file, f"has {file.size} bytes and no sha256")
        content = self.read(file.path, 0, file.size)
        blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        if len(content) != file.size or blob != file.blob:
            what = f"{escape(file.path)} of {escape(self._listing.repo)} is not what the Hub lists"
            raise LmctlError("E-HASH", what, fix="try again; if it stays, report it to the repository's owner")
        self._small[file.path] = content
        return hashlib.sha256(content).hexdigest()

    def _contradiction(self, file: RemoteFile, why: str) -> LmctlError:
        what = f"{escape(file.path)} of {escape(self._listing.repo)} {why}"
        return LmctlError("E-HUB", what, fix="choose another revision or repository")


class _RemoteSource:
    def __init__(self, remote: _Remote, file: RemoteFile) -> None:
        self._remote, self._path = remote, file.path
        self.size: int | None = file.size

    def read(self, start: int, length: int) -> bytes:
        return self._remote.read(self._path, start, min(length, max(0, (self.size or 0) - start)))


Sources = Sequence[tuple[str, Role, Source]]


def _gguf_shape(sources: Sources) -> Shape:
    """Check every header, and the shards of a split against each other; return the shape of the first file."""
    headers = [(path, role, gguf.read_header(source, path)) for path, role, source in sources]
    main = [(path, header) for path, role, header in headers if role != "mmproj"] or [(p, h) for p, _, h in headers]
    gguf.check_split([header for _, header in main], [path for path, _ in main])
    return gguf.shape(main[0][1])


def _tree_shape(sources: Sources, names: Collection[str], remote_code: bool) -> Shape:
    """Check the headers of safetensors and what the files `names` could execute; return the shape of config.json."""
    configs = {path: safetensors.read_config(_whole(source), path) for path, _, source in sources if path in _CONFIGS}
    if sources[0][1] != "lora":  # an adapter has no model of its own
        safetensors.check_folder(names, configs, remote_code=remote_code)
    for path, _, source in sources:
        if path.endswith(".safetensors"):
            safetensors.read_header(source, path)
    return safetensors.shape_from_config(configs.get("config.json", {}))


def _whole(source: Source) -> bytes:
    return source.read(0, safetensors.MAX_CONFIG + 1)


def _resolve_local(wanted: Wanted, remote_code: bool) -> Artifact:
    """Return a local file, its sibling shards, or what an engine reads of a local folder; paths are within its folder.

    No projector is looked for beside a local file: a folder may hold several models. `mmproj = "file"` names one.
    """
    assert wanted.path is not None
    if wanted.path.is_dir():
        folder = wanted.path
        chosen, shape = _local_tree(folder, wanted.role, remote_code)
    else:
        folder, names = wanted.path.parent, shard_names(wanted.path.name)
        _refuse_gaps(folder, names)
        chosen = [(name, wanted.role if number == 0 else "shard") for number, name in enumerate(names)]
        shape = _local_gguf(folder, chosen)
    files = tuple(LockedFile(name, role, *hashed(folder / name)) for name, role in chosen)
    return Artifact(wanted.id, "local", None, shape, in_order(files))


def _refuse_gaps(folder: Path, names: Sequence[str]) -> None:
    missing = [name for name in names if not (folder / name).exists()]
    if missing and len(names) > 1:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        what = (
            f"{escape(str(folder))} lacks {len(missing)} of {len(names)} shards: {escape(', '.join(missing[:5]))}{more}"
        )
        raise LmctlError("E-SHARD", what, fix="put all shards into one folder")


def _local_gguf(folder: Path, chosen: Sequence[tuple[str, Role]]) -> Shape:
    headers = []
    for name, _ in chosen:
        with open_local(folder / name) as source:
            headers.append(gguf.read_header(source, name))
    gguf.check_split(headers, [name for name, _ in chosen])
    return gguf.shape(headers[0])


def _local_tree(folder: Path, role: Role, remote_code: bool) -> tuple[list[tuple[str, Role]], Shape]:
    """Choose among the files of a folder; the engine will see all of them, so all of them are checked."""
    entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    for path in (Path(entry) for entry in entries if not entry.is_file() and not entry.is_dir()):
        if path.exists():
            what = f"{escape(str(path))} is neither a file nor a folder"
            raise LmctlError("E-FILE", what, fix="remove it: an engine that opens it may wait for ever")
    names = [entry.name for entry in entries if entry.is_file()]
    _refuse_gguf(folder, names)
    found = [RemoteFile(name, (folder / name).stat().st_size, None, "") for name in names]
    chosen = [(file.path, kind) for file, kind in select_tree(found, role, str(folder))]
    with ExitStack() as stack:
        sources = [(name, kind, stack.enter_context(open_local(folder / name))) for name, kind in chosen]
        return chosen, _tree_shape(sources, names, remote_code)


def _refuse_gguf(folder: Path, names: Sequence[str]) -> None:
    """Raise E-MATCH, with what could be meant, for a folder of which only a file can be served."""
    models = [name for name in names if name.lower().endswith(".gguf") and not is_companion(name)]
    first = [name for name in models if name == shard_names(name)[0]]
    if first and not any(name.endswith(".safetensors") for name in names):
        more = f" and {len(first) - 5} more" if len(first) > 5 else ""
        what = f"{escape(str(folder))} is a folder of GGUF files, of which one is served"
        raise LmctlError("E-MATCH", what, fix=f"name it: {escape(', '.join(first[:5]))}{more}")


def hashed(path: Path) -> tuple[int, str]:
    """Return size and sha256 of a regular file, read in small pieces. Raises E-FILE, E-PERM; E-HASH when it changes."""
    with open_regular(path) as file:
        before = os.fstat(file.fileno())
        digest = hashlib.sha256()
        while piece := file.read(_PIECE):
            digest.update(piece)
        after = os.fstat(file.fileno())
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        what = f"{escape(str(path))} changed while it was read"
        raise LmctlError("E-HASH", what, fix="find out what writes to it, then lock again")
    return before.st_size, digest.hexdigest()
