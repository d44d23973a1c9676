"""A partial file and its journal: which ranges are there, after a crash too, and who may write."""

from __future__ import annotations

import os
import threading

import pytest

from lmctl.errors import LmctlError
from lmctl.hosts import journal, sysctl
from lmctl.hosts.journal import Partial, finished, gaps, merged


def test_after_a_crash_of_the_system_only_flushed_ranges_count(tmp_path, monkeypatch):
    partial = Partial.open(tmp_path, "a" * 64, 8)
    partial.write(0, b"1234", threading.Event())
    partial.flush()
    partial.write(4, b"5678", threading.Event())
    partial.save()
    partial.close()
    assert finished(partial.path, 8) == ((0, 8),)
    monkeypatch.setattr("lmctl.hosts.journal.boot", lambda: "another")
    assert finished(partial.path, 8) == ((0, 4),)


@pytest.mark.parametrize(
    "journal",
    [
        "",
        "[]",
        "{",
        '{"size": 8}',
        '{"size": 8, "boot": "", "flushed": [[0, 99]]}',
        '{"flushed": [["a", 1]]}',
        "[" * 9999,
    ],
    ids=["empty", "list", "torn", "short", "beyond", "text", "deep"],
)
def test_a_journal_that_cannot_be_read_vouches_for_nothing(tmp_path, journal):
    (tmp_path / "x").write_bytes(b"12345678")
    (tmp_path / "x.json").write_text(journal)
    assert finished(tmp_path / "x", 8) == ()


def test_a_journal_is_written_over_itself_whole(tmp_path):
    partial = Partial.open(tmp_path, "a" * 64, 4096)
    for start in range(0, 4096, 4):  # so many gaps that the journal needs more than its page
        partial.write(start, b"12", threading.Event())
    partial.save()
    assert partial.journal.stat().st_size > 4096
    partial.discard()
    assert not partial.journal.exists()
    partial.save()
    for start in range(0, 4096, 4):
        partial.write(start, b"1234", threading.Event())
        partial.save()
        assert finished(partial.path, 4096) == ((0, start + 4),)
    kept = partial.journal.stat()
    partial.save()
    assert (partial.journal.stat().st_ino, partial.journal.stat().st_size) == (kept.st_ino, 4096)
    partial.close()


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_journal_that_is_none_is_refused_without_waiting(tmp_path, kind):
    partial = Partial.open(tmp_path, "a" * 64, 8)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("kept")
    partial.journal.symlink_to(elsewhere) if kind == "link" else os.mkfifo(partial.journal)
    with pytest.raises(LmctlError) as error:
        partial.save()
    partial.close()
    assert error.value.code == "E-IO"
    assert elsewhere.read_text() == "kept"


def test_who_follows_the_bytes_hears_of_the_last_ones(tmp_path):
    partial = Partial.open(tmp_path, "a" * 64, 8)
    seen = []

    def follow():
        with partial.grown:
            partial.grown.wait_for(lambda: partial.frontier(0) == 8)
            seen.append(partial.frontier(0))

    follower = threading.Thread(target=follow)
    follower.start()
    partial.write(4, b"5678", threading.Event())
    partial.write(0, b"1234", threading.Event())
    follower.join(10)
    partial.close()
    assert seen == [8]


def test_ranges_are_merged_and_their_gaps_found():
    ranges = merged(merged(merged((), 0, 4), 8, 12), 4, 8)
    assert ranges == ((0, 12),)
    assert merged(((0, 2), (6, 8)), 3, 4) == ((0, 2), (3, 4), (6, 8))
    assert gaps(((0, 2), (3, 4)), 8) == ((2, 3), (4, 8))
    assert gaps((), 0) == ()


def test_one_process_writes_a_partial_file(tmp_path):
    held = Partial.open(tmp_path, "a" * 64, 8)
    held.save()
    with pytest.raises(LmctlError, match=f"pid {os.getpid()}") as error:
        Partial.open(tmp_path, "a" * 64, 8)
    assert error.value.code == "E-BUSY"
    held.close()
    Partial.open(tmp_path, "a" * 64, 8).close()


@pytest.mark.parametrize("kind", ["link", "fifo"])
def test_a_partial_file_that_is_none_is_refused(tmp_path, kind):
    path = tmp_path / ("a" * 64)
    path.symlink_to(tmp_path / "elsewhere") if kind == "link" else os.mkfifo(path)
    with pytest.raises(LmctlError) as error:
        Partial.open(tmp_path, "a" * 64, 8)
    assert error.value.code == "E-IO"
    assert not (tmp_path / "elsewhere").exists()


def test_a_system_without_proc_names_its_run_by_sysctl(monkeypatch, tmp_path):
    monkeypatch.setattr(journal, "_BOOT", tmp_path / "nothing")
    monkeypatch.setattr(sysctl, "text", {"kern.bootsessionuuid": "1F0C"}.get)
    journal._boot_elsewhere.cache_clear()
    try:
        assert journal.boot() == "1F0C"
    finally:
        journal._boot_elsewhere.cache_clear()
