"""Tokens of a stream that ended before its engine told them: counted by the engine's own tokenizer, afterwards.

llama.cpp renders a chat and splits text into tokens on demand (`/apply-template`, `/tokenize`). Nothing is kept of a
stream that ended well, and of all streams together no more than `BUDGET` bytes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import orjson

from lmctl.gateway.accounting import Counts
from lmctl.spec import Json

BACKENDS = frozenset(["llama.cpp"])  # those that answer both paths
ENDPOINTS = frozenset(["chat", "completions"])
BUDGET = 32 << 20  # bytes

Ask = Callable[[str, Mapping[str, Json]], Awaitable[Mapping[str, Any] | None]]  # path and body; None: no answer

_RENDERED = ("messages", "tools", "tool_choice", "chat_template_kwargs", "add_generation_prompt")
_SPOKEN = ("content", "reasoning_content")


class Kept:
    """What has passed of one stream, as far as there is room for it among all."""

    _all = 0  # bytes of every stream

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size, self._whole = 0, True

    def add(self, data: bytes) -> None:
        """Keep a part."""
        if not self._whole:
            return
        if Kept._all + len(data) > BUDGET:
            self._drop()
            self._whole = False
            return
        Kept._all += len(data)
        self._size += len(data)
        self._parts.append(data)

    def take(self) -> bytes | None:
        """Return what has passed and let go of it; None where it was too much."""
        found = b"".join(self._parts) if self._whole else None
        self._drop()
        return found

    def _drop(self) -> None:
        Kept._all -= self._size
        self._parts, self._size = [], 0


def text(stream: bytes) -> str:
    """Return what the events of a chat or a completion said; what is no event of one says nothing."""
    return "".join(_said(stream))


def _said(stream: bytes) -> Iterator[str]:
    for line in stream.splitlines():
        if not line.startswith(b"data: {"):
            continue
        try:
            choices = orjson.loads(line[6:]).get("choices")
        except orjson.JSONDecodeError:
            continue
        for choice in choices if isinstance(choices, list) else ():
            if isinstance(choice, dict):
                delta = choice.get("delta")
                spoken = [delta.get(key) for key in _SPOKEN] if isinstance(delta, dict) else [choice.get("text")]
                yield from (one for one in spoken if isinstance(one, str))


async def counts(stream: bytes, body: Mapping[str, Json], ask: Ask) -> Counts:
    """Return the tokens of a request and of what its stream said; None for what nobody tells."""
    tokens_in = None
    if "messages" in body:
        rendered = await ask("/apply-template", {key: body[key] for key in _RENDERED if key in body})
        prompt = rendered.get("prompt") if rendered is not None else None
    else:
        prompt = body.get("prompt")
    if isinstance(prompt, str):
        tokens_in = await _tokens(ask, {"content": prompt, "add_special": True, "parse_special": True})
    return Counts(tokens_in, None, await _tokens(ask, {"content": text(stream)}))


async def _tokens(ask: Ask, body: Mapping[str, Json]) -> int | None:
    if not body["content"]:
        return 0
    told = await ask("/tokenize", body)
    tokens = told.get("tokens") if told is not None else None
    return len(tokens) if isinstance(tokens, list) else None
