"""What the ledger remembers, and what becomes of it when its file is broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lmctl.errors import LmctlError
from lmctl.ledger import Applied, Ledger, Memory, Owned
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
        writer.applied("program:code", Applied({"ctx": 8192, "aliases": ["a"]}, "h" * 64), 1)
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


def test_a_rollback_stops_nothing_and_lasts_until_a_person_applies(ledger):
    with ledger.writing(1.0) as writer:
        writer.hold("chat", "stopped", 1.0)
        writer.roll_back(3, ["code", "embed"], 2.0)
        writer.lift("code")  # what is started does not end it
    memory = ledger.read()
    assert (memory.holds, memory.rolled_back, memory.in_force) == ({"chat": "stopped"}, {"code", "embed"}, 3)
    with ledger.writing(3.0) as writer:
        writer.resume(["code", "chat"])
    assert (ledger.read().rolled_back, ledger.read().in_force) == ({"embed"}, 3)
    with ledger.writing(3.0) as writer:
        writer.resume(["embed"])
    memory = ledger.read()
    assert (memory.holds, memory.rolled_back, memory.in_force) == ({"chat": "stopped"}, frozenset(), None)


def test_what_a_rollback_touched_can_be_stopped_and_the_other_way_round(ledger):
    with ledger.writing(1.0) as writer:
        writer.hold("early", "crash-loop", 1.0)
        writer.hold("early", "stopped", 1.5)
        writer.roll_back(3, ["early", "late"], 2.0)
        writer.hold("late", "stopped", 3.0)
    memory = ledger.read()
    assert (memory.holds, memory.held_since) == ({"early": "stopped", "late": "stopped"}, {"early": 1.5, "late": 3.0})
    assert (memory.rolled_back, memory.in_force) == ({"early", "late"}, 3)
    with ledger.writing(4.0) as writer:
        writer.lift("early")
        writer.resume(["late"])
    memory = ledger.read()
    assert (memory.holds, memory.rolled_back, memory.in_force) == ({"late": "stopped"}, {"early"}, 3)


def test_a_rollback_that_touched_nothing_ends_all_the_same(ledger):
    with ledger.writing(1.0) as writer:
        writer.roll_back(3, [], 2.0)
    assert ledger.read().in_force == 3
    with ledger.writing(1.0) as writer:
        writer.resume(None)
    assert ledger.read() == Memory((), {}, {}, {})


def test_a_folder_that_was_removed_meanwhile_is_not_made_again(ledger):
    """As by an uninstall beside a download that ends later."""
    own(ledger, ROW)
    shutil.rmtree(ledger.path.parent)
    with pytest.raises(LmctlError, match="was removed meanwhile") as caught:
        own(ledger, ROW)
    assert (caught.value.code, ledger.path.parent.exists()) == ("E-STATE", False)
    own(Ledger(ledger.path), ROW)  # the next run


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
