"""XML-RPC as supervisord speaks it: the standard library's client takes longer to import than a whole plan may take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.parsers import expat

_INTS = {"int", "i4", "i8"}
_LEAVES = {*_INTS, "boolean", "string", "double", "name"}


class Fault(Exception):
    """What a server answers to a call that it refuses."""

    def __init__(self, faultCode: int, faultString: str) -> None:
        super().__init__(f"{faultString} ({faultCode})")
        self.faultCode, self.faultString = faultCode, faultString


def request(method: str, params: Sequence[object]) -> bytes:
    """Return a call; params are booleans, integers, texts, lists and mappings of these. Raises TypeError for others."""
    inner = "".join(f"<param>{_value(param)}</param>" for param in params)
    return f"<?xml version='1.0'?><methodCall><methodName>{quoted(method)}</methodName>" \
           f"<params>{inner}</params></methodCall>".encode()  # fmt: skip


def quoted(text: str) -> str:
    """Return `text` as XML character data."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _value(value: object) -> str:
    match value:
        case bool():
            return f"<value><boolean>{int(value)}</boolean></value>"
        case int():
            return f"<value><int>{value}</int></value>"
        case str():
            return f"<value><string>{quoted(value)}</string></value>"
        case list() | tuple():
            return f"<value><array><data>{''.join(map(_value, value))}</data></array></value>"
        case Mapping():
            members = (f"<member><name>{quoted(str(k))}</name>{_value(v)}</member>" for k, v in value.items())
            return f"<value><struct>{''.join(members)}</struct></value>"
        case _:
            raise TypeError(type(value).__name__)


def answer(body: bytes) -> Any:
    """Return the value of a response. Raises Fault for a fault, ValueError for everything that is no response."""
    reader = _Reader()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text.append
    parser.StartDoctypeDeclHandler = reader.refuse  # so that no entity can be declared
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, IndexError, KeyError, TypeError) as error:
        raise ValueError("not XML-RPC") from error
    (value,) = reader.values
    if reader.fault:
        if not isinstance(value, dict) or not isinstance(value.get("faultCode", 0), int):
            raise ValueError("not XML-RPC")
        raise Fault(value.get("faultCode", 0), str(value.get("faultString", "")))
    return value


class _Reader:
    """Builds values from elements; `marks` are the positions in `values` at which open arrays and structs begin."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.marks: list[int] = []
        self.text: list[str] = []
        self.fault = False
        self.typed = False

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        if name in {"array", "struct"}:
            self.marks.append(len(self.values))
        elif name == "fault":
            self.fault = True
        self.typed = name != "value"
        self.text.clear()

    def end(self, name: str) -> None:
        if name in _LEAVES:
            self.values.append(_leaf(name)("".join(self.text)))
        elif name == "value" and not self.typed:
            self.values.append("".join(self.text))  # a value without a type is a string
        elif name == "array":
            mark = self.marks.pop()
            self.values[mark:] = [self.values[mark:]]
        elif name == "struct":
            mark = self.marks.pop()
            names, values = self.values[mark::2], self.values[mark + 1 :: 2]
            self.values[mark:] = [dict(zip(names, values, strict=True))]
        self.typed = True
        self.text.clear()

    def refuse(self, *declaration: object) -> None:
        raise ValueError("not XML-RPC: it declares a document type")


def _leaf(name: str) -> Callable[[str], Any]:
    if name in _INTS:
        return int
    if name == "boolean":
        return lambda text: bool(int(text))
    return float if name == "double" else str
