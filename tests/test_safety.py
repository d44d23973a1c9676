"""Each rule alone keeps a file; all of them let it go only together."""

from __future__ import annotations

import pytest

from lmctl.ledger import Owned
from lmctl.record import replace
from lmctl.safety import Facts, keeps
from lmctl.spec import Signature

DAY = 86400.0
ROW = Owned("/blobs/a", "blob", "o/m@main:Q4", Signature(1, 2, 3, 4), "a" * 64, 0.0, 0.0, unreferenced_since=0.0)
GOES = Facts(
    unchanged=True,
    referenced=False,
    others=frozenset(),
    served=False,
    outside=False,
    linked=None,
    holders=(),
    whole=True,
    declared=True,
    after=7 * DAY,
    now=8 * DAY,
)


def test_a_file_that_no_rule_keeps_goes():
    assert keeps(ROW, GOES) is None


@pytest.mark.parametrize(
    ("row", "facts", "why"),
    [
        ({"kind": "adopted"}, {}, "not brought by lmctl"),
        ({"kind": "local"}, {}, "not brought by lmctl"),
        ({"protect": True}, {}, "protected"),
        ({}, {"unchanged": False}, "changed since lmctl brought it"),
        ({}, {"referenced": True}, "declared"),
        ({}, {"outside": True}, "outside the Hugging Face cache as it is configured now"),
        ({}, {"declared": False}, "nothing is declared: that never means remove everything"),
        ({}, {"whole": False}, "this run names or leaves out profiles"),
        ({}, {"others": None}, "another declaration on this machine cannot be read"),
        ({}, {"others": frozenset(["a" * 64])}, "another declaration refers to it"),
        ({}, {"linked": "its snapshots cannot be read"}, "its snapshots cannot be read"),
        ({}, {"served": True}, "a program's command names it"),
        ({}, {"holders": (4, 7)}, "in use by pid 4, 7"),
        ({"unreferenced_since": None}, {}, "unreferenced, goes in 7d (lmctl prune --now)"),
        ({"unreferenced_since": 2 * DAY}, {}, "unreferenced, goes in 1d (lmctl prune --now)"),
        ({"unreferenced_since": 9 * DAY}, {}, "unreferenced, goes in 8d (lmctl prune --now)"),
    ],
)
def test_each_rule_keeps_it_alone(row, facts, why):
    assert keeps(replace(ROW, **row), replace(GOES, **facts)) == why


def test_the_waiting_time_alone_can_be_waived():
    waived = replace(GOES, after=0.0)
    assert keeps(replace(ROW, unreferenced_since=None), waived) is None
    assert keeps(ROW, replace(waived, referenced=True)) == "declared"


def test_it_goes_to_the_second():
    assert keeps(ROW, replace(GOES, now=7 * DAY)) is None
    assert keeps(ROW, replace(GOES, now=7 * DAY - 1)) is not None
