"""Partial files that dead downloads left: listed, removed, and left to whoever writes them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lmctl.errors import LmctlError
from lmctl.hosts.journal import Partial


def test_F63_partial_files_are_listed_and_removed_unless_somebody_writes_them(disk):
    for index in range(50):
        disk.put(disk.own / "partial" / f"{index:064x}", b"x" * 4096)
        disk.put(disk.own / "partial" / f"{index:064x}.json", b"{}")
    disk.put(disk.own / "quarantine" / ("f" * 64), b"y" * 4096)
    disk.put(disk.own / "partial" / f"{'e' * 64}.json", b"{}")  # its file was placed, then the process died
    live = Partial.open(disk.own / "partial", "a" * 64, 8)
    live.write(0, b"12345678", threading.Event())
    live.save()
    listed = disk.store.partials()
    assert len(listed) == 52
    assert {(one.size, one.modified == one.path.stat().st_mtime) for one in listed} >= {(4096, True)}
    assert live.path not in [one.path for one in listed]
    with pytest.raises(LmctlError) as error:
        disk.store.remove_partial(live.path)
    assert error.value.code == "E-BUSY"
    assert sum(disk.store.remove_partial(one.path) for one in listed) >= 51 * 4096
    live.close()
    assert not list((disk.own / "quarantine").iterdir())


DEAD = """
import sys, threading
from pathlib import Path
from lmctl.hosts.journal import Partial
partial = Partial.open(Path(sys.argv[1]), "a" * 64, 8)
partial.write(0, b"1234", threading.Event())
partial.save()
"""


def test_F63_what_a_process_that_ended_left_is_listed(disk):
    subprocess.run([sys.executable, "-c", DEAD, str(disk.own / "partial")], check=True)
    assert [(one.path.name, one.size) for one in disk.store.partials()] == [("a" * 64, 4)]


def test_F63_listing_takes_no_lock_so_that_no_download_meets_it(disk, monkeypatch):
    path = disk.put(disk.own / "partial" / ("a" * 64), b"1234")
    locked: list[int] = []
    monkeypatch.setattr(fcntl, "flock", lambda descriptor, how: locked.append(how))
    assert [one.path for one in disk.store.partials()] == [path]
    assert locked == []


def test_F63_a_file_that_goes_while_it_is_listed_is_no_error(disk, monkeypatch):
    names = ("a" * 64, "a" * 64 + ".json", "." + "a" * 64 + ".json.tmp", "b" * 64)
    for name in names:
        disk.put(disk.own / "partial" / name, b"{}")
    real = Path.lstat

    def lstat(path: Path):
        if path.name == "a" * 64:
            path.unlink(missing_ok=True)
        return real(path)

    monkeypatch.setattr(Path, "lstat", lstat)
    assert [one.path.name for one in disk.store.partials()] == ["b" * 64]


def test_F63_removing_what_is_gone_is_done(disk):
    assert disk.store.remove_partial(disk.own / "partial" / ("a" * 64)) == 0
    disk.put(disk.own / "partial" / ("b" * 64), b"x")
    assert disk.store.remove_partial(disk.own / "partial" / ("a" * 64)) == 0


def test_F63_a_journal_whose_download_began_again_is_left_to_it(disk):
    journal = disk.put(disk.own / "partial" / f"{'a' * 64}.json", b"{}")
    disk.put(disk.own / "partial" / ("a" * 64), b"x")
    assert disk.store.remove_partial(journal) == 0
    assert journal.exists()


def test_F63_a_file_is_locked_until_it_is_gone(disk, monkeypatch):
    path = disk.put(disk.own / "partial" / ("a" * 64), b"1234")
    disk.put(disk.own / "partial" / f".{'a' * 64}.json.tmp", b"{")
    real, met = os.unlink, []

    def unlink(name, **named):
        if name == path.name:
            with pytest.raises(LmctlError) as error:
                Partial.open(path.parent, "a" * 64, 8)
            met.append(error.value.code)
        return real(name, **named)

    monkeypatch.setattr(os, "unlink", unlink)
    disk.store.remove_partial(path)
    assert (met, list(path.parent.iterdir())) == (["E-BUSY"], [])


def test_F63_nothing_outside_is_taken_for_a_partial_file(disk, tmp_path):
    path = disk.put(tmp_path / "mine", b"x")
    for asked in (path, disk.own / "partial/../../../mine", disk.hub / "x"):
        with pytest.raises(LmctlError) as error:
            disk.store.remove_partial(asked)
        assert error.value.code == "E-PRUNE"
    outside = tmp_path / "outside"
    outside.mkdir()
    disk.put(outside / ("a" * 64), b"x")
    disk.own.mkdir(parents=True)
    (disk.own / "partial").symlink_to(outside)
    with pytest.raises(LmctlError):
        disk.store.remove_partial(disk.own / "partial" / ("a" * 64))
    assert (outside / ("a" * 64)).exists()
