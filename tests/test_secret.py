"""Values without secrets: told and kept, and still told from each other."""

from __future__ import annotations

import pytest

from lmctl.secret import hidden

LONG, OTHER = "sk-" + "A" * 40, "hf_" + "b" * 34


@pytest.mark.parametrize(
    ("value", "name", "left"),
    [
        ("plain", "model", "plain"),
        (8192, "token", 8192),
        ("swordfish", "token", "(hidden)"),
        ("swordfish", "--api-key", "(hidden)"),
        (["swordfish"], "--api-key", "(hidden)"),
        (["x", "--api-key", "swordfish", "-v"], "command", ["x", "--api-key", "(hidden)", "-v"]),
        (["x", "--api-key=swordfish"], "command", ["x", "--api-key=(hidden)"]),
        (["x", "--api-key", "--other", "swordfish"], "command", ["x", "--api-key", "--other", "swordfish"]),
        (["x", "--max-tokens", "12"], "command", ["x", "--max-tokens", "12"]),
        ({"password": "swordfish", "deep": [{"a": 1}]}, "", {"password": "(hidden)", "deep": [{"a": 1}]}),
        (None, "secret", None),
    ],
)
def test_what_is_called_a_secret_is_hidden(value, name, left):
    assert hidden(value, name) == left
    assert hidden(hidden(value, name), name) == left


def test_what_looks_like_a_secret_is_told_from_another_one():
    one, other = hidden(["x", f"Bearer {LONG}"]), hidden(["x", f"Bearer {OTHER}"])
    assert one != other and one == hidden(["x", f"Bearer {LONG}"])
    assert one[1].startswith("Bearer (hidden ") and hidden(one) == one
    assert LONG[5:] not in str(one) and OTHER[5:] not in str(other)
