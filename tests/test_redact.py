"""What may leave the machine names neither its user nor its host, and holds no secret."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lmctl.redact import Redactor

HOME = Path("/srv/people/jane-doe")
ENVIRON = {"USER": "jane", "HF_TOKEN": "odd-looking-token", "SOME_PASSWORD": "swordfish", "PATH": "/usr/bin"}
HOST = os.uname().nodename


@pytest.fixture
def redactor() -> Redactor:
    return Redactor(ENVIRON, HOME, ["from-a-file\n"])


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"open {HOME}/models/x.gguf", "open ~/models/x.gguf"),
        ("/home/someone/x and /Users/other/y", "/home/(user)/x and /Users/(user)/y"),
        ("owned by jane, not by janet", "owned by (user), not by janet"),
        ("the folder jane-doe", "the folder (user)"),
        ("token odd-looking-token, swordfish, from-a-file", "token (hidden), (hidden), (hidden)"),
        ("hf_" + "a" * 34, "(hidden)"),
        ("https://me:pw@hub.example/x?Signature=abc&k=v", "https://(hidden)@hub.example/x?(hidden)"),
        ("PATH is /usr/bin", "PATH is /usr/bin"),
    ],
)
def test_names_and_secrets_are_replaced(redactor, text, left):
    assert redactor.text(text) == left


@pytest.mark.skipif(len(HOST) < 2 or HOST == "localhost", reason="this host's name tells nothing")
def test_the_host_is_not_named(redactor):
    assert HOST not in redactor.text(f"listens on {HOST}:80")


def test_every_text_of_a_value_is_looked_at(redactor):
    value = {"where": [f"{HOME}/x", {"jane": True}], "count": 3, "none": None}
    assert redactor.plain(value) == {"where": ["~/x", {"(user)": True}], "count": 3, "none": None}


def test_names_that_tell_nothing_stay():
    assert Redactor({"USER": "root"}, Path("/root")).text("root of the tree") == "root of the tree"


def test_an_empty_secret_replaces_nothing():
    assert Redactor({"HF_TOKEN": "", "API_KEY": "ab"}, Path("/")).text("cab") == "cab"


def test_a_clients_names_are_replaced_wherever_they_stand():
    instead = {"/srv/acmecorp": "(folder 1)", "acme": "(declaration 1)"}
    redactor = Redactor({}, Path("/home/x"), (), instead)
    assert redactor.text("acme, 1 profile (/srv/acmecorp/localmodels.toml), acmeist") == (
        "(declaration 1), 1 profile ((folder 1)/localmodels.toml), acmeist"
    )
