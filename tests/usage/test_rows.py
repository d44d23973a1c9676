"""What is stored of a request: names and numbers, and never what was said."""

from __future__ import annotations

import pytest

from lmctl.usage.rows import COLUMNS, Row, client, values

REFERENCE = (
    "id at profile model backend endpoint status tokens_in tokens_cached tokens_out ttft_ms duration_ms tokens_per_s"
    " target client partial"
)


def test_a_row_has_the_columns_of_the_reference_and_none_for_what_was_said():
    assert Row._fields == COLUMNS == tuple(REFERENCE.split())


@pytest.mark.parametrize(
    ("agent", "shown"),
    [
        (None, None),
        ("", None),
        (" \t ", None),
        ("curl/8.5.0", "curl/8.5.0"),
        ("OpenAI/Python 2.1.0 (my laptop)", "OpenAI/Python"),
        ("a" * 500, "a" * 64),
        ("evil\x1b[31m\x00", "evil?[31m?"),
        ("\ud800agent", "?agent"),
    ],
)
def test_a_client_is_the_first_word_of_its_user_agent(agent, shown):
    assert client(agent) == shown


def test_a_key_in_a_user_agent_is_not_kept():
    told = client("sk-proj-ABCDEFGHIJKLMNOP0123456789")
    assert told is not None and told.startswith("(hidden ") and "ABCDEFG" not in told


def test_what_no_column_can_hold_is_untold():
    row = Row("a", 5.0, None, "m" * 999, None, "/x", 200, tokens_in=-1, tokens_out=2**60, ttft_ms=float("inf"))
    stored = dict(zip(COLUMNS, values(row), strict=True))
    assert (stored["tokens_in"], stored["tokens_out"], stored["ttft_ms"]) == (None, None, None)
    assert stored["model"] == "m" * 200 and stored["client"] is None and stored["target"] == "local"
