"""The lines of a log, also one that has not ended."""

from __future__ import annotations

from itertools import islice

import pytest

from lmctl.commands.logs import _follow, _tail


@pytest.mark.parametrize(
    ("content", "shown", "whole"),
    [
        (b"", [], []),
        (b"a\nb\n", ["a", "b"], ["a", "b"]),
        (b"a\nlast words", ["a", "last words"], ["a"]),
        (b"last words", ["last words"], []),
    ],
    ids=["empty", "ended", "not-ended", "one-line"],
)
def test_a_last_line_without_an_end_is_shown_but_held_back_while_following(tmp_path, content, shown, whole):
    path = tmp_path / "log"
    path.write_bytes(content)
    assert _tail(path, 100, whole=False) == (shown, len(content))
    assert _tail(path, 100, whole=True) == (whole, content.rfind(b"\n") + 1)
    assert _tail(path, 1, whole=False)[0] == shown[-1:]


def test_a_followed_line_comes_whole_or_when_nothing_more_is_said(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"half")
    lines = _follow(path, [], 0)
    with path.open("ab") as file:
        file.write(b" and half\nlast words")
    assert list(islice(lines, 2)) == ["half and half", "last words"]
    with path.open("ab") as file:
        file.write(b"\nmore\n\n")
    assert list(islice(lines, 2)) == ["more", ""]


def test_what_was_held_back_is_shown_when_the_file_is_replaced(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"one\nhalf")
    lines = _follow(path, [], 0)
    assert next(lines) == "one"
    path.unlink()
    path.write_bytes(b"new\n")
    assert list(islice(lines, 2)) == ["half", "new"]
