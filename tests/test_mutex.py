"""One writer at a time, who it is, and lock files that are not what they should be."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from lmctl import mutex
from lmctl.errors import LmctlError
from lmctl.mutex import exclusive
from lmctl.mutex import holder as held_by

HOLD = """\
import sys
from pathlib import Path
from lmctl.mutex import exclusive
with exclusive(Path(sys.argv[1]), "lmctl apply"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "state" / "lock"


@pytest.fixture
def holder(lock: Path):
    """Another process that holds the lock until its stdin ends."""
    argv = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def refused(lock: Path, code: str) -> str:
    with pytest.raises(LmctlError) as caught, exclusive(lock, "lmctl stop"):
        pass
    assert caught.value.code == code
    return str(caught.value)


def test_F12_a_second_writer_is_told_who_holds_it_since_when(lock, holder):
    said = refused(lock, "E-BUSY")
    assert f"pid {holder.pid}, `lmctl apply`, since 20" in said
    assert "--wait" in said


def test_F12_a_waiter_goes_on_when_the_holder_ends(lock, holder):
    done = threading.Event()

    def wait() -> None:
        with exclusive(lock, "lmctl stop", wait=True):
            done.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not done.is_set()
    holder.stdin.close()
    thread.join(30)
    assert done.is_set()


def test_a_killed_holder_leaves_nothing_to_unlock(lock, holder):
    holder.kill()
    holder.wait()
    with exclusive(lock, "lmctl stop"):
        pass


@pytest.mark.parametrize("replaced", [True, False], ids=["replaced", "deleted"])
def test_F14_a_lock_file_that_goes_while_it_is_held_is_noticed(lock, replaced):
    with exclusive(lock, "lmctl apply") as still_held:
        still_held()
        lock.unlink()
        if replaced:
            lock.touch()
        with pytest.raises(LmctlError, match="replaced while it was locked") as caught:
            still_held()
    assert caught.value.code == "E-IO"


def test_F14_a_waiter_whose_file_was_deleted_does_not_believe_it_holds_the_lock(lock, holder):
    errors: list[LmctlError] = []

    def wait() -> None:
        try:
            with exclusive(lock, "lmctl stop", wait=True):
                pass
        except LmctlError as error:
            errors.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    while not _open_by_us(lock):
        pass
    lock.unlink()
    holder.stdin.close()
    thread.join(30)
    assert [error.code for error in errors] == ["E-IO"]


def _open_by_us(path: Path) -> bool:
    folder = Path("/proc/self/fd")
    return not folder.exists() or str(path) in {os.readlink(entry) for entry in folder.iterdir() if entry.is_symlink()}


def _symlink(path: Path) -> None:
    path.with_name("elsewhere").write_text("precious")
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("make", "code"),
    [
        pytest.param(_symlink, "E-IO", id="F15-symlink"),
        pytest.param(lambda path: path.symlink_to("nowhere"), "E-IO", id="F15-dangling-symlink"),
        pytest.param(lambda path: path.mkdir(), "E-IO", id="F15-folder"),
        pytest.param(lambda path: os.mkfifo(path), "E-PERM", id="F15-fifo"),
    ],
)
def test_a_lock_file_that_is_no_file_is_refused(lock, make, code):
    lock.parent.mkdir()
    make(lock)
    assert "is not a regular file" in refused(lock, code)
    assert not lock.is_symlink() or not (lock.parent / "nowhere").exists()
    assert not (lock.parent / "elsewhere").exists() or (lock.parent / "elsewhere").read_text() == "precious"


@pytest.mark.needs("uid")
def test_F15_a_lock_file_of_another_user_is_refused(lock):
    lock.parent.mkdir()
    lock.touch()
    os.chown(lock, 65534, 65534)
    assert "is not a regular file of this user" in refused(lock, "E-PERM")


@pytest.mark.parametrize(
    "note",
    [
        pytest.param(json.dumps({"pid": 1, "command": "init", "since": "2020-01-01 00:00:00"}), id="F16-reused-pid"),
        pytest.param(json.dumps({"pid": 2**22 + 1, "command": "x", "since": "y"}), id="F16-dead-pid"),
        pytest.param("not json", id="F16-garbage"),
        pytest.param("", id="F16-empty"),
    ],
)
def test_what_an_earlier_holder_wrote_stops_nobody(lock, note):
    lock.parent.mkdir()
    lock.write_text(note)
    with exclusive(lock, "lmctl apply"):
        assert json.loads(lock.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("note", ["", "{", "[]", '{"pid": "x"}', '{"pid": 1}'])
def test_a_holder_that_says_nothing_sensible_is_reported_without_failing(lock, holder, note):
    lock.write_text(note)
    assert "it has not said who it is yet" in refused(lock, "E-BUSY")


def test_a_note_cannot_write_to_the_terminal(lock, holder):
    lock.write_text(json.dumps({"pid": 1, "command": "\x1b[2J\n", "since": "\x07"}))
    assert "`\\x1b[2J\\x0a`, since \\x07" in refused(lock, "E-BUSY")


def test_the_file_is_private_and_stays(lock):
    with exclusive(lock, "lmctl apply"):
        pass
    assert lock.stat().st_mode & 0o777 == 0o600
    assert lock.parent.stat().st_mode & 0o777 == 0o700


def test_a_waiter_is_told_once_for_whom_it_waits(lock, holder):
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        threading.Timer(0.3, holder.stdin.close).start()  # after some more tries

    with exclusive(lock, "lmctl stop", wait=True, say=say):
        pass
    (line,) = said
    assert f"waiting for another lmctl: pid {holder.pid}, `lmctl apply`, since 20" in line


@pytest.mark.parametrize("held", [True, False], ids=["held", "free"])
def test_an_interrupted_waiter_locks_and_writes_nothing(request, lock, held):
    if held:
        request.getfixturevalue("holder")
    stop = threading.Event()
    entered = False
    if not held:
        stop.set()
    with (
        pytest.raises(KeyboardInterrupt),
        exclusive(lock, "lmctl stop", wait=True, say=lambda _: stop.set(), stop=stop),
    ):
        entered = True
    assert not entered
    assert "lmctl stop" not in lock.read_text()


def test_F4_a_full_disk_does_not_keep_the_lock_from_being_held(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with (
        exclusive(tmp_path / "lock", "lmctl apply"),
        pytest.raises(LmctlError, match="it has not said who it is"),
        exclusive(tmp_path / "lock", "lmctl prune"),
    ):
        pass


def test_what_takes_long_lets_others_have_the_lock_and_holds_it_again_after_them(lock):
    entered, leave = threading.Event(), threading.Event()

    def other() -> None:
        with exclusive(lock, "lmctl stop", wait=True):
            entered.set()
            leave.wait(30)

    thread = threading.Thread(target=other)
    with exclusive(lock, "lmctl apply") as held:
        thread.start()
        assert not entered.is_set()
        with held.released():
            assert entered.wait(30)
            assert "`lmctl stop`" in (held_by(lock) or "")
            leave.set()
        thread.join(30)
        assert "`lmctl apply`" in (held_by(lock) or "")
        refused(lock, "E-BUSY")
    assert held_by(lock) is None


def test_F14_a_lock_file_that_goes_while_it_is_let_go_is_noticed(lock):
    with pytest.raises(LmctlError, match="replaced while it was locked"), exclusive(lock, "lmctl apply") as held:
        with held.released():
            lock.unlink()
            lock.touch()
        raise AssertionError


def test_an_error_leaves_without_the_lock(lock):
    def fail() -> None:
        with exclusive(lock, "lmctl apply") as held, held.released(), exclusive(lock, "lmctl stop"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert held_by(lock) is None


def test_a_lock_that_is_soon_free_is_waited_for_unasked(lock, holder):
    threading.Timer(0.3, holder.stdin.close).start()  # after some tries
    with exclusive(lock, "lmctl down", patience=30.0):
        pass


def test_who_only_asks_for_the_holder_keeps_nobody_from_the_lock(lock, monkeypatch):
    """For the moment of that question the lock is taken, and a run that begins then has no patience."""
    real, glances = mutex._taken, iter([False])
    monkeypatch.setattr(mutex, "_taken", lambda descriptor: next(glances, True) and real(descriptor))
    with exclusive(lock, "lmctl apply"):
        assert "lmctl apply" in (held_by(lock) or "")


def test_who_holds_a_lock_is_told_without_taking_it(lock, holder):
    assert f"pid {holder.pid}, `lmctl apply`, since 20" in (held_by(lock) or "")
    assert held_by(lock.with_name("none")) is None
