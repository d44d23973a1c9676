"""What a single value of the configuration may be: each check returns the value, normalised, or raises LmctlError."""

from __future__ import annotations

import difflib
import math
import re
import unicodedata
from collections.abc import Callable

from lmctl.errors import LmctlError, escape

Check = Callable[[object], object]

YEAR = 365 * 86400.0

_BYTES = re.compile(r"(\d{1,18}(?:\.\d{1,6})?) ?(|B|[KMGT]iB|[kMGT]B)")
_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h|d)")
_COMPARISON = re.compile(r"(>=|<=|==|>|<) ?(.+)")
_BYTE_UNITS = {"": 1, "B": 1} | {f"{p}iB": 1024**n for n, p in enumerate("KMGT", 1)}
_BYTE_UNITS |= {f"{p}B": 1000**n for n, p in enumerate("kMGT", 1)}
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_KINDS = {bool: "boolean", int: "integer", float: "float", str: "text", list: "array", dict: "table"}


def kind_of(value: object) -> str:
    """Return what TOML calls the type of `value`."""
    return _KINDS.get(type(value), "date or time")


def wrong_type(expected: str, value: object) -> LmctlError:
    return LmctlError("E-TYPE", f"expected {expected}, got {kind_of(value)}")


def integer(low: int, high: int, *, text_is_range: bool = False) -> Check:
    """Return a check for integers of `low`..`high`; `text_is_range` takes a number with a unit as out of range."""

    def check(value: object) -> object:
        if isinstance(value, str) and text_is_range:
            raise LmctlError("E-RANGE", f"expected a number of {low}..{high}, got {escape(value, 40)!r}")
        if type(value) is not int:
            raise wrong_type("integer", value)
        if not low <= value <= high:
            shown = value if abs(value) < 10**20 else "a huge number"
            raise LmctlError("E-RANGE", f"{shown} is not in {low}..{high}")
        return value

    return check


def port(value: object) -> object:
    if type(value) is int and 0 < value < 1024:
        raise LmctlError("E-RANGE", f"{value} is a privileged port", fix="choose one of 1024..65535")
    return integer(1024, 65535)(value)


def number(low: float, high: float) -> Check:
    def check(value: object) -> object:
        if type(value) is not int and type(value) is not float:
            raise wrong_type("number", value)
        assert isinstance(value, int | float)
        if not math.isfinite(value) or not low <= value <= high:
            raise LmctlError("E-RANGE", f"{value if abs(value) < 1e20 else 'the number'} is not in {low:g}..{high:g}")
        return value

    return check


def backend(*known: str) -> Check:
    def check(value: object) -> object:
        if not isinstance(value, str):
            raise wrong_type("text", value)
        if value not in known:
            near = difflib.get_close_matches(value, known, n=1)
            fix = f"did you mean `{near[0]}`?" if near else f"use one of {', '.join(known)}"
            raise LmctlError("E-BACKEND", f"there is no backend '{escape(value, 40)}'", fix=fix)
        return value

    return check


def boolean(value: object) -> object:
    if not isinstance(value, bool):
        raise wrong_type("boolean", value)
    return value


def choice(*allowed: object) -> Check:
    """Return a check for one of `allowed`, all of one type."""

    def check(value: object) -> object:
        if type(value) is not type(allowed[0]):
            raise wrong_type(_KINDS[type(allowed[0])], value)
        if value not in allowed:
            shown = escape(str(value), 40)
            raise LmctlError("E-RANGE", f"{shown!r} is not one of {', '.join(str(item) for item in allowed)}")
        return value

    return check


def version(value: object) -> object:
    """Check the number of a file's format: 1 is the only one yet. Raises E-TYPE and E-RANGE."""
    try:
        return choice(1)(value)
    except LmctlError as error:
        known = value if isinstance(value, int) and not isinstance(value, bool) else None
        if known is None or known < 1:
            raise
        what = f"format {known} is newer than this lmctl, which reads 1"
        raise LmctlError(error.code, what, fix="upgrade lmctl, or write `version = 1`") from None


def either(*literals: object, other: Check) -> Check:
    """Return a check that accepts the literals (compared with their type) beside what `other` accepts."""

    def check(value: object) -> object:
        return value if any(type(value) is type(item) and value == item for item in literals) else other(value)

    return check


def invisible(text: str) -> tuple[int, str] | None:
    """Return position (from 1) and code point of the first character that a reader cannot see."""
    for position, character in enumerate(text, 1):
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}:
            return position, f"U+{ord(character):04X}"
    return None


def text(limit: int = 4096, *, code: str = "E-TYPE", lines: bool = False, empty: bool = True) -> Check:
    """Return a check for visible text of at most `limit` characters; `lines` allows newlines and tabs."""

    def check(value: object) -> object:
        if not isinstance(value, str):
            raise wrong_type("text", value)
        if len(value) > limit:
            raise LmctlError("E-LIMIT", f"text of {len(value)} characters is longer than {limit}")
        hidden = invisible(value.replace("\n", " ").replace("\t", " ") if lines else value)
        if hidden:
            raise LmctlError(code, f"invisible character {hidden[1]} at {hidden[0]} in {escape(value, 60)!r}")
        if not value and not empty:
            raise LmctlError(code, "the text is empty")
        return value

    return check


def byte_count(value: object) -> int:
    """Return bytes of an integer or of a text such as "12 GiB"."""
    if type(value) is int:
        count = value
    elif isinstance(value, str):
        match = _BYTES.fullmatch(value)
        if not match:
            raise LmctlError("E-TYPE", f"'{escape(value, 40)}' is no number of bytes", fix='write it like "12 GiB"')
        count = (
            round(float(match[1]) * _BYTE_UNITS[match[2]]) if "." in match[1] else int(match[1]) * _BYTE_UNITS[match[2]]
        )
    else:
        raise wrong_type('bytes such as "12 GiB"', value)
    if not 0 <= count < 1 << 60:
        raise LmctlError("E-RANGE", "the number of bytes is not in 0..2^60")
    return count


def duration(value: object) -> float:
    """Return seconds of a text such as "15m"; above 0, at most 365 days."""
    if not isinstance(value, str):
        raise wrong_type('a duration such as "15m"', value)
    match = _DURATION.fullmatch(value)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if not 0 < seconds <= YEAR:
        raise LmctlError(
            "E-DURATION", f"'{escape(value, 40)}' is no duration", fix='write it like "250ms", "90s", "15m", "7d"'
        )
    return seconds


def comparison(value: object) -> tuple[str, int]:
    """Return operator and bytes of a text such as ">= 48 GiB"."""
    match = _COMPARISON.fullmatch(value) if isinstance(value, str) else None
    if not match:
        if not isinstance(value, str):
            raise wrong_type('a comparison such as ">= 48 GiB"', value)
        raise LmctlError("E-RANGE", f"'{escape(value, 40)}' is no comparison", fix='write it like ">= 48 GiB"')
    return match[1], byte_count(match[2])


def port_range(value: object) -> tuple[int, int]:
    """Return first and last port of a text such as "28000-28999"."""
    low, dash, high = value.partition("-") if isinstance(value, str) else ("", "", "")
    if not (dash and low.isascii() and high.isascii() and low.isdigit() and high.isdigit() and len(low + high) <= 10):
        if not isinstance(value, str):
            raise wrong_type('a range such as "28000-28999"', value)
        raise LmctlError("E-RANGE", f"'{escape(value, 40)}' is no range of ports", fix='write it like "28000-28999"')
    if not 1024 <= int(low) < int(high) <= 65535:
        raise LmctlError("E-RANGE", f"{value} is not within 1024-65535, lowest first")
    return int(low), int(high)
