"""What wakes the watcher: real files, real processes, and a system that tells nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from e2e_tools import HUMBLE, until

from lmctl.watcher import eyes as module
from lmctl.watcher.eyes import Eyes
from lmctl.watcher.places import places


@pytest.fixture
def root(tmp_path):
    return tmp_path.resolve()


@pytest.fixture
def eyes() -> Iterator[Eyes]:
    eyes = Eyes()
    yield eyes
    eyes.close()


def heard(eyes: Eyes) -> set[str]:
    """Return the files that changed, once some did."""
    found: set[str] = set()

    def some() -> bool:
        eyes.wait(1.0)
        found.update(eyes.taken()[0])
        return bool(found)

    until(some)
    return found


def begun(eyes: Eyes) -> None:
    """Wait until other places are listened to."""

    def armed() -> bool:
        eyes.wait(1.0)
        return eyes.taken()[2]

    until(armed)


def test_a_file_that_counts_is_heard_and_others_wake_nobody(root, eyes):
    eyes.watch(places([root / "a.toml"], root))
    begun(eyes)
    (root / "b.toml").write_text("x")
    (root / "a.toml").write_text("x")
    assert heard(eyes) == {f"{root}/a.toml"}


def test_other_places_are_listened_to_and_said_to_be(root, eyes):
    (root / "x").mkdir()
    eyes.watch(places([root / "a"], root))
    begun(eyes)
    eyes.watch(places([root / "x/b"], root))
    begun(eyes)
    (root / "a").write_text("x")
    (root / "x/b").write_text("x")
    assert heard(eyes) == {f"{root}/x/b"}


def test_F20_a_folder_that_was_replaced_is_listened_to_anew(root, eyes):
    where = root / "x"
    where.mkdir()
    eyes.watch(places([where / "a"], root))
    begun(eyes)
    where.rename(root / "y")
    where.mkdir()
    eyes.watch(places([where / "a"], root))
    begun(eyes)
    (where / "a").write_text("x")
    assert f"{where}/a" in heard(eyes)


def test_F24_where_notifications_fail_it_is_said_and_files_are_looked_at(root, eyes, monkeypatch):
    real = module._changes

    def limited(*given, polling):
        if not polling:
            raise OSError("inotify watch limit reached")
        return real(*given, polling=polling)

    monkeypatch.setattr(module, "_changes", limited)
    eyes.watch(places([root / "a"], root))
    eyes.wait(60.0)
    assert eyes.taken()[1] == "inotify watch limit reached"
    begun(eyes)
    (root / "a").write_text("x")
    assert heard(eyes) == {f"{root}/a"}


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="only time tells of it here")
def test_a_process_that_ends_wakes_once(eyes):
    with subprocess.Popen(["sleep", "600"]) as process:
        eyes.follow([process.pid])
        assert not eyes.wait(0.0)
        process.kill()
        assert eyes.wait(60.0)
        assert not eyes.wait(0.0)


def test_a_process_that_is_followed_no_more_wakes_nobody(eyes):
    with subprocess.Popen(["sleep", "600"]) as process:
        eyes.follow([process.pid])
        eyes.follow([])
        process.kill()
        process.wait()
        assert not eyes.wait(0.0)


def test_F23_what_nobody_asks_for_is_remembered_in_bounds_and_holds_up_nobody(eyes):
    for number in range(100_000):
        eyes.note([f"/x/{number}.toml"])
    files, _, _ = eyes.taken()
    assert 0 < len(files) <= 64
    assert eyes.wait(60.0) is False


# a folder that may not be listened to, as somebody to whom permissions apply
_SHUT = """
import sys
from pathlib import Path
from lmctl.watcher.eyes import Eyes
from lmctl.watcher.places import places

folder = Path(sys.argv[1])
eyes = Eyes()

def until(what):
    for _ in range(120):
        eyes.wait(1.0)
        files, _, begun = eyes.taken()
        if (files if what == "heard" else begun):
            print(what, flush=True)
            return
    raise SystemExit(f"never {what}")

where = places([folder / "a.toml"], folder)
eyes.watch(where)
until("begun")
folder.chmod(0)
until("begun")
eyes.watch(where)
until("begun")
folder.chmod(0o700)
eyes.watch(where)
until("begun")
(folder / "a.toml").write_text("x")
until("heard")
eyes.close()
"""


def test_F22_a_folder_that_is_shut_and_opened_again_is_listened_to_again(root):
    (root / "x").mkdir()
    argv = [*HUMBLE, sys.executable, "-c", _SHUT, str(root / "x")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=600)
    assert done.stdout.split() == ["begun", "begun", "begun", "begun", "heard"], done.stderr
