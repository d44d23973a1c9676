"""The end of a log, as it may be shown on a terminal."""

from __future__ import annotations

from pathlib import Path

from lmctl import logtail


def words(folder: Path, content: bytes) -> tuple[str, ...]:
    path = folder / "log"
    path.write_bytes(content)
    return logtail.last_words(path)


def test_F75_the_last_twenty_lines_are_shown_and_an_unfinished_one_is_the_last(tmp_path):
    content = b"".join(b"line %d\n\n" % n for n in range(50)) + b"and half"
    assert words(tmp_path, content) == (*(f"line {n}" for n in range(31, 50)), "and half")


def test_F75_what_could_move_the_cursor_is_escaped_and_long_lines_are_cut(tmp_path):
    (first, second) = words(tmp_path, b"\x1b[2J\0\xff red\rover\n" + b"x" * 5000)
    assert first == "\\x1b[2J\\x00\N{REPLACEMENT CHARACTER} red\\x0dover"
    assert (len(second), second[-1]) == (200, "…")


def test_F79_no_more_is_read_than_the_end_of_a_large_log(tmp_path):
    found = words(tmp_path, b"first\n" + b"y" * (1 << 20) + b"\nlast\n")
    assert (len(found), found[-1]) == (2, "last")
    assert "first" not in found


def test_what_the_launcher_says_counts_only_where_the_program_said_nothing(tmp_path):
    refusal = b"lmctl: p-1 is not started: 5 starts within 10 minutes\n"
    assert words(tmp_path, b"out of memory\n" + refusal) == ("out of memory",)
    assert words(tmp_path, refusal) == ("lmctl: p-1 is not started: 5 starts within 10 minutes",)


def test_without_a_log_there_are_no_last_words(tmp_path):
    assert logtail.last_words(tmp_path / "none") == ()
