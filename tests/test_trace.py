"""Lines of --debug: how each question ended, and nothing that could be a secret."""

from __future__ import annotations

import pytest

from lmctl.trace import asking, bare, shown


@pytest.mark.parametrize(
    ("url", "left"),
    [
        ("https://hub.example/o/n/resolve/main/x.gguf", "https://hub.example/o/n/resolve/main/x.gguf"),
        ("https://me:pw@hub.example:8443/x", "https://hub.example:8443/x"),
        ("https://cdn.example/x?Signature=s3cret&k=v", "https://cdn.example/x?…"),
        ("https://cdn.example/x#s3cret", "https://cdn.example/x"),
        ("https://cdn.example?s3cret", "https://cdn.example?…"),
        ("https://hub.example/a@b", "https://hub.example/a@b"),
    ],
)
def test_an_address_loses_user_password_and_query(url, left):
    assert bare(url) == left


def test_a_question_is_told_with_its_end():
    lines: list[str] = []
    with shown(lines.append), asking("GET https://hub.example/x") as ended:
        ended(200)
    (line,) = lines
    assert line.startswith("debug: GET https://hub.example/x -> 200 in ") and line.endswith(" ms")


def test_a_failure_is_told_by_its_kind_and_goes_on():
    lines: list[str] = []
    with pytest.raises(TimeoutError), shown(lines.append), asking("rpc getPID"):
        raise TimeoutError("with a s3cret")
    assert "-> TimeoutError in" in lines[0]
    assert "s3cret" not in lines[0]


def test_nobody_is_told_without_debug():
    lines: list[str] = []
    with shown(lines.append):
        pass
    with asking("GET x") as ended:
        ended(200)
    assert lines == []


def test_what_a_server_chose_is_escaped():
    lines: list[str] = []
    with shown(lines.append), asking("GET http://x/\x1b[31m\n") as ended:
        ended("200 \r\n")
    assert lines[0].isprintable()
