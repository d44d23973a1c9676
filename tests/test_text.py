"""Words for people."""

from __future__ import annotations

import pytest

from lmctl.text import PLAIN, Style, human_bytes, human_time, table, width


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (19851335840, "18.5 GiB"),
        (5 << 50, "5120.0 TiB"),
    ],
)
def test_bytes_read_as_people_say_them(count: int, text: str):
    assert human_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (8.4, "8s"),
        (59.6, "1m"),
        (200, "3m 20s"),
        (3600, "1h"),
        (18120, "5h 2m"),
        (349200, "4d 1h"),
        (86400, "1d"),
    ],
)
def test_durations_read_as_people_say_them(seconds: float, text: str):
    assert human_time(seconds) == text


def test_a_table_aligns_numbers_right_and_words_left():
    assert table([["NAME", "PID"], ["a", "7"], ["long", "-"]]) == "NAME  PID\na       7\nlong    -\n"
    assert table([]) == ""
    assert table([["NAME"]]) == "NAME\n"


def test_without_colour_the_text_is_the_same():
    painted = Style(colour=True)
    for name in ("bold", "dim", "red", "green", "yellow", "cyan"):
        plain, coloured = getattr(PLAIN, name)("x"), getattr(painted, name)("x")
        assert plain == "x"
        assert coloured.startswith("\x1b[") and coloured.endswith("m" + "x\x1b[0m")
    assert painted.red("") == ""


@pytest.mark.parametrize(("columns", "found"), [("123", 123), ("", 80), ("wide", 80), ("-1", 80)])
def test_the_width_is_known_without_a_terminal(columns: str, found: int, monkeypatch: pytest.MonkeyPatch):
    def no_terminal(*_: object) -> None:
        raise OSError

    monkeypatch.setattr("os.get_terminal_size", no_terminal)
    assert width({"COLUMNS": columns}) == found
    assert width({}) == 80
