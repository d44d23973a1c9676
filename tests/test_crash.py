"""A defect ends in one line, and in a report that a maintainer can read and that names nobody."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from lmctl import crash, dispatch
from lmctl.paths import Folders

TOKEN = "hf_" + "c" * 34


class Broken:
    """A command with a defect."""

    @staticmethod
    def run(context, args):
        secret = TOKEN
        raise RuntimeError(f"cannot do {context.folders.home}/x with {secret}")


@pytest.fixture
def broken(monkeypatch, home, tmp_path):
    monkeypatch.setattr(dispatch, "load", lambda name: Broken)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.chdir(tmp_path)
    return home


def reports(home: Path) -> list[Path]:
    return crash.reports(Folders.of({}, home))


def test_a_defect_is_one_line_with_the_report_and_what_to_do_with_it(broken, capsys):
    assert dispatch.dispatch(["status"]) == 1
    err = capsys.readouterr().err
    (report,) = reports(broken)
    assert err.count("\n") == 1
    assert err.startswith(f"error[E-BUG]: RuntimeError: cannot do {broken}/x with (hidden) — a defect of lmctl: ")
    assert str(report) in err and "`lmctl doctor --bundle FILE`" in err


def test_the_report_tells_where_it_happened_and_names_nobody(broken, capsys):
    dispatch.dispatch(["status"])
    (report,) = reports(broken)
    assert report.stat().st_mode & 0o777 == 0o600
    assert report.parent.stat().st_mode & 0o777 == 0o700
    text = report.read_text()
    told = json.loads(text)
    assert (told["schema"], told["command"], told["python"]) == ("crash/1", "status", sys.version)
    assert told["traceback"][-1] == "RuntimeError: cannot do ~/x with (hidden)"
    assert any(line.strip().startswith("File ") and "dispatch.py" in line for line in told["traceback"])
    for name in (TOKEN, str(broken), os.uname().nodename):
        assert name not in text


@pytest.mark.parametrize("where", ["default", "HF_TOKEN_PATH", "machine.toml"])
def test_the_token_that_a_file_holds_is_hidden_whatever_it_looks_like(broken, monkeypatch, capsys, where):
    token = "a-token_that.looks-like+nothing"
    files = {"default": ".cache/huggingface/token", "HF_TOKEN_PATH": "my/token", "machine.toml": ".config/lmctl/token"}
    file = broken / files[where]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"{token}\n")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HF_HOME", raising=False)
    if where == "HF_TOKEN_PATH":
        monkeypatch.setenv("HF_TOKEN_PATH", str(file))
    if where == "machine.toml":
        (broken / ".config/lmctl/machine.toml").write_text('[hub]\ntoken_file = "token"\n')
    monkeypatch.setitem(globals(), "TOKEN", token)
    dispatch.dispatch(["status", "--debug"])
    (report,) = reports(broken)
    assert token not in report.read_text()
    assert token not in capsys.readouterr().err


def test_debug_shows_the_traceback_without_the_secret(broken, capsys):
    assert dispatch.dispatch(["status", "--debug"]) == 1
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert TOKEN not in err


def test_the_latest_ten_reports_are_kept(broken, capsys):
    folder = Folders.of({}, broken).state
    folder.mkdir(parents=True)
    for number in range(15):
        (folder / f"crash-20200101T0000{number:02}-1.json").write_text("{}")
    dispatch.dispatch(["status"])
    assert len(reports(broken)) == 10
    assert reports(broken)[0].name > "crash-2021"


@pytest.mark.parametrize("value", ["", "relative", "/proc/none"])
def test_without_a_place_for_it_the_line_says_how_to_see_more(broken, capsys, monkeypatch, value):
    monkeypatch.setattr(dispatch, "_context", lambda name, args: Broken.run(None, None))
    monkeypatch.setenv("HOME", value)
    assert dispatch.dispatch(["status"]) == 1
    assert "run it with --debug and report what it prints" in capsys.readouterr().err
