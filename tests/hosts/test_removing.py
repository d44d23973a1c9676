"""Blobs are removed only when they are lmctl's own, and nothing outside the cache is ever touched."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from disks import COMMIT, ONE, OTHER, TWO, Disk, locked

from lmctl.errors import LmctlError
from lmctl.hosts import placing, removing
from lmctl.hosts.journal import Partial


def test_removing_a_blob_takes_its_links_refs_and_empty_folders(disk):
    blob = disk.place(b"GGUF1", ONE)
    assert disk.store.links(blob) == (disk.repo / "snapshots" / COMMIT / "m.gguf",)
    assert disk.remove(blob) == 5
    assert list(disk.hub.iterdir()) == []


def test_removing_one_blob_keeps_everything_else(disk):
    one, two = disk.place(b"GGUF1", ONE), disk.place(b"{}", TWO)
    disk.place(b"GGUF1", ONE, OTHER)
    strange = disk.put(disk.repo / "trees/x.json", b"{}")
    (disk.repo / "refs/branch").write_text(OTHER)
    assert len(disk.store.links(one)) == 2
    assert disk.remove(one) == 5
    assert two.exists()
    assert (disk.repo / "snapshots" / COMMIT / "sub/config.json").read_bytes() == b"{}"
    assert not (disk.repo / "snapshots" / OTHER).exists()
    assert [ref.name for ref in (disk.repo / "refs").iterdir()] == ["main"]  # the other commit's is gone
    assert disk.remove(two) == 2
    assert strange.exists()


def as_hf_download(disk: Disk, blob: Path, commit: str) -> Path:
    """Link a blob into another snapshot as `hf download` leaves it, with refs/main on it."""
    link = disk.repo / "snapshots" / commit / "m.gguf"
    link.parent.mkdir(parents=True)
    link.symlink_to(os.path.relpath(blob, link.parent))
    (disk.repo / "refs").mkdir(exist_ok=True)
    (disk.repo / "refs/main").write_text(commit)
    return link


def test_F59_a_blob_that_another_tool_links_is_kept_with_all_of_its_links(disk):
    blob = disk.place(b"GGUF1", ONE)
    ours = disk.store.links(blob)
    theirs = as_hf_download(disk, blob, "2" * 40)
    with pytest.raises(LmctlError, match=f"another tool links it .snapshots/{'2' * 40}/m.gguf") as error:
        disk.store.remove(blob, disk.store.signature(blob), ours)
    assert error.value.code == "E-PRUNE"
    assert theirs.read_bytes() == b"GGUF1"
    assert ours[0].read_bytes() == b"GGUF1"
    assert (disk.repo / "refs/main").read_text() == "2" * 40


def test_F59_refs_that_lmctl_did_not_write_stay_also_when_they_lead_nowhere(disk):
    blob = disk.place(b"GGUF1", ONE)
    (disk.repo / "refs/theirs").write_text("2" * 40)
    (disk.repo / "refs/odd").write_text(f"{COMMIT}\n")
    empty = disk.repo / "refs" / "pr"
    empty.mkdir()
    disk.remove(blob)
    assert sorted(ref.name for ref in (disk.repo / "refs").iterdir()) == ["odd", "theirs"]


def test_F59_a_ref_of_a_snapshot_that_still_has_something_stays(disk):
    one = disk.place(b"GGUF1", ONE)
    (disk.repo / "snapshots" / COMMIT / "theirs.txt").write_text("x")
    disk.remove(one)
    assert (disk.repo / "refs/main").read_text() == COMMIT


def test_F58_a_hard_link_is_known_before_anything_is_removed(disk, tmp_path):
    blob = disk.place(b"GGUF1", ONE)
    assert disk.store.shared(blob) is False
    os.link(blob, tmp_path / "mine.gguf")
    assert disk.store.shared(blob) is True
    assert disk.store.shared(tmp_path / "none") is False


KILLED = """
import os, sys
from pathlib import Path
from lmctl.host import Fetch
from lmctl.hosts import placing
from lmctl.spec import LockedFile
def replace(self, target): os.kill(os.getpid(), 9)
Path.replace = replace
hub, own, size, sha256 = sys.argv[1:]
placing.link(Path(hub), Path(own), Fetch("o/n", "main", "c" * 40, LockedFile("m.gguf", "weights", int(size), sha256)))
"""


def test_F6_what_a_killed_run_left_is_seen_by_no_tool_and_replaced_by_the_next(disk):
    blob = disk.put(disk.repo / "blobs" / ONE.sha256, b"GGUF1")
    argv = [sys.executable, "-c", KILLED, str(disk.hub), str(disk.own), "5", ONE.sha256]
    for _ in range(2):
        assert subprocess.run(argv, check=False).returncode == -9
    left = sorted(path.name for path in disk.repo.rglob("*.tmp"))
    assert (left, disk.store.links(blob)) == ([".lmctl.tmp"], ())
    disk.place(b"GGUF1", ONE)
    assert list(disk.repo.rglob("*.tmp")) == []
    subprocess.run([*argv[:-1], TWO.sha256], check=False)
    assert disk.remove(blob) == 5
    assert list(disk.repo.rglob("*.tmp")) == []


def test_huggingface_hub_is_content_with_what_is_left(disk):
    from huggingface_hub import scan_cache_dir

    one, _ = disk.place(b"GGUF1", ONE), disk.place(b"{}", TWO)
    disk.remove(one)
    info = scan_cache_dir(disk.hub)
    assert (info.warnings, info.size_on_disk) == ([], 2)


def test_rule_2_a_changed_blob_is_kept(disk):
    blob = disk.place(b"GGUF1", ONE)
    signature = disk.store.signature(blob)
    blob.write_bytes(b"GGUF2")
    os.utime(blob, ns=(1, 1))
    with pytest.raises(LmctlError, match="it changed since") as error:
        disk.store.remove(blob, signature, disk.store.links(blob))
    assert (error.value.code, blob.read_bytes()) == ("E-PRUNE", b"GGUF2")
    assert disk.store.links(blob)


def test_rule_3_only_blobs_of_the_cache_are_removed(disk, tmp_path):
    user = disk.put(tmp_path / "mine.gguf", b"GGUF1")
    blob = disk.place(b"GGUF1", ONE)
    ways = [user, disk.repo / "refs/main", disk.hub / "models--o--n/blobs/../refs/main", blob.parent]
    ways += [disk.hub / ".." / ".." / "mine.gguf"]
    for path in ways:
        signature = disk.store.signature(user)
        with pytest.raises(LmctlError) as error:
            disk.store.remove(path, signature, ())
        assert error.value.code == "E-PRUNE"
    assert user.exists()
    assert blob.exists()


def test_F57_a_blob_that_became_a_link_is_kept_and_its_target_intact(disk, tmp_path):
    blob = disk.place(b"GGUF1", ONE)
    target = disk.put(tmp_path / "precious", b"GGUF1")
    blob.unlink()
    blob.symlink_to(target)
    with pytest.raises(LmctlError, match="replaced by a link"):
        disk.remove(blob)
    assert target.read_bytes() == b"GGUF1"


@pytest.mark.parametrize("part", ["models--o--n", "models--o--n/blobs", "models--o--n/snapshots"])
def test_F57_a_folder_that_became_a_link_is_not_entered(disk, tmp_path, part):
    blob = disk.place(b"GGUF1", ONE)
    signature, ours = disk.store.signature(blob), disk.store.links(blob)
    outside = tmp_path / "outside"
    (disk.hub / part).rename(outside)
    (disk.hub / part).symlink_to(outside)
    with pytest.raises(LmctlError) as error:
        disk.store.remove(blob, signature, ours)
    assert error.value.code == "E-PRUNE"
    assert [path.name for path in outside.rglob("*") if path.is_file() or path.is_symlink()]


def test_F57_links_that_lead_elsewhere_are_not_ours(disk, tmp_path):
    blob = disk.place(b"GGUF1", ONE)
    target = disk.put(tmp_path / "precious", b"x")
    foreign = disk.repo / "snapshots" / COMMIT / "theirs"
    foreign.symlink_to(target)
    folder = disk.repo / "snapshots" / "linked"
    folder.symlink_to(tmp_path)
    disk.remove(blob)
    assert foreign.is_symlink()
    assert folder.is_symlink()
    assert target.read_bytes() == b"x"


def test_F57_a_folder_swapped_for_a_link_during_the_removal_harms_nothing_outside(tmp_path):
    outside = tmp_path / "outside/blobs"
    outside.mkdir(parents=True)
    canary = outside / ONE.sha256
    canary.write_bytes(b"GGUF1")
    for round in range(30):
        disk = Disk(tmp_path / str(round))
        blob = disk.place(b"GGUF1", ONE)
        signature, ours = disk.store.signature(blob), disk.store.links(blob)
        go = threading.Event()

        def swap(disk: Disk = disk, go: threading.Event = go) -> None:
            go.wait()
            try:
                (disk.repo / "blobs").rename(disk.hub / "moved")
                (disk.repo / "blobs").symlink_to(outside)
            except OSError:
                pass  # the removal was quicker

        thread = threading.Thread(target=swap)
        thread.start()
        go.set()
        try:
            disk.store.remove(blob, signature, ours)
        except LmctlError as error:
            assert error.code == "E-PRUNE"
        thread.join()
        assert canary.read_bytes() == b"GGUF1"


def test_F58_a_second_hard_link_keeps_the_content_and_frees_nothing(disk, tmp_path):
    blob = disk.place(b"GGUF1", ONE)
    mine = tmp_path / "mine.gguf"
    os.link(blob, mine)
    assert disk.remove(blob) == 0
    assert (blob.exists(), mine.read_bytes()) == (False, b"GGUF1")


@pytest.mark.parametrize("act", ["discard", "remove"])
def test_F4_a_disk_that_refuses_is_told(disk, monkeypatch, act):
    partial = Partial.open(disk.own / "partial", "a" * 64, 8)

    def refuse(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "ftruncate", refuse)
        patched.setattr(Path, "unlink", refuse)
        with pytest.raises(LmctlError) as error:
            getattr(partial, act)()
    partial.close()
    assert (error.value.code, error.value.exit_code) == ("E-SPACE", 8)


def test_a_name_that_leaves_the_snapshot_is_not_placed(disk):
    for name in ("../x", "/etc/x", "a/../../x", "a\0b", "a//b"):
        with pytest.raises(LmctlError) as error:
            disk.place(b"x", locked(name, b"x"))
        assert error.value.code == "E-PATH"


def test_a_cache_that_may_not_be_written_is_said_so(disk):
    disk.hub.mkdir(parents=True)
    (disk.hub / "models--o--n").write_text("a file where a folder belongs")
    with pytest.raises(LmctlError) as error:
        disk.place(b"GGUF1", ONE)
    assert error.value.exit_code == 8


def test_removing_and_placing_wait_for_each_other(disk):
    blob = disk.place(b"GGUF1", ONE)
    done: list[int] = []
    with placing.cache_lock(disk.own):
        thread = threading.Thread(target=lambda: done.append(disk.remove(blob)))
        thread.start()
        assert (done, blob.exists()) == ([], True)
    thread.join()
    assert done == [5]


def test_links_of_a_repository_without_snapshots_are_none(disk):
    blob = disk.put(disk.repo / "blobs" / ONE.sha256, b"GGUF1")
    assert removing.links(disk.hub, blob) == ()
