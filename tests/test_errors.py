"""Every code has its exit code, every problem is one line, and nothing unprintable gets out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmctl.errors import EXIT_CODES, WARNINGS, LmctlError, Place, Problem, escape

SOURCE = Path(__file__).parent.parent / "lmctl"
USED = {code for file in SOURCE.rglob("*.py") for code in re.findall(r'"([EW]-[A-Z-]+[A-Z])"', file.read_text("utf-8"))}


@pytest.mark.parametrize("code", sorted(USED))
def test_every_code_that_is_used_is_known(code: str):
    assert code in EXIT_CODES or code in WARNINGS


def test_exit_codes_are_those_that_are_promised():
    assert set(EXIT_CODES.values()) == {1, 4, 5, 6, 7, 8, 9, 64, 65, 66, 130}
    assert len(EXIT_CODES) == 62


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain äöü ☃ 日本", "plain äöü ☃ 日本"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\r\t\0", "a\\x0ab\\x0d\\x09\\x00"),
        ("\x7f\x85\x9b", "\\x7f\\x85\\x9b"),
        ("\u202e\u200b\ufeff", "\\u202e\\u200b\\ufeff"),
        ("\u061c\u180e\u2066\u00ad", "\\u061c\\u180e\\u2066\\xad"),
        ("\u2028\u2029\u00a0", "\\u2028\\u2029\\xa0"),
        ("\U000e0041\U000e0001", "\\U000e0041\\U000e0001"),
        ("\udcff", "\\udcff"),
        ("\ue000\U0010ffff", "\\ue000\\U0010ffff"),
    ],
    ids=["printable", "ESC", "controls", "C1", "bidi", "format", "separators", "tags", "surrogate", "private"],
)
def test_what_cannot_be_seen_is_escaped(text: str, shown: str):
    assert escape(text) == shown


def test_long_text_is_cut():
    assert escape("x" * 300) == "x" * 199 + "…"
    assert escape("x" * 200) == "x" * 200
    assert escape("abcdef", 4) == "abc…"


@given(st.text(alphabet=st.characters(), max_size=300))
def test_escaped_text_is_printable_and_one_line(text: str):
    assert escape(text).isprintable()
    assert len(escape(text, 400).splitlines()) <= 1


def test_a_problem_reads_code_place_what_and_what_to_do_next():
    place = Place("profiles/code.toml", 4, 1)
    problem = Problem("E-PORT", "port 8081 is taken", "stop it", place)
    assert str(problem) == "error[E-PORT]: profiles/code.toml:4:1: port 8081 is taken — stop it"
    assert str(Problem("W-MEMORY", "much")) == "warning[W-MEMORY]: much"
    assert str(Place("a\nb.toml")) == "a\\x0ab.toml"
    assert str(Place("a.toml", 3)) == "a.toml:3"


def test_the_first_of_several_problems_decides():
    error = LmctlError.of([Problem("E-HASH", "a"), Problem("E-NETWORK", "b", "c")])
    assert (error.code, error.exit_code) == ("E-HASH", 6)
    assert str(error) == "error[E-HASH]: a\nerror[E-NETWORK]: b — c"
