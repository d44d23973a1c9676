"""Reads the body of a request more strictly than any engine does, and checks every field of it. Pure."""

from __future__ import annotations

import json
import math
import re
from itertools import islice
from typing import NoReturn

from lmctl.errors import escape
from lmctl.gateway.fields import FIELDS, OPTIONS, REQUIRED
from lmctl.gateway.paths import Endpoint
from lmctl.gateway.refused import Refused
from lmctl.gateway.rules import Rule, wrong
from lmctl.spec import Json

MAX_DEPTH = 64  # objects and lists inside each other
MAX_VALUES = 2**19  # of all kinds; reading so many takes up to half a second, and some 300 bytes of memory each
_DIGITS = 308  # of a whole number: with more, it may be larger than every number an engine knows
_FLOAT = 1000  # characters of a number with a point or an exponent; 767 digits write every double exactly

# One step from a value to the next, past all text; each takes what it has seen, so that nothing is looked at twice.
_STEP = re.compile(rb'(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[^",\[{]++)*+([,\[{]?)', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


def parsed(data: bytes) -> dict[str, Json]:
    """Return the JSON object that a body is; Refused 400 `invalid_json` where two programs could read two things.

    That is: anything but one object in UTF-8 without a byte order mark; a name that stands twice in one object (a
    router and an engine may each take another one); NaN, Infinity, and numbers that overflow; a lone surrogate, which
    is no Unicode text; more than MAX_DEPTH levels or MAX_VALUES values. 1 and 1.0 stay apart.
    """
    opened = data.count(b"[") + data.count(b"{")
    if opened + data.count(b",") >= MAX_VALUES and _values(data) > MAX_VALUES:  # most of these may stand inside text
        _invalid(f"the body holds more than {MAX_VALUES} values")
    try:
        body = _DECODER.decode(data.decode())
    except UnicodeDecodeError:
        _invalid("the body is not UTF-8")
    except RecursionError:
        _invalid(_TOO_DEEP)
    except json.JSONDecodeError as error:  # its message tells a place and never what stands there
        _invalid(f"the body is not JSON: {error}" if data.strip() else "the body is empty")
    if type(body) is not dict:
        _invalid("the body is not a JSON object")
    if opened > MAX_DEPTH:
        _not_deep(body, MAX_DEPTH)
    if _SURROGATE.search(data):
        _all_text(body)
    return body


def checked(body: dict[str, Json], endpoint: Endpoint) -> None:
    """Check every field of `body` against the table of its API; what is passed on must be written from `body` anew.

    Refused 400 `out_of_range` for values, `field_not_allowed` for fields that load other weights, name URLs or files,
    or change the engine, `missing_required_parameter` before a model is loaded for what cannot be answered.

    Fields that no table knows, and those that are null, are taken out of `body`: OpenAI's clients get new parameters
    often, and engines ignore what they do not know, so refusing would break clients for nothing. Passing them on would
    let in whatever an engine learns to read next, and, where an engine reads names in any case (Ollama), what the
    tables refuse.
    """
    _fields(body, FIELDS[endpoint.name], "")
    for name in REQUIRED.get(endpoint.name, ()):
        if name not in body:
            raise Refused(400, "missing_required_parameter", f"{name} is missing", param=name)
    options = body.get("options")
    if options is not None and endpoint.dialect == "ollama":
        if type(options) is not dict:
            wrong("options", "an object")
        _fields(options, OPTIONS, "options.")


def model(body: dict[str, Json]) -> str | None:
    """Return the name of the model that a checked body asks for."""
    name = body.get("model")
    return name if isinstance(name, str) else None


def _fields(body: dict[str, Json], table: dict[str, Rule], prefix: str) -> None:
    dropped = []
    for name, value in body.items():
        rule = table.get(name)
        if rule is None or value is None:
            dropped.append(name)
        else:
            rule.check(prefix + name, value)
    for name in dropped:
        del body[name]


_TOO_DEEP = f"the body nests deeper than {MAX_DEPTH} levels"


def _values(data: bytes) -> int:
    """Return how many values these bytes can be at most, or one more than MAX_VALUES.

    That is one, another after each comma, and the first in each object and list.
    """
    return 1 + sum(1 for step in islice(_STEP.finditer(data), MAX_VALUES) if step[1])


def _invalid(message: str) -> NoReturn:
    raise Refused(400, "invalid_json", message) from None


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                _invalid(f"the name {escape(name, 64)} stands twice in one object")
            seen.add(name)
    return made


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        _invalid(f"a number has more than {_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits) if len(digits) <= _FLOAT else math.inf
    if math.isinf(value):
        _invalid("a number is too large or too long")
    return value


def _constant(name: str) -> NoReturn:
    _invalid(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_whole, parse_float=_float, parse_constant=_constant)


def _not_deep(value: Json, left: int) -> None:
    if left == 0:
        _invalid(_TOO_DEEP)
    for inner in value.values() if type(value) is dict else value if type(value) is list else ():
        if type(inner) is dict or type(inner) is list:
            _not_deep(inner, left - 1)


def _all_text(body: dict[str, Json]) -> None:
    try:
        json.dumps(body, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        _invalid("the body holds half of a surrogate pair, which is no text")
