"""What a request is like, told from its body: the numbers behind the router's score. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import islice

from lmctl.record import record
from lmctl.spec import Json

MOST_CODE = 20  # lines; a fence counts as many
_BYTES_PER_TOKEN = 4  # of UTF-8, whatever the tokenizer: good enough to route by, and used for nothing else
_LOOKED_AT, _TEXTS_LOOKED_AT = 64 << 10, 1000  # characters of one text, and texts, in which code is looked for
_FENCE = "```"
# How lines of code begin. Only beginnings: what is written behind a line must never make it count less.
_CODE = re.compile(
    r"^[ \t]*(?:(?:async )?def |class \w+[(:{ ]|import [\w.{*]+|from [\w.]+ import |return\b|if ?\(|for ?\(|while ?\("
    r"|else ?[{:]|(?:const|let|var|fn|func|function|public|private|static|struct|enum|impl|package|using|namespace) "
    r"|#include|#define|#!/|@\w+|SELECT |INSERT INTO |CREATE TABLE |</?[a-z]+[ >]|[\w.\[\]]+ ?[+*|-]?= ?\S)",
    re.MULTILINE,
)
_TEXTS = ("instructions", "input", "messages", "prompt", "suffix")  # of a body
_INNER = ("content", "text", "arguments", "output", "tool_calls", "function", "summary")  # of a message and its parts
_IMAGES = ("image_url", "image", "images")
_LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens", "n_predict")
_SCHEMAS = ("json_schema", "grammar", "structured_outputs", "guided_json", "guided_regex", "guided_grammar")


@record
class Features:
    """One request. `prompt` and `output` are tokens, `code` lines, `turns` messages of the user after the first."""

    prompt: int = 0
    tools: int = 0
    images: int = 0
    code: int = 0
    turns: int = 0
    output: int = 0  # as many as the client allows, 0 where it does not say
    schema: int = 0  # whether the answer must have a form


def features(body: dict[str, Json]) -> Features:
    """Return what a checked body of the OpenAI API is like.

    A prompt has a token for each four bytes of text in it, declared tools included; images and sound count nothing.
    """
    size, tokens, images, code, texts = 0, 0, 0, 0, 0
    for found in _found([body[key] for key in _TEXTS if key in body]):
        if isinstance(found, str):
            size += len(found.encode())
            texts += 1
            if code < MOST_CODE and texts <= _TEXTS_LOOKED_AT:
                code += _lines_of_code(found)
        elif found is None:
            images += 1
        else:
            tokens += found
    tools = [one for key in ("tools", "functions") if isinstance(one := body.get(key), list) and one]
    size += sum(len(json.dumps(one, ensure_ascii=False).encode()) for one in tools)
    asked = [limit for key in _LIMITS if isinstance(limit := body.get(key), int)]
    return Features(
        prompt=tokens + -(-size // _BYTES_PER_TOKEN),
        tools=sum(map(len, tools)),
        images=images,
        code=min(code, MOST_CODE),
        turns=max(0, _turns(body) - 1),
        output=max(asked, default=0),
        schema=int(_shaped(body)),
    )


def _found(values: list[Json]) -> Iterator[str | int | None]:
    """Yield every text of a prompt, the number of tokens where it is given as these, and None for each image."""
    left = values[::-1]
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield sum(type(one) is int for one in value)
            left += (one for one in reversed(value) if not isinstance(one, int))
        elif isinstance(value, dict):
            if any(key in value for key in _IMAGES):
                yield None
            left += (value[key] for key in reversed(_INNER) if key in value)


def _lines_of_code(text: str) -> int:
    if _FENCE in text:
        return MOST_CODE
    return sum(1 for _ in islice(_CODE.finditer(text, 0, _LOOKED_AT), MOST_CODE))


def _turns(body: dict[str, Json]) -> int:
    """Return how often the user spoke."""
    messages = body.get("messages", body.get("input"))
    if not isinstance(messages, list):
        return 1
    return sum(isinstance(one, dict) and one.get("role") == "user" for one in messages)


def _shaped(body: dict[str, Json]) -> bool:
    """Return whether an answer must follow a schema or a grammar; plain text is none."""
    said = body.get("response_format")
    inner = body.get("text")
    formats = (said, inner.get("format") if isinstance(inner, dict) else None)
    if any(isinstance(one, dict) and one.get("type") not in (None, "text") for one in formats):
        return True
    return any(key in body for key in _SCHEMAS)
