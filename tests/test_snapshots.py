"""What is kept of an apply: whole or not at all, bounded, private, and without secrets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lmctl import snapshots
from lmctl.errors import LmctlError
from lmctl.generations import KEPT
from lmctl.snapshots import LOCK

FILES = {"localmodels.toml": b"version = 1\n", "profiles/a b.toml": b'model = "o/m"\n', LOCK: b"version = 1\n"}


def kept(state: Path) -> list[str]:
    return sorted(path.name for path in (state / "snapshots").glob("*"))


def test_what_was_kept_is_read_to_the_byte(tmp_path):
    snapshots.keep(tmp_path, 7, FILES)
    assert snapshots.read(tmp_path, 7) == FILES
    assert snapshots.numbers(tmp_path) == (7,)


def test_nobody_else_may_read_it(tmp_path):
    snapshots.keep(tmp_path, 7, FILES)
    paths = [tmp_path / "snapshots", *(tmp_path / "snapshots").rglob("*")]
    assert {path.relative_to(tmp_path / "snapshots/7").as_posix() for path in paths if path.is_file()} == {*FILES}
    for path in paths:
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600)


def test_the_oldest_go(tmp_path):
    for number in range(1, KEPT + 3):
        snapshots.keep(tmp_path, number, {LOCK: b""})
    assert snapshots.numbers(tmp_path) == tuple(range(3, KEPT + 3))


def test_what_an_apply_left_that_the_ledger_never_knew_is_replaced(tmp_path):
    snapshots.keep(tmp_path, 7, FILES)
    snapshots.keep(tmp_path, 7, {LOCK: b"other"})
    assert snapshots.read(tmp_path, 7) == {LOCK: b"other"}


def test_F1_a_killed_one_leaves_nothing_that_counts_and_the_next_takes_it_away(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from lmctl import snapshots\n"
        "write = snapshots.write_atomic\n"
        "def written(path, content):\n"
        "    write(path, content)\n"
        "    if path.name == 'localmodels.toml': os.kill(os.getpid(), 9)\n"
        "snapshots.write_atomic = written\n"
        "snapshots.keep(Path(sys.argv[1]), 7, {'localmodels.toml': b'', 'localmodels.lock': b''})\n"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == -9
    assert (snapshots.numbers(tmp_path), kept(tmp_path)) == ((), [".7"])
    snapshots.keep(tmp_path, 8, FILES)
    assert kept(tmp_path) == ["8"]


@pytest.mark.parametrize(
    "content", [b'description = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"', b"# once sk-abcdefghijklmnopqrst\xff\n"]
)
def test_a_file_with_what_looks_like_a_secret_is_never_copied(tmp_path, content):
    snapshots.keep(tmp_path, 7, {**FILES, "profiles/b.toml": content})
    assert not (tmp_path / "snapshots").exists()


@pytest.mark.parametrize("name", ["/etc/x.toml", "../x.toml", "a/../../x.toml"])
def test_nothing_is_written_outside(tmp_path, name):
    snapshots.keep(tmp_path, 7, {**FILES, name: b""})
    assert os.listdir(tmp_path) == []


def test_one_that_is_not_there_is_named_with_those_that_are(tmp_path):
    snapshots.keep(tmp_path, 7, FILES)
    with pytest.raises(LmctlError, match=r"generation 8 has no snapshot") as caught:
        snapshots.read(tmp_path, 8)
    assert (caught.value.code, caught.value.problems[0].fix) == (
        "E-USAGE",
        "see `lmctl history`; there are snapshots of: 7",
    )


def test_one_that_lost_its_lock_is_not_gone_back_to(tmp_path):
    snapshots.keep(tmp_path, 7, {name: content for name, content in FILES.items() if name != LOCK})
    with pytest.raises(LmctlError, match=r"lacks localmodels\.lock"):
        snapshots.read(tmp_path, 7)
    snapshots.keep(tmp_path, 8, FILES)
    (tmp_path / f"snapshots/8/{LOCK}").unlink()
    (tmp_path / f"snapshots/8/{LOCK}").symlink_to("/dev/zero")
    with pytest.raises(LmctlError):
        snapshots.read(tmp_path, 8)


def test_F4_one_that_cannot_be_written_whole_leaves_nothing(tmp_path):
    with pytest.raises(LmctlError):
        snapshots.keep(tmp_path, 7, {"a": b"", "a/b": b""})
    assert kept(tmp_path) == []


def test_F4_one_of_which_the_ledger_did_not_hear_goes_again(tmp_path):
    snapshots.keep(tmp_path, 7, FILES)
    with pytest.raises(LmctlError), snapshots.keeping(tmp_path) as keep:
        keep(8, FILES)
        raise LmctlError("E-SPACE", "no room for the ledger")
    assert kept(tmp_path) == ["7"]


def test_F3_a_disk_that_refuses_is_named(tmp_path):
    (tmp_path / "snapshots").write_text("")
    with pytest.raises(LmctlError) as caught:
        snapshots.keep(tmp_path, 7, FILES)
    assert caught.value.exit_code == 8
