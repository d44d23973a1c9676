"""lmctl's own log: a line for what was done, whole under rotation and beside other writers, and never in the way."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lmctl import logbook
from lmctl.errors import EXIT_CODES, Problem
from lmctl.logbook import ACTS, NAME, Ran, line, tail, write
from lmctl.result import Result


def ran(command: str = "apply", code: int = 0, done: tuple[str, ...] = (), errors: tuple[Problem, ...] = ()) -> Ran:
    return Ran(command, Result(errors=errors, exit_code=code, done=done), 1_800_000_000.0, 1.23456)


def plain(text: str) -> str:
    return text


def test_a_line_tells_when_what_and_how_it_ended():
    told = json.loads(line(ran(done=("done: start program:x",)), plain))
    assert told.pop("at").startswith("2027-01-1")
    assert told.pop("pid") == os.getpid()
    assert told == {
        "command": "apply",
        "exit": 0,
        "seconds": 1.235,
        "changes": ["done: start program:x"],
        "errors": [],
    }


def test_control_characters_are_escaped_and_secrets_hidden():
    problem = Problem("E-HUB", "odd \x1b[31m answer\nwith hf_secret")
    text = line(ran(code=7, errors=(problem,)), lambda text: text.replace("hf_secret", "(hidden)"))
    assert text.count(b"\n") == 1 and text.isascii() and b"\x1b" not in text
    assert json.loads(text)["errors"] == ["E-HUB: odd \x1b[31m answer\nwith (hidden)"]


def test_a_thousand_changes_are_one_readable_line():
    told = json.loads(line(ran(done=tuple(f"done: {n}" for n in range(1000))), plain))
    assert (len(told["changes"]), told["more"]) == (100, 900)


@pytest.mark.parametrize("code", sorted({0, 2, 4, 5, 64, 65, 66}))
def test_what_was_refused_or_found_nothing_to_do_is_not_written(code):
    assert not ran(code=code).counts
    assert ran(code=code, done=("x",)).counts


@pytest.mark.parametrize("code", sorted({*EXIT_CODES.values(), 130, 143} - {4, 5, 64, 65, 66}))
def test_what_failed_on_the_way_is_written_for_commands_that_act(code):
    assert ran(code=code).counts
    assert not ran("plan", code=code).counts
    assert not ran("status", code=code).counts


def test_every_command_that_acts_is_one():
    from lmctl.all_commands import COMMANDS

    assert COMMANDS.keys() >= ACTS


def test_files_turn_over_by_size_and_no_line_is_torn(tmp_path, monkeypatch):
    monkeypatch.setattr(logbook, "_SIZE", 2000)
    for number in range(100):
        write(tmp_path, line(ran(done=(f"done: {number}",)), plain))
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == [NAME, f"{NAME}.1", f"{NAME}.2"]
    assert all((tmp_path / name).stat().st_size <= 2000 for name in files)
    assert all((tmp_path / name).stat().st_mode & 0o777 == 0o600 for name in files)
    numbers = [
        json.loads(one)["changes"] for name in reversed(files) for one in (tmp_path / name).read_text().splitlines()
    ]
    assert numbers[-1] == ["done: 99"]
    assert numbers == [[f"done: {n}"] for n in range(100 - len(numbers), 100)]
    assert [json.loads(one)["changes"] for one in tail(tmp_path, 3)] == numbers[-3:]


def test_writers_side_by_side_lose_no_line(tmp_path):
    lines = [line(ran(done=(f"done: {n}",)), plain) for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda text: write(tmp_path, text), lines))
    assert sorted((tmp_path / NAME).read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_a_line_goes_nowhere_rather_than_through_a_link(tmp_path):
    mine = tmp_path / "mine"
    mine.write_text("mine")
    (tmp_path / NAME).symlink_to(mine)
    write(tmp_path, b"line\n")
    assert mine.read_text() == "mine"
    assert tail(tmp_path, 3) == []


@pytest.mark.parametrize("spoil", ["absent", "pipe", "folder"])
def test_a_log_that_cannot_be_written_keeps_nothing_from_ending(tmp_path, spoil):
    folder = tmp_path / "state"
    if spoil != "absent":
        folder.mkdir()
        os.mkfifo(folder / NAME) if spoil == "pipe" else (folder / NAME).mkdir()
    write(folder, b"line\n")
    assert tail(folder, 3) == []
    assert folder.exists() == (spoil != "absent")


def test_a_full_disk_is_no_matter():
    write(Path("/dev/full"), b"line\n")
