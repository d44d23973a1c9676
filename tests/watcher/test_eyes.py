"""What wakes the watcher: real files, real processes, and a system that tells nothing."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest
from e2e_tools import until

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
