"""The scanner sees the same keys as tomllib, and says where they stand."""

from __future__ import annotations

import tomllib

import pytest
import tomlkit
from hypothesis import given
from hypothesis import strategies as st

from lmctl.config.positions import Positions, parse_key

KEYS = st.one_of(st.from_regex(r"[A-Za-z0-9_-]{1,6}", fullmatch=True), st.text(max_size=5))
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
SCALARS = st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False), TEXT, st.datetimes())
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(KEYS, inner, max_size=3)),
    max_leaves=12,
)


def paths(value, path=()):
    """Every path of a tree."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from paths(item, (*path, key))


@given(st.dictionaries(KEYS, VALUES, max_size=5))
def test_every_key_that_tomllib_sees_has_a_place(tree):
    text = tomlkit.dumps(tree)
    positions = Positions(text)
    assert positions.error is None
    assert set(positions.offsets) == set(paths(tomllib.loads(text)))


@given(st.text(st.sampled_from(list("ab=[]{}.,'\"#\n\\ 1")), max_size=40))
def test_whatever_tomllib_reads_the_scanner_reads_alike(text):
    positions = Positions(text)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert positions.error is None
    assert set(positions.offsets) == set(paths(tree))


TEXT_WITH_EVERYTHING = '''\
# comment
version = 1 # more
"quoted key" = 'x'
a.b . "c d" = [1, [2, # [
   3], { e = """
]""", f.g = 1 }]
[t.u]
k = \'\'\'
[not a table]\'\'\'
[[list]]
x = 1
  [list.sub]
  y = 2
[[list]]
x = 1979-05-27 07:32:00
'''


@pytest.mark.parametrize(
    ("path", "line", "column"),
    [
        (("version",), 2, 1),
        (("quoted key",), 3, 1),
        (("a", "b", "c d"), 4, 1),
        (("a", "b", "c d", 0), 4, 16),
        (("a", "b", "c d", 1, 1), 5, 4),
        (("a", "b", "c d", 2, "e"), 5, 10),
        (("a", "b", "c d", 2, "f", "g"), 6, 7),
        (("t", "u"), 7, 1),
        (("t", "u", "k"), 8, 1),
        (("list", 0, "x"), 11, 1),
        (("list", 0, "sub", "y"), 13, 3),
        (("list", 1), 14, 1),
        (("list", 1, "x"), 15, 1),
        (("list", 1, "missing"), 14, 1),
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["unix", "dos"])
def test_places(path, line, column, newline):
    text = TEXT_WITH_EVERYTHING.replace("\n", newline)
    assert Positions(text).find(path) == (line, column)
    assert set(Positions(text).offsets) == set(paths(tomllib.loads(text)))


def test_columns_count_characters():
    assert Positions("x = { 'é😀' = 1, y = 2 }").find(("x", "y")) == (1, 17)


def test_keys_of_the_command_line():
    assert parse_key('profiles."a.b".ctx') == ("profiles", "a.b", "ctx")
