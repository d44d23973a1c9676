"""What a field of a request may hold: small checks, each made once for the tables in `fields`. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import NoReturn

from lmctl.errors import escape
from lmctl.gateway.refused import Refused
from lmctl.spec import Json

Rule = Callable[[str, Json], None]  # name, value other than null; raises Refused 400

INT32, INT64 = 2**31 - 1, 2**63 - 1
MAX_NAME, MAX_STOPS, MAX_BIASES, MAX_INPUTS = 256, 16, 1024, 2048  # characters; items
MAX_SCHEMA = 64 * 1024  # characters of JSON: engines turn schemas into grammars, whose cost grows faster than they do
_NOT_DATA = "only data: URLs are taken, with the file in them; nothing is fetched"


def wrong(name: str, what: str) -> NoReturn:
    """Raise the refusal of a value."""
    shown = escape(name, 80)
    raise Refused(400, "out_of_range", f"{shown} must be {what}", param=name)


def not_allowed(name: str, why: str) -> NoReturn:
    """Raise the refusal of a field as such."""
    shown = escape(name, 80)
    raise Refused(400, "field_not_allowed", f"{shown} is not allowed: {why}", param=name)


def never(why: str) -> Rule:
    def rule(name: str, value: Json) -> None:
        not_allowed(name, why)

    return rule


def anything(name: str, value: Json) -> None:
    """Take what engines ignore or check themselves at no cost."""


def flag(name: str, value: Json) -> None:
    if type(value) is not bool:
        wrong(name, "true or false")


def whole(least: int, most: int) -> Rule:
    def rule(name: str, value: Json) -> None:
        if type(value) is not int or not least <= value <= most:  # a boolean is an int to isinstance
            wrong(name, f"a whole number from {least} to {most}")

    return rule


def number(least: float, most: float) -> Rule:
    def rule(name: str, value: Json) -> None:
        if (type(value) is not float and type(value) is not int) or not least <= value <= most:
            wrong(name, f"a number from {least:g} to {most:g}")

    return rule


def text(most: int) -> Rule:
    def rule(name: str, value: Json) -> None:
        if type(value) is not str or len(value) > most:
            wrong(name, f"text of at most {most} characters")

    return rule


def either(*rules: Rule) -> Rule:
    """Take what one of `rules` takes; the refusal is the last one's."""

    def rule(name: str, value: Json) -> None:
        for one in rules[:-1]:
            try:
                return one(name, value)
            except Refused:
                continue
        return rules[-1](name, value)

    return rule


def empty(otherwise: Rule) -> Rule:
    """Take text without a character, which some clients send for a field that they do not use."""

    def rule(name: str, value: Json) -> None:
        if value != "":
            otherwise(name, value)

    return rule


def table(most: int) -> Rule:
    """Take an object of at most `most` characters as JSON."""

    def rule(name: str, value: Json) -> None:
        if type(value) is not dict or len(json.dumps(value)) > most:
            wrong(name, f"an object of at most {most} characters")

    return rule


def sized(most: int) -> Rule:
    """Take anything of at most `most` characters as JSON."""

    def rule(name: str, value: Json) -> None:
        if len(json.dumps(value)) > most:
            wrong(name, f"at most {most} characters")

    return rule


def texts(most: int, longest: int) -> Rule:
    """Take a list of text."""

    def rule(name: str, value: Json) -> None:
        what = f"a list of at most {most} texts of at most {longest} characters"
        if type(value) is not list or len(value) > most:
            wrong(name, what)
        if not all(type(one) is str and len(one) <= longest for one in value):
            wrong(name, what)

    return rule


def prompts(name: str, value: Json) -> None:
    """Take text or tokens, or a list of these; each is work of its own for the engine."""
    if type(value) is str:
        return
    what = f"text, a list of tokens, or a list of at most {MAX_INPUTS} of these"
    if type(value) is not list or not set(map(type, value)) <= {str, int, list}:
        wrong(name, what)
    if len([one for one in value if type(one) is not int]) > MAX_INPUTS:
        wrong(name, what)
    for one in value:
        if type(one) is list and not set(map(type, one)) <= {int, str}:
            wrong(name, what)


def biases(name: str, value: Json) -> None:
    """Take tokens with their biases, as an object or as llama-server's list of pairs; false bans a token."""
    what = f"at most {MAX_BIASES} tokens with a number from -100 to 100 each"
    if type(value) is list and all(type(pair) is list and len(pair) == 2 for pair in value):
        given: list[Json] = [pair[1] for pair in value if isinstance(pair, list)]
    elif type(value) is dict:
        given = list(value.values())
    else:
        wrong(name, what)
    if len(given) > MAX_BIASES:
        wrong(name, what)
    for one in given:
        if one is not False and not (type(one) in (int, float) and -100 <= one <= 100):  # type: ignore[operator]
            wrong(name, what)


# Arguments of transformers' apply_chat_template that are no variables of a template: `chat_template` is a program.
_NO_VARIABLES = frozenset(
    [
        "conversation",
        "messages",
        "tools",
        "documents",
        "chat_template",
        "add_generation_prompt",
        "continue_final_message",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "processor_kwargs",
        "load_audio_from_video",
        "bos_token",
        "eos_token",
    ]
)


def template_variables(name: str, value: Json) -> None:
    """Take switches of a chat template (`enable_thinking`, `reasoning_effort`): flags, numbers and words."""
    if type(value) is not dict or len(value) > 16:
        wrong(name, "an object of at most 16 names")
    for key, held in value.items():
        inner = f"{name}.{key}"
        if key in _NO_VARIABLES or len(key) > 64 or not key.isidentifier() or key.startswith("_"):
            not_allowed(inner, "only switches of the chat template may be set")
        if type(held) not in (bool, int, float, type(None)) and not (type(held) is str and len(held) <= 64):
            wrong(inner, "a flag, a number or text of at most 64 characters")


def tools(name: str, value: Json) -> None:
    """Take functions that the client runs; refuse a server that somebody else would have to call."""
    if type(value) is not list or len(value) > 1024:
        wrong(name, "a list of at most 1024 tools")
    for tool in value:
        if not isinstance(tool, dict):
            wrong(name, "a list of objects")
        if tool.get("type") == "mcp" or "server_url" in tool or "connector_id" in tool:
            not_allowed(f"{name}.server_url", "tools are run by the client")


def messages(name: str, value: Json) -> None:
    """Take a list of messages, or of the Responses API's items, none of which names a URL or a file to be fetched."""
    if type(value) is not list:
        wrong(name, "a list of messages")
    for message in value:
        if type(message) is not dict:
            wrong(name, "a list of objects")
        for key in message.keys() & _NESTED:
            _nested(f"{name}.{key}", key, message[key])


def messages_or_text(name: str, value: Json) -> None:
    """Take text, or a list of messages or of a message's parts."""
    if type(value) is not str:
        messages(name, value)


def images(name: str, value: Json) -> None:
    """Take Ollama's images: base64 alone, of which neither a URL nor a path with a scheme is made."""
    if type(value) is not list:
        wrong(name, "a list of images in base64")
    for one in value:
        if type(one) is not str:
            wrong(name, "a list of images in base64")
        if ":" in one:
            not_allowed(name, "only images in base64 are taken, nothing is fetched")


# Where a message, or a part of one, holds more parts; what holds a URL; what holds a file. What a tool was called with
# (`input`, `arguments`) is not looked into: it is text to the engine, and may well hold a URL.
_LISTS = frozenset(["content", "output"])
_URLS = frozenset(["image_url", "audio_url", "video_url", "file_url"])
_FILES = frozenset(["file", "source", "input_audio", "image", "audio", "video", "document"])
_NESTED = _LISTS | _URLS | _FILES | {"file_id", "images"}


def _nested(name: str, key: str, value: Json) -> None:
    if value is None or (key in _LISTS and type(value) is str):
        return
    if key in _LISTS:
        if type(value) is dict:
            value = [value]
        messages(name, value)
    elif key in _URLS:
        _data_url(name, value["url"] if type(value) is dict and "url" in value else value)
    elif key == "file_id":
        not_allowed(name, "no files are kept here")
    elif key == "images":
        images(name, value)
    elif type(value) is dict:
        _file(name, value)


def _file(name: str, value: Mapping[str, Json]) -> None:
    for key in value.keys() & (_NESTED | {"url"}):
        _nested(f"{name}.{key}", "image_url" if key == "url" else key, value[key])


def _data_url(name: str, value: Json) -> None:
    if type(value) is not str or not value.startswith("data:"):
        not_allowed(name, _NOT_DATA)
