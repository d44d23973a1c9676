"""What messages, tools and template switches may hold: nothing that would be fetched or run elsewhere. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lmctl.gateway.rules import Rule, not_allowed, wrong
from lmctl.spec import Json

_NOT_DATA = "only data: URLs are taken, with the file in them; nothing is fetched"
_MOST_TOOLS, _MOST_SWITCHES, _LONGEST_SWITCH = 1024, 16, 64

# Arguments of transformers' apply_chat_template that are no variables of a template: `chat_template` is a program.
_NO_VARIABLES = [
    *("conversation", "messages", "tools", "documents", "chat_template", "add_generation_prompt"),
    *("continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors", "return_dict"),
    *("return_assistant_tokens_mask", "tokenizer_kwargs", "processor_kwargs", "load_audio_from_video", "bos_token"),
    "eos_token",
]
_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")


def _template_variables(name: str, value: Json) -> None:
    if type(value) is not dict or len(value) > _MOST_SWITCHES:
        wrong(name, f"an object of at most {_MOST_SWITCHES} names")
    for key, held in value.items():
        inner = f"{name}.{key}"
        if key in _NO_VARIABLES or not _VARIABLE.fullmatch(key):
            not_allowed(inner, "only switches of the chat template may be set")
        short = type(held) is str and len(held) <= _LONGEST_SWITCH
        if type(held) not in (bool, int, float, type(None)) and not short:
            wrong(inner, f"a flag, a number or text of at most {_LONGEST_SWITCH} characters")


# switches of a chat template (`enable_thinking`, `reasoning_effort`): flags, numbers and words
template_variables = Rule(
    _template_variables,
    {
        "type": "object",
        "maxProperties": _MOST_SWITCHES,
        "propertyNames": {"pattern": f"^{_VARIABLE.pattern}$", "not": {"enum": [*_NO_VARIABLES]}},
        "additionalProperties": {"type": ["boolean", "number", "null", "string"], "maxLength": _LONGEST_SWITCH},
    },
)


def _tools(name: str, value: Json) -> None:
    if type(value) is not list or len(value) > _MOST_TOOLS:
        wrong(name, f"a list of at most {_MOST_TOOLS} tools")
    for tool in value:
        if not isinstance(tool, dict):
            wrong(name, "a list of objects")
        if tool.get("type") == "mcp" or "server_url" in tool or "connector_id" in tool:
            not_allowed(f"{name}.server_url", "tools are run by the client")


_ELSEWHERE: Mapping[str, Json] = {"type": {"not": {"const": "mcp"}}, "server_url": False, "connector_id": False}
# functions that the client runs, and no server that somebody else would have to call
tools = Rule(
    _tools,
    {"type": "array", "maxItems": _MOST_TOOLS, "items": {"type": "object", "properties": dict(_ELSEWHERE)}},
)


def _messages(name: str, value: Json) -> None:
    if type(value) is not list:
        wrong(name, "a list of messages")
    for message in value:
        if type(message) is not dict:
            wrong(name, "a list of objects")
        for key in message.keys() & _NESTED:
            _nested(f"{name}.{key}", key, message[key])


def _messages_or_text(name: str, value: Json) -> None:
    if type(value) is not str:
        _messages(name, value)


def _conversation(name: str, value: Json) -> None:
    _messages(name, value)
    for message in value if isinstance(value, list) else ():
        if isinstance(message, dict):
            if type(message.get("role")) is not str:
                wrong(f"{name}.role", "text")
            calls = message.get("tool_calls")
            if calls is not None and not (isinstance(calls, list) and all(map(_is_call, calls))):
                wrong(f"{name}.tool_calls", "a list of calls: functions with a name, and an object of arguments")


def _is_call(call: Json) -> bool:
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or type(function.get("name")) is not str:
        return False
    return type(function.get("arguments")) in (dict, str, type(None))


def _images(name: str, value: Json) -> None:
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
        _messages(name, value)
    elif key in _URLS:
        _data_url(name, value["url"] if type(value) is dict and "url" in value else value)
    elif key == "file_id":
        not_allowed(name, "no files are kept here")
    elif key == "images":
        _images(name, value)
    elif type(value) is dict:
        _file(name, value)


def _file(name: str, value: Mapping[str, Json]) -> None:
    for key in value.keys() & (_NESTED | {"url"}):
        _nested(f"{name}.{key}", "image_url" if key == "url" else key, value[key])


def _data_url(name: str, value: Json) -> None:
    if type(value) is not str or not value.startswith("data:"):
        not_allowed(name, _NOT_DATA)


_MESSAGE: Json = {"$ref": "#/components/schemas/Message"}
_DATA: Json = {"type": "string", "pattern": "^data:"}
_URL: Json = {"anyOf": [_DATA, {"type": "object", "required": ["url"], "properties": {"url": _DATA}}, {"type": "null"}]}
_IMAGES: dict[str, Json] = {"type": "array", "items": {"type": "string", "pattern": "^[^:]*$"}}
_PARTS: Json = {"anyOf": [{"type": ["string", "null"]}, _MESSAGE, {"type": "array", "items": _MESSAGE}]}
_FILE: Json = {"anyOf": [{"not": {"type": "object"}}, {"$ref": "#/components/schemas/File"}]}
_INSIDE: dict[str, Json] = {
    **dict.fromkeys(sorted(_LISTS), _PARTS),
    **dict.fromkeys(sorted(_URLS), _URL),
    **dict.fromkeys(sorted(_FILES), _FILE),
    "file_id": {"type": "null"},
    "images": {"anyOf": [_IMAGES, {"type": "null"}]},
}
_CALLED: dict[str, Json] = {"name": {"type": "string"}, "arguments": {"type": ["object", "string", "null"]}}
_FUNCTION: Json = {"type": "object", "required": ["name"], "properties": _CALLED}
_CALL: Json = {"type": "object", "required": ["function"], "properties": {"function": _FUNCTION}}
# Of messages, of their parts and of the Responses API's items alike; of the files in them.
COMPONENTS: Mapping[str, Json] = {
    "Message": {"type": "object", "properties": _INSIDE},
    "File": {"type": "object", "properties": {**_INSIDE, "url": _URL}},
    "Turn": {
        "type": "object",
        "required": ["role"],
        "properties": {
            **_INSIDE,
            "role": {"type": "string"},
            "tool_calls": {"type": ["array", "null"], "items": _CALL},
        },
    },
}

# a list of messages, or of the Responses API's items, none of which names a URL or a file to be fetched
messages = Rule(_messages, {"type": "array", "items": _MESSAGE})
# the same of Ollama's API: it is translated, so that more of it is looked at
conversation = Rule(_conversation, {"type": "array", "items": {"$ref": "#/components/schemas/Turn"}})
# text, or a list of messages or of a message's parts
messages_or_text = Rule(_messages_or_text, {"anyOf": [{"type": "string"}, {"type": "array", "items": _MESSAGE}]})
# Ollama's images: base64 alone, of which neither a URL nor a path with a scheme is made
images = Rule(_images, _IMAGES)
