"""Tokens of streams that were cut: counted afterwards by the engine's own tokenizer, of text that is then forgotten."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from lmctl.gateway import recount
from lmctl.gateway.accounting import Counts
from lmctl.gateway.recount import Kept, text


def chat(**delta: object) -> bytes:
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta}]}).encode() + b"\n\n"


STREAM = (
    chat(role="assistant", content=None)
    + chat(reasoning_content="Hm")
    + chat(content="Hel")
    + chat(content="lo\n\nyou")
)


def test_what_a_stream_said_is_the_text_of_its_events():
    assert text(STREAM + b'data: {"choices": [{"delta": {"cont') == "HmHello\n\nyou"
    assert text(b'data: {"choices": [{"text": "one"}]}\n\ndata: {"choices": [{"text": " two"}]}\n\n') == "one two"
    assert text(b"data: [1]\n\ndata: {}\n\n: comment\n\ndata: [DONE]\n\n") == ""


def counted(body: dict[str, Any], answers: dict[str, Any], stream: bytes = STREAM) -> tuple[Counts, list[Any]]:
    asked = []

    async def ask(path: str, told: Any) -> Any:
        asked.append((path, told))
        return answers.get(path)

    return asyncio.run(recount.counts(stream, body, ask)), asked


def test_a_chat_is_rendered_and_both_sides_are_counted():
    messages = [{"role": "user", "content": "Hi"}]
    answers = {"/apply-template": {"prompt": "<user>Hi"}, "/tokenize": {"tokens": [1, 2, 3]}}
    told, asked = counted({"messages": messages, "max_tokens": 9}, answers)
    assert told == Counts(3, None, 3)
    assert asked == [
        ("/apply-template", {"messages": messages}),
        ("/tokenize", {"content": "<user>Hi", "add_special": True, "parse_special": True}),
        ("/tokenize", {"content": "HmHello\n\nyou"}),
    ]


@pytest.mark.parametrize(
    "answers", [{}, {"/tokenize": {}}, {"/apply-template": {"prompt": 1}}, {"/tokenize": {"tokens": 3}}]
)
def test_what_an_engine_does_not_tell_is_not_known(answers):
    assert counted({"messages": []}, answers)[0] == Counts()


def test_a_stream_that_said_nothing_has_no_tokens():
    assert counted({"prompt": "x"}, {"/tokenize": {"tokens": [1]}}, b"")[0] == Counts(1, None, 0)


def test_of_all_streams_together_only_so_much_is_kept(monkeypatch):
    monkeypatch.setattr(recount, "BUDGET", 10)
    one, other = Kept(), Kept()
    one.add(b"12345678")
    other.add(b"123")
    assert other.take() is None
    assert one.take() == b"12345678"
    third = Kept()
    third.add(b"1234567890")
    assert third.take() == b"1234567890"
