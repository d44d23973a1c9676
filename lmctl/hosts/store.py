"""Weights on disk: the Hugging Face cache, LM Studio's folders, Ollama's store, folders of the machine, local files."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from lmctl.host import Found, OnProgress, Partial
from lmctl.hosts.placing import snapshot_path
from lmctl.spec import Artifact, LockedFile, Machine, Signature, Wanted

_LM_STUDIO = (".lmstudio/models", ".cache/lm-studio/models")

Places = tuple[Path, ...]  # of an artifact's files, in their order


class DiskStore:
    """`host.Store`. `hub` is the Hugging Face cache, `own` the folder `<HF_HOME>/lmctl`: nothing else is written.

    `stop` ends hashing soon.
    """

    def __init__(
        self,
        hub: Path,
        own: Path,
        home: Path,
        environ: Mapping[str, str],
        machine: Machine,
        *,
        stop: threading.Event | None = None,
    ) -> None:
        self._hub, self._own, self._stop = hub, own, stop
        self._roots = (*(home / folder for folder in _LM_STUDIO), *machine.weight_roots)
        self._ollama = Path(environ.get("OLLAMA_MODELS") or home / ".ollama/models") / "blobs"

    def locate(self, artifact: Artifact, wanted: Wanted, known: Mapping[str, Path]) -> tuple[Found, ...]:
        """Return where every file is, all in one root, or where the Hugging Face cache would have it (signature None).

        A root counts when it has all files by name and size. Of several the one whose contents are `known` wins
        (verified content paths by sha256), so that a location never changes by itself; then the first. Content whose
        name in the cache is gone counts as missing: fetching it gives the name back, and the same argv serves it.
        """
        if artifact.commit is None or artifact.repo is None:
            return tuple(self._found(file, path) for file, path in _local(artifact, wanted))
        found = [self._at(artifact, places) for places in self._candidates(artifact, artifact.repo, artifact.commit)]
        whole = [files for files in found if all(file.signature for file in files)]
        verified = [files for files in whole if all(known.get(one.file.sha256) == one.content for one in files)]
        path = known.get(artifact.files[0].sha256) if len(artifact.files) == 1 and not verified else None
        if path is not None and path != found[0][0].content:
            verified = [files for files in [self._at(artifact, (path,))] if files[0].signature]
        return next(iter([*verified, *whole, found[0]]))

    def _candidates(self, artifact: Artifact, repo: str, commit: str) -> Iterator[Places]:
        names = [file.path for file in artifact.files]
        yield tuple(snapshot_path(self._hub, repo, commit, name) for name in names)
        yield from (tuple(root / repo / name for name in names) for root in self._roots)
        if artifact.format == "gguf" and len(names) == 1:
            yield (self._ollama / f"sha256-{artifact.files[0].sha256}",)
            yield from ((root / names[0],) for root in self._roots[len(_LM_STUDIO) :])

    def _at(self, artifact: Artifact, places: Places) -> tuple[Found, ...]:
        """Return the files at `places`; what has another size is not there."""
        found = [self._found(file, path) for file, path in zip(artifact.files, places, strict=True)]
        return tuple(
            one
            if one.signature is None or one.signature.size == one.file.size
            else Found(one.file, one.path, one.content, None)
            for one in found
        )

    def _found(self, file: LockedFile, path: Path) -> Found:
        signature, readable = self.signature(path), os.access(path, os.R_OK)
        if self._hub in path.parents:
            # the blob as it is named below `hub`, also when a folder above is a link: the ledger knows it by that name
            blob = self._hub / path.relative_to(self._hub).parts[0] / "blobs" / file.etag
            if signature is None or self.signature(blob) == signature:
                return Found(file, path, blob, signature, readable)
        link = os.path.islink(path)  # noqa: PTH114 (no error in a folder that may not be entered)
        return Found(file, path, Path(os.path.realpath(path)) if link else path, signature, readable)

    def signature(self, path: Path) -> Signature | None:
        """Return the signature of the regular file behind `path`, None when there is none."""
        try:
            status = path.stat()
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        return Signature(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)

    def beside(self, files: Sequence[Found]) -> tuple[Path, ...]:
        """Return weights beside `files` that are none of them. Empty for a folder that cannot be read.

        mlx_lm loads every `model*.safetensors` of the folder that it is given.
        """
        known = {file.path for file in files}
        there = (path for folder in {path.parent for path in known} for path in folder.glob("model*.safetensors"))
        return tuple(sorted(path for path in there if path not in known))

    def received(self, missing: Found) -> int:
        """Return the bytes of a missing file that are here: all where only its name is gone from the cache.

        Else what an interrupted download left and its journal vouches for.
        """
        file, there = missing.file, self.signature(missing.content) if missing.content != missing.path else None
        if there is not None and there.size == file.size:
            return file.size
        partial = self._own / "partial" / file.sha256
        if not os.path.lexists(partial):
            return 0
        from lmctl.hosts.journal import finished  # seldom there is anything to look at

        return sum(end - start for start, end in finished(partial, file.size))

    def hashes(self, paths: Sequence[Path], on_progress: OnProgress) -> tuple[str | None, ...]:
        """Return the sha256 of each file, side by side on all cores; None for what cannot be read.

        Raises E-NETWORK once `stop` is set.
        """
        from lmctl.hosts.hashing import side_by_side  # its thread pool is slow to import, and plan hashes nothing

        return side_by_side(paths, on_progress, self._stop)

    def holds(self, blob: Path) -> bool:
        """Return whether a path is one that a blob of the Hugging Face cache has."""
        from lmctl.hosts.removing import is_blob  # only prune asks

        return is_blob(self._hub, blob)

    def links(self, blob: Path) -> tuple[Path, ...]:
        """Return the entries of all snapshots of the blob's repository that lead to it."""
        from lmctl.hosts.removing import links  # only prune asks

        return links(self._hub, blob)

    def shared(self, path: Path) -> bool:
        """Return whether the content of a file has another name: then removing it frees nothing."""
        try:
            return path.lstat().st_nlink > 1
        except OSError:
            return False

    def remove(self, blob: Path, signature: Signature, own: Sequence[Path]) -> int:
        """Remove a blob and its links, which must all be in `own`; return the bytes freed. Raises E-PRUNE."""
        from lmctl.hosts.removing import remove

        return remove(self._hub, self._own, blob, signature, own)

    def partials(self) -> tuple[Partial, ...]:
        """Return partial and quarantined files that nobody writes, each with its bytes on disk."""
        if not any(os.path.lexists(self._own / folder) for folder in ("partial", "quarantine")):
            return ()
        from lmctl.hosts.partials import partials  # seldom there is anything to look at

        return partials(self._own)

    def remove_partial(self, path: Path) -> int:
        """Remove one of `partials` with its journal; return the bytes freed. Raises E-PRUNE, E-BUSY."""
        from lmctl.hosts.partials import remove_partial

        return remove_partial(self._own, path)


def _local(artifact: Artifact, wanted: Wanted) -> Iterator[tuple[LockedFile, Path]]:
    """Yield the files of a local artifact: those of a folder, or a file and its companions beside it."""
    asked = wanted.path or Path()
    folder = asked if asked.is_dir() or asked.name not in {file.path for file in artifact.files} else asked.parent
    return ((file, folder / file.path) for file in artifact.files)
