"""What a field of a request may hold: small checks, each made once for the tables in `fields`. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import NoReturn

from lmctl.errors import escape
from lmctl.gateway.refused import Refused
from lmctl.record import NOTHING, record
from lmctl.spec import Json

Check = Callable[[str, Json], None]  # name, value other than null; raises Refused 400

INT32, INT64 = 2**31 - 1, 2**63 - 1
MAX_NAME, MAX_STOPS, MAX_BIASES, MAX_INPUTS = 256, 16, 1024, 2048  # characters; items
MAX_SCHEMA = 64 * 1024  # characters of JSON: engines turn schemas into grammars, whose cost grows faster than they do


@record
class Rule:
    """What a field may hold besides null, as a check and, as far as it can say so, as a JSON Schema."""

    check: Check
    schema: Mapping[str, Json] = NOTHING


def wrong(name: str, what: str) -> NoReturn:
    """Raise the refusal of a value."""
    shown = escape(name, 80)
    raise Refused(400, "out_of_range", f"{shown} must be {what}", param=name)


def not_allowed(name: str, why: str) -> NoReturn:
    """Raise the refusal of a field as such."""
    shown = escape(name, 80)
    raise Refused(400, "field_not_allowed", f"{shown} is not allowed: {why}", param=name)


def never(why: str) -> Rule:
    def check(name: str, value: Json) -> None:
        not_allowed(name, why)

    return Rule(check, {"type": "null", "description": f"Refused: {why}."})


def _nothing(name: str, value: Json) -> None:
    pass


anything = Rule(_nothing)  # what engines ignore or check themselves at no cost


def _flag(name: str, value: Json) -> None:
    if type(value) is not bool:
        wrong(name, "true or false")


flag = Rule(_flag, {"type": "boolean"})


def whole(least: int, most: int) -> Rule:
    def check(name: str, value: Json) -> None:
        if type(value) is not int or not least <= value <= most:  # a boolean is an int to isinstance
            wrong(name, f"a whole number from {least} to {most}")

    return Rule(check, {"type": "integer", "minimum": least, "maximum": most})


def number(least: float, most: float) -> Rule:
    def check(name: str, value: Json) -> None:
        if (type(value) is not float and type(value) is not int) or not least <= value <= most:
            wrong(name, f"a number from {least:g} to {most:g}")

    return Rule(check, {"type": "number", "minimum": least, "maximum": most})


def text(most: int) -> Rule:
    def check(name: str, value: Json) -> None:
        if type(value) is not str or len(value) > most:
            wrong(name, f"text of at most {most} characters")

    return Rule(check, _text(most))


def either(*rules: Rule) -> Rule:
    """Take what one of `rules` takes; the refusal is the last one's."""

    def check(name: str, value: Json) -> None:
        for one in rules[:-1]:
            try:
                return one.check(name, value)
            except Refused:
                continue
        return rules[-1].check(name, value)

    return Rule(check, {"anyOf": [dict(one.schema) for one in rules]})


def empty(otherwise: Rule) -> Rule:
    """Take text without a character, which some clients send for a field that they do not use."""

    def check(name: str, value: Json) -> None:
        if value != "":
            otherwise.check(name, value)

    return Rule(check, {"anyOf": [{"const": ""}, dict(otherwise.schema)]})


def none(otherwise: Rule) -> Rule:
    """Take a list without an item, which some clients send for a field that they do not use."""

    def check(name: str, value: Json) -> None:
        if value != []:
            otherwise.check(name, value)

    return Rule(check, {"anyOf": [{"type": "array", "maxItems": 0}, dict(otherwise.schema)]})


def one_of(*words: str) -> Rule:
    """Take one of a few words."""

    def check(name: str, value: Json) -> None:
        if value not in words:
            wrong(name, f"one of {', '.join(words)}")

    return Rule(check, {"enum": [*words]})


def table(most: int) -> Rule:
    """Take an object of at most `most` characters as JSON."""

    def check(name: str, value: Json) -> None:
        if type(value) is not dict or len(json.dumps(value)) > most:
            wrong(name, f"an object of at most {most} characters")

    return Rule(check, {"type": "object", "description": f"At most {most} characters of JSON."})


def sized(most: int) -> Rule:
    """Take anything of at most `most` characters as JSON."""

    def check(name: str, value: Json) -> None:
        if len(json.dumps(value)) > most:
            wrong(name, f"at most {most} characters")

    return Rule(check, {"description": f"At most {most} characters of JSON."})


def texts(most: int, longest: int) -> Rule:
    """Take a list of text."""

    def check(name: str, value: Json) -> None:
        what = f"a list of at most {most} texts of at most {longest} characters"
        if type(value) is not list or len(value) > most:
            wrong(name, what)
        if not all(type(one) is str and len(one) <= longest for one in value):
            wrong(name, what)

    return Rule(check, {"type": "array", "maxItems": most, "items": _text(longest)})


def _text(most: int) -> dict[str, Json]:
    return {"type": "string"} if most >= INT32 else {"type": "string", "maxLength": most}


def _prompts(name: str, value: Json) -> None:
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


_TOKEN: Json = {"type": "integer"}
_PIECES: Json = {"type": "array", "items": {"type": ["integer", "string"]}}
_SOME: Json = {"type": "array", "maxItems": MAX_INPUTS, "items": {"anyOf": [{"type": "string"}, _TOKEN, _PIECES]}}
# text or tokens, or a list of these, each of which is work of its own for the engine
prompts = Rule(_prompts, {"anyOf": [{"type": "string"}, {"type": "array", "items": _TOKEN}, _SOME]})


def _biases(name: str, value: Json) -> None:
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


_BIAS: Json = {"anyOf": [{"type": "number", "minimum": -100, "maximum": 100}, {"const": False}]}
_PAIR: Json = {"type": "array", "prefixItems": [{}, _BIAS], "minItems": 2, "maxItems": 2}
_BIASES: list[Json] = [
    {"type": "object", "maxProperties": MAX_BIASES, "additionalProperties": _BIAS},
    {"type": "array", "maxItems": MAX_BIASES, "items": _PAIR},
]
# tokens with their biases, as an object or as llama-server's list of pairs; false bans a token
biases = Rule(_biases, {"anyOf": _BIASES})
