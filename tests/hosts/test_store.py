"""Weights are found where they already are, by name and size, and hashed side by side."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from disks import COMMIT, ONE, TWO, WANTED, Disk, artifact

from lmctl.errors import LmctlError
from lmctl.host import Fetch
from lmctl.hosts import placing
from lmctl.hosts.journal import Partial
from lmctl.hosts.store import DiskStore
from lmctl.spec import Machine, Wanted


def test_what_is_nowhere_would_be_placed_in_the_cache(disk):
    (found,) = disk.store.locate(artifact(ONE), WANTED, {})
    assert (found.signature, found.path) == (None, disk.repo / "snapshots" / COMMIT / "m.gguf")
    assert found.content == disk.repo / "blobs" / ONE.sha256


def test_the_cache_is_found_with_the_blob_as_content(disk):
    one, two = disk.place(b"GGUF1", ONE), disk.place(b"{}", TWO)
    found = disk.store.locate(artifact(ONE, TWO), WANTED, {})
    assert [one.content for one in found] == [one, two]
    assert [one.path.name for one in found] == ["m.gguf", "config.json"]
    assert all(one.signature for one in found)


def test_a_cache_behind_a_link_keeps_its_name(tmp_path):
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "hf").symlink_to(real)
    disk = Disk(tmp_path)
    blob = disk.place(b"GGUF1", ONE)
    (found,) = disk.store.locate(artifact(ONE), WANTED, {})
    assert found.content == blob == tmp_path / "hf/hub/models--o--n/blobs" / ONE.sha256


def test_huggingface_hubs_shared_blobs_are_found_behind_their_link(disk):
    shared = disk.put(disk.hub / "blobs/ab/abc", b"GGUF1")
    blob = disk.repo / "blobs" / ONE.sha256
    blob.parent.mkdir(parents=True)
    blob.symlink_to(os.path.relpath(shared, blob.parent))
    placing.link(disk.hub, disk.own, Fetch("o/n", "main", COMMIT, ONE))
    (found,) = disk.store.locate(artifact(ONE), WANTED, {})
    assert found.signature
    with pytest.raises(LmctlError, match="replaced by a link"):  # F59: not ours
        disk.store.remove(blob, found.signature, disk.store.links(blob))
    assert shared.read_bytes() == b"GGUF1"


@pytest.mark.parametrize(
    "place",
    [".lmstudio/models/o/n/m.gguf", ".cache/lm-studio/models/o/n/m.gguf", f".ollama/models/blobs/sha256-{ONE.sha256}"],
    ids=["lm-studio", "lm-studio-old", "ollama"],
)
def test_a_file_of_another_program_is_used_where_it_is(disk, place):
    path = disk.put(disk.home / place, b"GGUF1")
    (found,) = disk.store.locate(artifact(ONE), WANTED, {})
    assert (found.path, found.content, bool(found.signature)) == (path, path, True)


def test_ollamas_store_is_where_its_variable_says(tmp_path):
    store = DiskStore(tmp_path / "hub", tmp_path / "own", tmp_path, {"OLLAMA_MODELS": str(tmp_path / "o")}, Machine())
    path = tmp_path / "o/blobs" / f"sha256-{ONE.sha256}"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"GGUF1")
    assert store.locate(artifact(ONE), WANTED, {})[0].path == path


@pytest.mark.parametrize("name", ["o/n/m.gguf", "m.gguf"])
def test_a_root_of_the_machine_is_searched(disk, name):
    path = disk.put(disk.root / name, b"GGUF1")
    assert disk.store.locate(artifact(ONE), WANTED, {})[0].path == path


def test_another_size_is_not_there(disk):
    disk.put(disk.home / ".lmstudio/models/o/n/m.gguf", b"GGUF")
    assert disk.store.locate(artifact(ONE), WANTED, {})[0].signature is None


def test_F49_a_root_with_half_of_the_files_is_not_mixed_with_another(disk):
    disk.put(disk.home / ".lmstudio/models/o/n/m.gguf", b"GGUF1")
    disk.place(b"{}", TWO)
    found = disk.store.locate(artifact(ONE, TWO), WANTED, {})
    assert [bool(one.signature) for one in found] == [False, True]
    assert all(disk.hub in one.path.parents for one in found)


def test_the_verified_place_wins_so_that_it_never_changes_by_itself(disk):
    studio = disk.put(disk.home / ".lmstudio/models/o/n/m.gguf", b"GGUF1")
    disk.place(b"GGUF1", ONE)
    assert disk.store.locate(artifact(ONE), WANTED, {ONE.sha256: studio})[0].path == studio
    assert disk.hub in disk.store.locate(artifact(ONE), WANTED, {})[0].path.parents
    far = disk.put(disk.home / "far/m.gguf", b"GGUF1")
    assert disk.store.locate(artifact(ONE), WANTED, {ONE.sha256: far})[0].path == far
    far.unlink()
    assert disk.hub in disk.store.locate(artifact(ONE), WANTED, {ONE.sha256: far})[0].path.parents


def test_local_artifacts_lie_at_their_path(disk):
    path = disk.put(disk.home / "w/m.gguf", b"other size")
    wanted = Wanted("path=m.gguf", None, None, "", "local", path=path)
    (found,) = disk.store.locate(artifact(ONE, commit=None), wanted, {})
    assert (found.path, bool(found.signature)) == (path, True)  # a changed file is there: its hash will tell
    folder = Wanted("path=w", None, None, "", "local", path=path.parent)
    assert disk.store.locate(artifact(ONE, TWO, commit=None), folder, {})[1].path == path.parent / "sub/config.json"
    path.unlink()
    assert disk.store.locate(artifact(ONE, commit=None), wanted, {})[0].signature is None


def test_signatures_are_of_regular_files(disk, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    assert [disk.store.signature(path) for path in (tmp_path, tmp_path / "fifo", tmp_path / "no")] == [None] * 3
    path = disk.put(tmp_path / "x", b"1")
    before = disk.store.signature(path)
    os.utime(path, ns=(1, 1))
    assert disk.store.signature(path) != before


def test_many_files_are_hashed_and_what_cannot_be_read_is_none(disk, tmp_path):
    contents = [bytes([i]) * (1 << 20) * 3 for i in range(5)]
    paths = [disk.put(tmp_path / f"{i}", content) for i, content in enumerate(contents)]
    seen = []
    found = disk.store.hashes([*paths, tmp_path / "no", tmp_path], seen.append)
    assert found == (*(hashlib.sha256(content).hexdigest() for content in contents), None, None)
    assert {progress.phase for progress in seen} <= {"hash"}


class Later(threading.Event):
    """Set from the third look on."""

    looks = 0

    def is_set(self) -> bool:
        self.looks += 1
        return self.looks > 2


def test_what_an_interrupted_download_left_is_what_its_journal_vouches_for(disk):
    (missing,) = disk.store.locate(artifact(ONE), WANTED, {})
    assert disk.store.received(missing) == 0
    partial = Partial.open(disk.own / "partial", ONE.sha256, ONE.size)
    partial.write(1, b"GU", threading.Event())
    assert disk.store.received(missing) == 0
    partial.save()
    assert disk.store.received(missing) == 2
    partial.close()


def test_content_that_lost_its_name_in_the_cache_is_missing_and_need_not_be_fetched(disk):
    disk.place(b"GGUF1", ONE)
    (found,) = disk.store.locate(artifact(ONE), WANTED, {})
    found.path.unlink()
    (missing,) = disk.store.locate(artifact(ONE), WANTED, {ONE.sha256: found.content})
    assert (missing.path, missing.signature, disk.store.received(missing)) == (found.path, None, ONE.size)


def test_F20_hashing_ends_within_a_block_when_asked_to_stop(disk, tmp_path):
    paths = [disk.put(tmp_path / f"{i}", bytes(64 << 20)) for i in range(3)]
    stop = Later()
    store = DiskStore(disk.hub, disk.own, disk.home, {}, Machine(), stop=stop)
    with pytest.raises(LmctlError, match="is not finished") as error:
        store.hashes(paths, lambda _: None)
    assert (error.value.code, error.value.exit_code) == ("E-INTERRUPTED", 130)
    assert stop.looks < 10, "it went on reading"


def test_locating_imports_nothing_slow():
    heavy = "{'pydantic', 'huggingface_hub', 'urllib3', 'httpx2', 'concurrent.futures', 'ssl', 'psutil', 'truststore'}"
    code = f"import sys, lmctl.hosts.store; print(sorted(set(sys.modules) & {heavy}))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize("call", ["symlink_to", "chmod"], ids=["F4-link", "F4-ref"])
def test_what_a_full_disk_keeps_from_being_renamed_goes_again(disk, monkeypatch, call):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    disk.put(disk.repo / "blobs" / ONE.sha256, b"GGUF1")
    with monkeypatch.context() as patch, pytest.raises(LmctlError, match="free some space"):
        patch.setattr(Path, call, full)
        placing.link(disk.hub, disk.own, Fetch("o/n", "main", COMMIT, ONE))
    assert [*disk.repo.rglob("*.tmp")] == []
