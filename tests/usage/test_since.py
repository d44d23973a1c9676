"""A moment as people type it."""

from __future__ import annotations

import pytest
from counted import NOON

from lmctl.errors import LmctlError
from lmctl.usage.since import moment

MIDNIGHT = NOON - 12 * 3600


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("today", MIDNIGHT),
        ("yesterday", MIDNIGHT - 86400),
        ("7d", NOON - 7 * 86400),
        ("12h", NOON - 12 * 3600),
        ("2026-05-01", 1777593600.0),
        ("2024-02-29", 1709164800.0),
    ],
)
def test_a_moment_is_read(text, at):
    assert moment(text, NOON) == at


@pytest.mark.parametrize(
    "text",
    ["", "now", "2026-13-01", "2025-02-29", "01.05.2026", "7", "-7d", "0d", "2026-05-01\n", "٢٠٢٦-٠٥-٠١", "9999999d"],
)
def test_anything_else_is_refused_with_what_to_type(text):
    with pytest.raises(LmctlError, match="is no date") as refused:
        moment(text, NOON)
    assert refused.value.code == "E-USAGE"
    assert "2026-01-31, today, yesterday" in (refused.value.problems[0].fix or "")
