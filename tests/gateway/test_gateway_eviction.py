"""Who makes way: the fewest, in the order in which they are given."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lmctl.gateway.eviction import victims

names = st.sampled_from("abcdefg")


@given(st.dictionaries(names, st.integers(1, 9)), st.integers(1, 9), st.integers(0, 40), st.randoms())
def test_what_stays_fits_and_nobody_goes_who_need_not(sizes, asked, memory, random):
    order = random.sample(sorted(sizes), len(sizes))
    evictable = order[: random.randint(0, len(order))]

    def fits(running):
        return sum(({**sizes, "new": asked})[name] for name in running) <= memory

    there = frozenset(sizes)
    gone = victims("new", there, evictable, fits)
    if gone is None:
        assert not fits(there - {*evictable} | {"new"})
    else:
        assert {*gone} <= {*evictable} and fits(there - {*gone} | {"new"})
        assert not any(fits(there - ({*gone} - {name}) | {"new"}) for name in gone)


def test_what_is_not_known_to_fit_moves_nobody():
    assert victims("new", frozenset("ab"), ["a", "b"], lambda running: None) == ()
