"""What the ledger remembers, and what becomes of it when its file is broken."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from lmctl.errors import LmctlError
from lmctl.ledger import SCHEMA, Applied, Ledger, Memory, Owned
from lmctl.record import replace
from lmctl.spec import Signature

ROW = Owned("/hub/blobs/a", "blob", "o/m@main:Q4", Signature(7, 2**62, 3, 4), "a" * 64, 10.0, 10.0)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "team" / "ledger.db", patience=0.2)


def own(ledger: Ledger, *rows: Owned) -> None:
    with ledger.writing(1.0) as writer:
        writer.own(rows)


def names(ledger: Ledger) -> set[str]:
    return {path.name for path in ledger.path.parent.iterdir()}


def test_what_was_written_is_read(ledger):
    rows = (ROW, replace(ROW, path="/hub/blobs/b", kind="adopted", protect=True, unreferenced_since=4.5))
    with ledger.writing(1.0) as writer:
        writer.own(rows)
        generation = writer.generation(5.0, "c", "l", "{}")
        writer.applied("program:code", Applied({"ctx": 8192, "aliases": ["a"]}, "h" * 64), generation)
        writer.hold("code", "stopped", 6.0)
        writer.port("chat", "127.0.0.1:28000")
    memory = ledger.read()
    # owning a file again refers to it again
    assert memory.owned == (ROW, replace(rows[1], unreferenced_since=4.5))
    assert memory.applied == {"program:code": Applied({"ctx": 8192, "aliases": ["a"]}, "h" * 64)}
    assert (memory.holds, memory.ports) == ({"code": "stopped"}, {"chat": "127.0.0.1:28000"})


def test_what_is_taken_back_is_gone(ledger):
    with ledger.writing(1.0) as writer:
        writer.own([ROW])
        writer.applied("program:code", Applied({}, "h"), 1)
        writer.hold("code", "stopped", 6.0)
    with ledger.writing(2.0) as writer:
        writer.forget([ROW.path])
        writer.applied("program:code", None, 2)
        writer.lift("code")
    assert ledger.read() == Memory((), {}, {}, {})


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ("blob", "adopted", "blob"),
        ("blob", "local", "blob"),
        ("adopted", "blob", "blob"),
        ("local", "adopted", "adopted"),
    ],
)
def test_what_lmctl_brought_is_never_demoted(ledger, before, after, kept):
    own(ledger, replace(ROW, kind=before))
    own(ledger, replace(ROW, kind=after))
    assert ledger.read().owned[0].kind == kept


def test_owning_again_renews_the_signature_and_keeps_the_day_it_came(ledger):
    own(ledger, ROW)
    later = replace(ROW, signature=Signature(8, 9, 10, 11), sha256="b" * 64, verified_at=99.0, acquired_at=99.0)
    own(ledger, later)
    assert ledger.read().owned == (replace(later, acquired_at=10.0),)


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_protection_stays_until_it_is_lifted(ledger, order):
    for protect in order:
        own(ledger, replace(ROW, protect=protect))
    assert ledger.read().owned[0].protect
    with ledger.writing(1.0) as writer:
        writer.protect({ROW.path: False})
    assert not ledger.read().owned[0].protect


def test_the_time_without_reference_ends_when_somebody_refers_to_it(ledger):
    own(ledger, ROW)
    with ledger.writing(1.0) as writer:
        writer.unreferenced({ROW.path: 50.0})
    assert ledger.read().owned[0].unreferenced_since == 50.0
    with ledger.writing(1.0) as writer:
        writer.unreferenced({ROW.path: None})
    assert ledger.read().owned[0].unreferenced_since is None
    with ledger.writing(1.0) as writer:
        writer.unreferenced({ROW.path: 60.0})
    own(ledger, ROW)
    assert ledger.read().owned[0].unreferenced_since is None


def test_a_generation_counts_as_interrupted_until_it_is_closed(ledger):
    with ledger.writing(1.0) as writer:
        first, second = (writer.generation(1.0, "c", "l", "{}") for _ in range(2))
        writer.close_generation(second, "done")
    with sqlite3.connect(ledger.path) as db:
        assert db.execute("SELECT id, result FROM generation").fetchall() == [(first, "interrupted"), (second, "done")]
    db.close()


def test_a_transaction_that_fails_leaves_nothing(ledger):
    own(ledger)
    with pytest.raises(KeyError), ledger.writing(1.0) as writer:
        writer.own([ROW])
        raise KeyError
    assert ledger.read().owned == ()


def test_reading_writes_nothing(ledger):
    assert ledger.read() == Memory()
    assert not ledger.path.parent.exists()
    own(ledger, ROW)
    before = {path: path.stat().st_mtime_ns for path in ledger.path.parent.iterdir()}
    ledger.path.parent.chmod(0o500)
    assert ledger.read().owned == (ROW,)
    assert {path: path.stat().st_mtime_ns for path in ledger.path.parent.iterdir()} == before
    assert names(ledger) == {"ledger.db"}
    ledger.path.parent.chmod(0o700)


def test_the_file_is_private(ledger):
    own(ledger, ROW)
    assert ledger.path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["a?b", "a%20b", "a#b", "a b"])
def test_any_folder_will_do(tmp_path, name):
    ledger = Ledger(tmp_path / name / "ledger.db")
    own(ledger, ROW)
    assert ledger.read().owned == (ROW,)


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, and never was" * 200)


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xff" * 3996  # the first page behind the header
    path.write_bytes(content)


@pytest.mark.parametrize("spoil", [pytest.param(_garbage, id="F82-garbage"), pytest.param(_flipped, id="F82-flipped")])
def test_a_broken_ledger_counts_as_lost_and_is_moved_aside_by_the_next_write(ledger, spoil):
    own(ledger, ROW)
    spoil(ledger.path)
    broken = ledger.path.read_bytes()
    assert ledger.read() == Memory()
    assert names(ledger) == {"ledger.db"}  # reading repairs nothing
    with ledger.writing(1234.0) as writer:
        writer.own([ROW])
    assert ledger.read().owned == (ROW,)
    assert names(ledger) == {"ledger.db", "ledger.db.corrupt-1234"}
    assert (ledger.path.parent / "ledger.db.corrupt-1234").read_bytes() == broken


def test_F82_an_empty_file_is_a_new_ledger(ledger):
    ledger.path.parent.mkdir()
    ledger.path.touch()
    assert ledger.read() == Memory()
    own(ledger, ROW)
    assert ledger.read().owned == (ROW,)


def test_F82_a_ledger_that_was_deleted_is_a_new_one(ledger):
    own(ledger, ROW)
    ledger.path.unlink()
    assert ledger.read() == Memory()
    own(ledger)
    assert ledger.read().owned == ()


def test_F82_what_a_killed_writer_committed_is_there(ledger):
    code = (
        "import os, sys; from pathlib import Path; from lmctl.ledger import *; l = Ledger(Path(sys.argv[1]))\n"
        "with l.writing(1.0) as w:\n"
        "    w.hold('code', 'stopped', 1.0)\n"
        "db = l._connect(); db.execute('BEGIN IMMEDIATE'); db.execute('DELETE FROM hold'); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(ledger.path)], check=False)
    assert ledger.read().holds == {"code": "stopped"}
    own(ledger, ROW)
    assert ledger.read().holds == {"code": "stopped"}


def test_F82_a_ledger_that_another_process_keeps_locked_is_reported(ledger):
    own(ledger, ROW)
    other = sqlite3.connect(ledger.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(LmctlError, match="locked") as caught:
        own(ledger)
    assert caught.value.code == "E-STATE"
    assert ledger.read().owned == (ROW,)  # whoever only reads is not kept waiting
    other.close()


def test_F82_a_ledger_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LmctlError) as caught:
        own(Ledger(tmp_path / "file" / "ledger.db"))
    assert caught.value.code in {"E-IO", "E-PERM", "E-STATE"}
    (tmp_path / "team/ledger.db").mkdir(parents=True)
    with pytest.raises(LmctlError) as caught:
        own(Ledger(tmp_path / "team/ledger.db"))
    assert caught.value.code == "E-STATE"


def test_F33_a_ledger_of_a_newer_lmctl_is_left_alone(ledger):
    own(ledger, ROW)
    db = sqlite3.connect(ledger.path)
    db.execute(f"PRAGMA user_version={SCHEMA + 1}")
    db.close()
    before = ledger.path.read_bytes()
    for use in (ledger.read, lambda: own(ledger, ROW)):
        with pytest.raises(LmctlError, match="written by a newer lmctl") as caught:
            use()
        assert (caught.value.code, caught.value.exit_code) == ("E-STATE", 8)
    assert ledger.path.read_bytes() == before
