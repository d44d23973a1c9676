"""Rows reach the file, whatever happens to it; nobody who adds one waits, and nothing counts twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from counted import NOON, asked, ids, row, until, written
from kinds import OWN_FILES, REPOSITORY

from lmctl.usage import recorder as recorder_module
from lmctl.usage.recorder import Recorder

DAY = 86400.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "usage.db"


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make(path, said, monkeypatch):
    """A recorder that tries again soon, closed at the end."""
    monkeypatch.setattr(recorder_module, "_PAUSE", 0.02)
    monkeypatch.setattr(recorder_module, "_LONGEST", 0.05)
    monkeypatch.setattr(recorder_module, "_PATIENCE", 0.05)
    made: list[Recorder] = []

    def recorder(**how) -> Recorder:
        made.append(Recorder(path, how.pop("keep", 90 * DAY), say=said.append, clock=lambda: NOON, **how))
        return made[-1]

    yield recorder
    for one in made:
        one.close()


def test_what_is_added_is_in_the_file_after_the_end(make, path):
    recorder = make()
    for number in range(1000):
        recorder.add(row(number))
    recorder.close()
    assert ids(path) == [f"r{number}" for number in range(1000)]
    (first,) = asked(path, "SELECT * FROM request WHERE id = 'r0'")
    told = ("/v1/chat/completions", 200, 10, 2, 5, 12.5, 100.0, 50.0, "local", "curl/8.5.0", 0)
    assert first == ("r0", NOON, "chat", "o/m:Q4", "llama.cpp", *told)


def test_what_is_added_is_written_while_the_recorder_goes_on(make, path):
    recorder = make()
    recorder.add(row(1))
    until(lambda: written(path) == ["r1"])


def test_nothing_is_made_before_there_is_something_to_count(make, path):
    make().close()
    assert not path.parent.exists()


def test_only_this_user_can_read_what_is_counted(make, path):
    recorder = make()
    recorder.add(row(1))
    until(lambda: written(path))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert set(modes.values()) == {0o600} and "usage.db-wal" in modes
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_F83_a_row_that_is_added_twice_counts_once(make, path):
    for _ in range(2):
        recorder = make()
        recorder.add(row(1))
        recorder.add(row(1, tokens_out=99))
        recorder.close()
    assert asked(path, "SELECT id, tokens_out FROM request") == [("r1", 5)]


def test_a_row_that_cannot_be_stored_keeps_no_other_from_being_counted(make, path):
    recorder = make()
    recorder.add(row(1, tokens_in="many"))
    recorder.add(row(2, tokens_in=2**70, duration_ms=float("nan"), model="\ud800\n\x1b[2J", partial=True))
    recorder.add(row(3, at=float("inf")))
    recorder.close()
    assert recorder.dropped == 1
    found = asked(path, "SELECT id, at, tokens_in, duration_ms, model, partial FROM request")
    assert found == [("r2", NOON + 2, None, None, "???[2J", 1), ("r3", 0.0, 10, 100.0, "o/m:Q4", 0)]


def test_what_waits_is_bounded_and_what_is_dropped_is_counted(make, path):
    path.parent.mkdir()
    path.mkdir()  # nothing can be written
    recorder = make(bound=10)
    began = time.monotonic()
    for number in range(100_000):
        recorder.add(row(number % 7))
    assert time.monotonic() - began < 30  # it waited for nothing
    assert recorder.dropped >= 100_000 - 10 - 512 - 7


def test_F81_rows_stay_in_the_order_in_which_they_came_when_the_clock_jumps(make, path):
    recorder = make()
    for number, jump in enumerate((0, 3600, -7200, 60)):
        recorder.add(row(number, at=NOON + jump))
    recorder.close()
    assert ids(path) == ["r0", "r1", "r2", "r3"]
    assert asked(path, "SELECT count(*), sum(tokens_out) FROM request") == [(4, 20)]


KILLED = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, {tests!r})
from counted import row
from lmctl.usage.recorder import Recorder
recorder = Recorder(Path(sys.argv[1]), 86400.0 * 36500)
number = 0
while True:
    recorder.add(row(number))
    os.write(1, b"%d %f\\n" % (number, time.monotonic()))
    number += 1
    time.sleep(0.001)
"""


@pytest.mark.parametrize("after", [0.7, 1.3, 1.9])
def test_a_kill_loses_at_most_the_last_second_and_tears_nothing(path, after):
    code = KILLED.format(tests=str(Path(__file__).parent))
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, cwd=REPOSITORY) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        end = float(lines[0].split()[1]) + after
        while float(lines[-1].split()[1]) < end:
            lines.append(process.stdout.readline())
        until(lambda: path.exists() and path.stat().st_size)
        process.send_signal(signal.SIGKILL)
        lines += [line for line in process.stdout if line.endswith(b"\n")]
    assert asked(path, "PRAGMA integrity_check") == [("ok",)]
    kept = len(ids(path))
    assert ids(path) == [f"r{number}" for number in range(kept)]
    added = [float(line.split()[1]) for line in lines]
    lost = [at for at in added[kept:] if at < added[-1] - 3.0]  # a second, and what a busy machine adds to it
    assert not lost


def _truncated(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 + 100])


def _garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, and never was" * 400)


def _foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")
        db.execute("INSERT INTO bookmarks VALUES ('https://example')")
        db.commit()


def _same_number(path: Path) -> None:
    _foreign(path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=1")


SPOILED = [pytest.param(spoil, id=f"F82{spoil.__name__}") for spoil in (_truncated, _garbage, _foreign, _same_number)]


@pytest.mark.parametrize("spoil", SPOILED)
def test_a_file_that_cannot_be_used_is_put_aside_and_counting_begins_anew(make, path, said, spoil):
    first = make()
    for number in range(500):
        first.add(row(number))
    first.close()
    spoil(path)
    broken = path.read_bytes()
    second = make()
    second.add(row(1000))
    second.add(row(1001))
    second.close()
    assert ids(path) == ["r1000", "r1001"]
    assert path.with_name(f"usage.db.corrupt-{int(NOON)}").read_bytes() == broken
    assert len(said) == 1 and "put aside as usage.db.corrupt-" in said[0]


def test_F82_an_empty_file_is_begun_anew_and_the_loss_is_said(make, path, said):
    path.parent.mkdir()
    path.touch()
    recorder = make()
    recorder.add(row(1))
    recorder.close()
    assert ids(path) == ["r1"]
    assert len(said) == 1 and "was empty" in said[0]


def test_F82_a_file_that_is_deleted_while_it_is_open_is_begun_anew(make, path, said):
    recorder = make()
    recorder.add(row(1))
    until(lambda: written(path))
    path.unlink()
    recorder.add(row(2))
    until(lambda: written(path) == ["r2"])
    assert len(said) == 1 and "was removed, and with it what was counted" in said[0]


def test_a_folder_that_is_removed_is_not_made_again(make, path, said):
    recorder = make()
    recorder.add(row(1))
    until(lambda: written(path))
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    recorder.add(row(2))
    recorder.close()
    assert not path.parent.exists() and recorder.dropped == 1
    assert "was removed" in said[0]


def test_F82_rows_wait_while_somebody_else_keeps_the_file_locked(make, path, said):
    recorder = make()
    recorder.add(row(1))
    until(lambda: written(path))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        recorder.add(row(2))
        until(lambda: said)
        time.sleep(0.3)  # several tries
        other.execute("COMMIT")
    until(lambda: written(path) == ["r1", "r2"])
    until(lambda: len(said) == 2)
    assert "locked" in said[0] and said[1] == "requests are counted again"
    assert {file.name for file in path.parent.iterdir()} <= {"usage.db", "usage.db-wal", "usage.db-shm"}


def test_F82_a_newer_file_is_left_alone(make, path, said):
    first = make()
    first.add(row(1))
    first.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
        db.execute("UPDATE meta SET value = '9.1.0'")
        db.commit()
    before = path.read_bytes()
    second = make()
    second.add(row(2))
    second.close()
    assert path.read_bytes() == before
    assert "was written by lmctl >= 9.1.0" in said[0] and said[-1] == "1 requests are not counted"
    assert second.dropped == 1


@pytest.mark.needs("uid")
def test_F82_a_file_in_a_folder_that_may_not_be_written_costs_counts_and_nothing_else(tmp_path):
    from kinds import as_nobody

    code = (
        "import sys; from pathlib import Path\n"
        "from lmctl.usage.recorder import Recorder; from lmctl.usage.rows import Row\n"
        "recorder = Recorder(Path(sys.argv[1]), 86400.0, say=print)\n"
        "recorder.add(Row('a', 1.0, None, None, None, '/v1/models', 200)); recorder.close(); print(recorder.dropped)\n"
    )
    folder = tmp_path / "closed"
    folder.mkdir(mode=0o755)
    os.chmod(tmp_path, 0o755)
    with as_nobody() as before:
        command = [*before, sys.executable, "-c", code, str(folder / "state" / "usage.db")]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "cannot be written: Permission denied" in done.stdout and done.stdout.endswith("\n1\n")


FULL = """
mount -t tmpfs -o size=192k none {folder} && cd {repository} && {python} - <<'END'
import sys, time, os
sys.path.insert(0, {tests!r})
from pathlib import Path
from counted import row, until, written
from lmctl.usage import recorder as module
module._PAUSE, module._LONGEST = 0.02, 0.1
folder, said = Path({folder!r}), []
recorder = module.Recorder(folder / "usage.db", 1e10, say=said.append)
recorder.add(row(0))
until(lambda: written(folder / "usage.db"))
with (folder / "filler").open("wb", buffering=0) as filler:
    try:
        while True:
            filler.write(bytes(4096))
    except OSError:
        pass
for number in range(1, 2001):
    recorder.add(row(number))
until(lambda: said)
assert "disk is full" in said[0], said
(folder / "filler").unlink()
os.system("mount -o remount,size=4m " + str(folder))
until(lambda: len(written(folder / "usage.db")) == 2001)
recorder.close()
assert said[1:] == ["requests are counted again"], said
END
"""


@pytest.mark.needs("tmpfs")
def test_F82_rows_wait_while_the_disk_is_full(tmp_path):
    names = {"folder": str(tmp_path), "repository": str(REPOSITORY), "python": sys.executable}
    script = FULL.format(**names, tests=str(Path(__file__).parent))
    done = subprocess.run([*OWN_FILES, "sh", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_many_threads_add_at_once_and_every_row_counts(make, path):
    recorder = make()

    def some(start: int) -> None:
        for number in range(start, start + 500):
            recorder.add(row(number))

    threads = [threading.Thread(target=some, args=(start,)) for start in range(0, 4000, 500)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    recorder.close()
    assert len(set(ids(path))) == len(ids(path)) == 4000
