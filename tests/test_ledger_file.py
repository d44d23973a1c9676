"""What becomes of a ledger whose file is broken, locked, read-only, older or newer than this lmctl."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from lmctl import generations
from lmctl import ledger as ledger_module
from lmctl.errors import LmctlError
from lmctl.generations import Generation
from lmctl.ledger import Ledger, Memory, Owned
from lmctl.ledger_file import SCHEMA
from lmctl.record import replace
from lmctl.spec import Signature

ROW = Owned("/hub/blobs/a", "blob", "o/m@main:Q4", Signature(7, 2**62, 3, 4), "a" * 64, 10.0, 10.0)
# as the first schema was
SCHEMA_1 = """
CREATE TABLE owned (path TEXT PRIMARY KEY, kind TEXT NOT NULL, artifact TEXT NOT NULL, size INTEGER NOT NULL,
  mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, device INTEGER NOT NULL, sha256 TEXT NOT NULL,
  verified_at REAL NOT NULL, acquired_at REAL NOT NULL, protect INTEGER NOT NULL, unreferenced_since REAL);
CREATE TABLE generation (id INTEGER PRIMARY KEY, at REAL NOT NULL, config_hash TEXT NOT NULL, lock_hash TEXT NOT NULL,
  plan TEXT NOT NULL, result TEXT NOT NULL);
CREATE TABLE applied (address TEXT PRIMARY KEY, fields TEXT NOT NULL, hash TEXT NOT NULL, generation INTEGER NOT NULL);
CREATE TABLE drift (fingerprint TEXT PRIMARY KEY, class TEXT NOT NULL, address TEXT NOT NULL, desired TEXT,
  applied TEXT, observed TEXT, first_seen REAL NOT NULL, last_seen REAL NOT NULL, count INTEGER NOT NULL,
  resolved_at REAL);
CREATE TABLE hold (profile TEXT PRIMARY KEY, reason TEXT NOT NULL, since REAL NOT NULL);
CREATE TABLE port (profile TEXT PRIMARY KEY, listen TEXT NOT NULL);
CREATE TABLE unconfirmed (profile TEXT PRIMARY KEY, since REAL NOT NULL);
INSERT INTO owned VALUES ('/hub/blobs/a', 'blob', 'o/m@main:Q4', 7, 4611686018427387904, 3, 4, printf('%064d', 0), 1.0,
  1.0, 0, NULL);
INSERT INTO generation VALUES (7, 5.0, 'c', 'l', '{}', 'done');
INSERT INTO hold VALUES ('code', 'stopped', 6.0);
PRAGMA user_version=1;
"""


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "team" / "ledger.db", patience=0.2)


def own(ledger: Ledger, *rows: Owned) -> None:
    with ledger.writing(1.0) as writer:
        writer.own(rows)


def names(ledger: Ledger) -> set[str]:
    return {path.name for path in ledger.path.parent.iterdir()}


def told(ledger: Ledger) -> list[str]:
    return [f"{problem.code}: {problem.what}" for problem in ledger.notices]


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, and never was" * 200)


def _flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[100:4096] = b"\xff" * 3996  # the first page behind the header
    path.write_bytes(content)


def _deep(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096:8192] = b"\xff" * 4096  # a page that opening does not read
    path.write_bytes(content)


SPOILED = [pytest.param(spoil, id=f"F82{spoil.__name__}") for spoil in (_garbage, _flipped, _deep)]


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_broken_ledger_is_moved_aside_by_the_next_write_which_says_so_once(ledger, spoil):
    own(ledger, ROW)
    spoil(ledger.path)
    broken = ledger.path.read_bytes()
    problem = ledger.read().problem
    assert problem is not None and "cannot be read" in problem.what
    assert names(ledger) == {"ledger.db"}  # reading repairs nothing
    with ledger.writing(1234.0) as writer:
        writer.own([ROW])
    own(ledger, ROW)
    assert ledger.read() == Memory((ROW,), {}, {}, {})
    kept = names(ledger) - {f"ledger.db.corrupt-1234{suffix}" for suffix in ("-wal", "-shm")}
    assert kept == {"ledger.db", "ledger.db.corrupt-1234"}
    assert (ledger.path.parent / "ledger.db.corrupt-1234").read_bytes() == broken
    (notice,) = told(ledger)
    assert notice.startswith("E-STATE") and notice.endswith("put aside as ledger.db.corrupt-1234")


@pytest.mark.parametrize("often", [1, 3])
def test_a_ledger_that_is_written_while_it_is_read_is_no_broken_one(ledger, often, monkeypatch):
    """Whoever fetches writes it beside those who only look, and nobody waits for anybody."""
    rows = [replace(ROW, path=f"/hub/blobs/{number}") for number in range(400)]
    own(ledger, *rows)
    writes = iter(range(often))
    real = ledger_module._memory

    def interrupted(db):
        assert db.execute("SELECT count(*) FROM owned").fetchone()  # pages that sqlite knows are from before
        for number in writes:
            with ledger.writing(1.0) as writer:
                writer.forget(row.path for row in rows[number * 100 :])
                writer.hold(f"{number}", "stopped", 1.0)
            with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
                other.execute("VACUUM")  # as good as any: pages move
            break
        return real(db)

    monkeypatch.setattr(ledger_module, "_memory", interrupted)
    memory = ledger.read()
    assert (memory.problem, len(memory.holds or {}), len(memory.owned)) == (None, often, 0)
    assert names(ledger) == {"ledger.db"}


def test_F82_two_broken_ledgers_of_one_second_are_both_kept(ledger):
    for _ in range(2):
        own(ledger, ROW)
        _garbage(ledger.path)
        own(ledger)
    assert names(ledger) == {"ledger.db", "ledger.db.corrupt-1", "ledger.db.corrupt-2"}


def test_F82_an_empty_file_is_a_new_ledger(ledger):
    ledger.path.parent.mkdir()
    ledger.path.touch()
    assert ledger.read() == Memory()
    own(ledger, ROW)
    assert ledger.read().owned == (ROW,)


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["F82-deleted", "F82-emptied"])
def test_a_ledger_that_is_lost_is_a_new_one_and_what_was_kept_beside_it_tells(ledger, lose):
    own(ledger, ROW)
    lose(ledger.path)
    assert ledger.read() == Memory()
    (ledger.path.parent / "snapshots/3").mkdir(parents=True)
    problem = ledger.read().problem
    assert problem is not None and "gone or empty" in problem.what
    own(ledger)
    assert (ledger.read().owned, ledger.read().problem) == ((), None)


def test_F82_a_ledger_that_is_deleted_while_it_is_written_is_a_new_one(ledger):
    with ledger.writing(1.0) as writer:
        writer.own([ROW])
        ledger.path.unlink()
    own(ledger, ROW)
    assert ledger.read().owned == (ROW,)


def test_F82_what_a_killed_writer_committed_is_there(ledger):
    code = (
        "import os, sys; from pathlib import Path; from lmctl.ledger import *; l = Ledger(Path(sys.argv[1]))\n"
        "with l.writing(1.0) as w:\n"
        "    w.hold('code', 'stopped', 1.0)\n"
        "with l.writing(1.0) as w:\n"
        "    w.run('DELETE FROM hold'); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(ledger.path)], check=False)
    assert ledger.read().holds == {"code": "stopped"}
    own(ledger, ROW)
    assert ledger.read().holds == {"code": "stopped"}


def test_F82_a_missing_wal_leaves_what_was_there_before_it(ledger):
    own(ledger, ROW)
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as other:
        other.execute("INSERT INTO hold VALUES ('code', 'stopped', 1.0)")
        ledger.path.with_name("ledger.db-wal").unlink()
    assert ledger.read().owned == (ROW,)
    own(ledger, ROW)
    assert ledger.read().owned == (ROW,)


_LOCKS = """
import sqlite3, sys, time
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
db.execute("INSERT INTO port VALUES ('mine', 'x')")
print("locked", flush=True)
sys.stdin.readline()
db.execute("COMMIT")
db.close()
"""


def test_F82_a_ledger_that_a_stranger_keeps_locked_is_replaced_by_a_copy_of_it(ledger):
    own(ledger, ROW)
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", _LOCKS, str(ledger.path)], **streams) as stranger:
        assert stranger.stdout.readline() == "locked\n"
        assert ledger.read().owned == (ROW,)  # whoever only reads is not kept waiting
        with ledger.writing(1234.0) as writer:
            writer.hold("code", "stopped", 1.0)
        memory = ledger.read()
        assert (memory.owned, memory.holds) == ((ROW,), {"code": "stopped"})
        stranger.communicate("go on\n")
        assert stranger.returncode == 0
    assert ledger.read() == memory  # what the stranger ended is none of it
    assert len(told(ledger)) == 1
    with closing(sqlite3.connect(ledger.path.with_name("ledger.db.corrupt-1234"))) as aside:
        assert aside.execute("SELECT profile FROM port").fetchall() == [("mine",)]


def test_F82_a_ledger_that_lost_the_right_to_be_written_gets_it_back(ledger, humble):
    own(ledger, ROW)
    ledger.path.chmod(0o400)
    humble(ledger.path)
    assert ledger.read().holds == {"code": "stopped"}
    assert ledger.read().owned == (ROW,)
    assert ledger.path.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def humble():
    """Hold `code` in a ledger as somebody to whom permissions apply."""
    from e2e_tools import HUMBLE

    code = (
        "import sys; from pathlib import Path; from lmctl.ledger import *\n"
        "with Ledger(Path(sys.argv[1])).writing(1.0) as w: w.hold('code', 'stopped', 1.0)"
    )
    return lambda path: subprocess.run([*HUMBLE, sys.executable, "-c", code, str(path)], check=True)


def test_F82_a_ledger_that_cannot_be_written_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(LmctlError) as caught:
        own(Ledger(tmp_path / "file" / "ledger.db"))
    assert caught.value.code in {"E-IO", "E-PERM", "E-STATE"}
    (tmp_path / "team/ledger.db").mkdir(parents=True)
    with pytest.raises(LmctlError) as caught:
        own(Ledger(tmp_path / "team/ledger.db"))
    assert caught.value.code == "E-STATE"
    assert (tmp_path / "team/ledger.db").is_dir()


def test_F4_a_full_disk_is_named_and_takes_nothing_away(ledger):
    own(ledger, ROW)
    with pytest.raises(LmctlError) as caught, ledger.writing(1.0) as writer:
        pages = writer.run("PRAGMA page_count").fetchone()[0]
        writer.run(f"PRAGMA max_page_count={pages}")  # sqlite's own word for a disk without room
        for number in range(1000):
            writer.hold(f"{number}", "stopped" * 100, 1.0)
    assert (caught.value.code, caught.value.exit_code) == ("E-SPACE", 8)
    assert ledger.read() == Memory((ROW,), {}, {}, {})


@pytest.fixture
def older(ledger) -> Ledger:
    """A ledger of the first schema."""
    ledger.path.parent.mkdir(mode=0o700)
    with closing(sqlite3.connect(ledger.path)) as db:
        db.executescript(f"PRAGMA journal_mode=WAL; {SCHEMA_1}")
    return ledger


def test_an_older_ledger_is_read_as_it_is(older):
    before = older.path.read_bytes()
    memory = older.read()
    assert (len(memory.owned), memory.holds, memory.in_force, memory.problem) == (1, {"code": "stopped"}, None, None)
    assert [(one.id, one.restores) for one in generations.listed(older)] == [(7, None)]
    assert (older.path.read_bytes(), names(older)) == (before, {"ledger.db"})


def test_an_older_ledger_is_upgraded_by_the_next_write_and_kept_beside_it(older):
    with older.writing(1.0) as writer:
        number = generations.opened(writer, Generation(1, 9.0, "d", "m", "{}", "", restores=7))
        writer.roll_back(7, ["code"], 9.0)
    assert (older.read().holds, older.read().rolled_back) == ({"code": "stopped"}, {"code"})
    assert [(one.id, one.restores) for one in generations.listed(older)] == [(number, 7), (7, None)]
    assert older.read().in_force == 7
    assert names(older) == {"ledger.db", "ledger.db.schema-1"}
    backup = older.path.with_name("ledger.db.schema-1")
    assert backup.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(backup)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
        assert db.execute("SELECT id FROM generation").fetchall() == [(7,)]
    assert older.notices == []


def test_F1_an_upgrade_that_is_killed_is_made_again(older):
    code = (
        "import os, sys; from pathlib import Path; from lmctl import database, ledger_file\n"
        "ledger_file._STEPS[1] += f'; SELECT die()'\n"
        "connect = database.sqlite3.connect\n"
        "def connected(*args, **how):\n"
        "    db = connect(*args, **how); db.create_function('die', 0, lambda: os.kill(os.getpid(), 9)); return db\n"
        "database.sqlite3.connect = connected\n"
        "database.open_writable(Path(sys.argv[1]), ledger_file.LAYOUT, 1.0, 1.0)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(older.path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert older.read().holds == {"code": "stopped"}
    own(older, ROW)
    assert generations.listed(older)[0].id == 7


def newer(ledger: Ledger, *statements: str) -> bytes:
    """Make the file one of a later schema; return its bytes."""
    own(ledger, ROW)
    with closing(sqlite3.connect(ledger.path, isolation_level=None)) as db:
        for statement in (*statements, f"PRAGMA user_version={SCHEMA + 1}"):
            db.execute(statement)
    return ledger.path.read_bytes()


def test_F33_a_ledger_of_a_newer_lmctl_is_read_and_never_written(ledger):
    before = newer(ledger, "UPDATE meta SET value='7.5.0' WHERE key='needs'", "ALTER TABLE owned ADD COLUMN novel TEXT")
    memory = ledger.read()
    assert memory.owned == (ROW,)
    assert memory.problem is not None and memory.problem.what.endswith("was written by lmctl >= 7.5.0")
    for use in (lambda: own(ledger, ROW), ledger.refuse_newer):
        with pytest.raises(LmctlError, match=r"written by lmctl >= 7\.5\.0") as caught:
            use()
        assert (caught.value.code, caught.value.exit_code) == ("E-STATE", 8)
    assert (ledger.path.read_bytes(), names(ledger)) == (before, {"ledger.db"})


def test_F33_what_a_newer_lmctl_keeps_elsewhere_counts_as_unknown(ledger):
    newer(ledger, "DROP TABLE hold", "DROP TABLE meta")
    memory = ledger.read()
    assert (memory.owned, memory.applied) == ((), None)
    assert memory.problem is not None and f"schema {SCHEMA + 1}" in memory.problem.what


def test_what_is_fine_is_not_refused(ledger):
    ledger.refuse_newer()
    own(ledger, ROW)
    ledger.refuse_newer()
    _garbage(ledger.path)
    ledger.refuse_newer()
    assert os.listdir(ledger.path.parent) == ["ledger.db"]
