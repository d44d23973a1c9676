"""TOML text to plain values, within bounds; every way in which that fails is one error with a place."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from lmctl.config.positions import Broken, Positions, Repeated
from lmctl.errors import LmctlError, Place, escape

LIMIT = 1 << 20  # bytes of one file
DEPTH = 32  # nested arrays, tables and parts of one key

_AT = re.compile(r" \(at line (\d+), column (\d+)\)$")
_END = " (at end of document)"
_MARKS = re.compile(
    r'"""(?:\\[\s\S]|[^\\])*?"""|' + r"'''[\s\S]*?'''|" + r'"(?:\\[^\n]|[^"\\\n])*"|' + r"'[^'\n]*'|#[^\n]*|[][{}.=,\n]"
)


def parse(content: bytes, file: str) -> tuple[dict[str, Any], str]:
    """Return the values and the text of a file. Raises E-ENCODING, E-LIMIT and E-TOML."""
    text = decode(content, file)
    bound(text, file)
    try:
        return tomllib.loads(text), text
    except RecursionError as error:
        raise LmctlError("E-LIMIT", f"nested deeper than {DEPTH}", place=Place(file)) from error
    except ValueError as error:
        raise _explained(text, str(error), file) from error


def decode(content: bytes, file: str) -> str:
    """Return the text of UTF-8 bytes; a byte order mark is dropped."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{content[error.start]:02X} at offset {error.start} is no UTF-8"
        raise LmctlError("E-ENCODING", what, fix="save the file as UTF-8", place=Place(file, line)) from error


def bound(text: str, file: str) -> None:
    """Refuse what tomllib would recurse into too deep, or take seconds for: nesting and keys of more than 32 parts."""
    depth = dots = 0
    for match in _MARKS.finditer(text):
        mark = match[0]
        if mark == ".":
            dots += 1
        elif len(mark) == 1:
            dots = 0
            depth += (mark in "[{") - (mark in "]}")
        if depth > DEPTH or dots >= DEPTH:
            line = text.count("\n", 0, match.start()) + 1
            what = f"nesting of more than {DEPTH}" if depth > DEPTH else f"a key of more than {DEPTH} parts"
            raise LmctlError("E-LIMIT", what, fix="write it flatter", place=Place(file, line))
        depth = max(depth, 0)


def _explained(text: str, message: str, file: str) -> LmctlError:
    """Return tomllib's complaint with the best place: its own, or where the scanner sees the cause begin."""
    positions = Positions(text)
    cause = positions.error
    if isinstance(cause, Repeated):
        path = ".".join(str(part) for part in cause.path)
        line, column = positions.place(cause.second)
        first = positions.place(cause.first)[0]
        what = f"duplicate: `{escape(path)}` is declared twice, first on line {first}"
        return LmctlError("E-TOML", what, fix="keep one of them", place=Place(file, line, column))
    illegal = re.search(r"Illegal character '\\x([0-9a-f]{2})'", message)
    what = f"illegal character U+00{illegal[1].upper()}" if illegal else message.partition(" (at ")[0]
    at = _AT.search(message)
    if at:
        place = Place(file, int(at[1]), int(at[2]))
    elif isinstance(cause, Broken) and message.endswith(_END):
        place = Place(file, *positions.place(cause.offset))
    else:
        place = Place(file)
    return LmctlError("E-TOML", escape(what[:1].lower() + what[1:]), fix="correct the TOML", place=place)
