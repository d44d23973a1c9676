"""What an engine tells of the tokens of an answer, and a sieve that hears it in a stream. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson

_MOST = 2**53  # tokens: what is larger is no count
_EVENT = 1 << 20  # bytes of one event of a stream that are held back until it is whole
_USAGE = re.compile(rb'"(?:usage|timings)"\s*:\s*\{')  # never inside text: there its quotes are escaped
_DONE, _TAIL = b"data: [DONE]", 64  # bytes in which it stands at the end of a stream
_END = re.compile(rb"\r?\n\r?\n")


class Counts(NamedTuple):
    """Tokens and speed as an engine told them; None: it did not, or told what is no count."""

    tokens_in: int | None = None
    tokens_cached: int | None = None
    tokens_out: int | None = None
    prompt_ms: float | None = None
    tokens_per_s: float | None = None

    def later(self, other: Counts) -> Counts:
        """Return what `other`, told later in the same answer, says, and this where it says nothing."""
        return Counts(*(new if new is not None else old for new, old in zip(other, self, strict=True)))  # type: ignore[arg-type]


NONE = Counts()


def counts(answer: Mapping[str, Any]) -> Counts:
    """Return what a whole answer, or one event of a stream, tells: in OpenAI's, Anthropic's or llama.cpp's words."""
    usage, timings = _usage(answer), answer.get("timings")
    if not isinstance(timings, dict):
        timings = {}
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else usage.get("cache_read_input_tokens")
    return Counts(
        _whole(usage),
        _count(timings.get("cache_n") if cached is None else cached),
        _count(_first(usage, "completion_tokens", "output_tokens")),
        _number(timings.get("prompt_ms")),
        _number(timings.get("predicted_per_second")),
    )


def _usage(answer: Mapping[str, Any]) -> dict[str, Any]:
    for holder in (answer, answer.get("response"), answer.get("message")):  # of OpenAI's and of Anthropic's events
        usage = holder.get("usage") if isinstance(holder, Mapping) else None
        if isinstance(usage, dict):
            return usage
    return {}


def _whole(usage: dict[str, Any]) -> int | None:
    """Return the tokens of the whole prompt: Anthropic's API tells those of the cache beside the others."""
    told = _count(_first(usage, "prompt_tokens", "input_tokens"))
    beside = (_count(usage.get(name)) or 0 for name in ("cache_read_input_tokens", "cache_creation_input_tokens"))
    return None if told is None else told + sum(beside)


def _first(usage: Mapping[str, Any], *names: str) -> Any:
    return next((usage[name] for name in names if name in usage), None)


def _count(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value < _MOST else None


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and math.isfinite(value) and 0 <= value < _MOST else None


class Sieve:
    """Hears the counts of a stream of events that passes through it; no event is parsed but the few that tell some.

    `hide`: the client did not ask for the event that holds nothing but them, so it is left out.
    """

    def __init__(self, hide: bool) -> None:
        self.counts = NONE
        self.done = False  # the event came with which streams of chats and completions end
        self._hide = hide
        self._held = b""  # the beginning of an event that is not whole

    def feed(self, data: bytes) -> bytes:
        """Return what may pass of the stream so far: whole events, but for what is longer than any event."""
        if self._held:
            data = self._held + data
            self._held = b""
        if not data.endswith(b"\n\n"):
            whole = max(data.rfind(b"\n\n") + 2, data.rfind(b"\n\r\n") + 3)
            whole = whole if whole > 2 else 0
            if len(data) - whole <= _EVENT:
                data, self._held = data[:whole], data[whole:]
        passed = data if _USAGE.search(data) is None else b"".join(self._sifted(data))
        self.done = _DONE in data[-_TAIL:]
        return passed

    def end(self) -> bytes:
        """Return what was held back of a stream that ended within an event."""
        rest, self._held = self._held, b""
        return rest

    def _sifted(self, data: bytes) -> Iterable[bytes]:
        begin = 0
        for end in [found.end() for found in _END.finditer(data)] or [len(data)]:
            event, begin = data[begin:end], end
            told = _told(event) if _USAGE.search(event) else None
            if told is not None:
                self.counts = self.counts.later(counts(told))
            if told is None or not (self._hide and _counts_only(told)):
                yield event
        yield data[begin:]


def _told(event: bytes) -> dict[str, Any] | None:
    """Return the object of an event; None for what is none."""
    lines = (line[5:] for line in event.splitlines() if line.startswith(b"data:"))
    try:
        found = orjson.loads(b"\n".join(lines))
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _counts_only(told: Mapping[str, Any]) -> bool:
    return told.get("choices") == [] and isinstance(told.get("usage"), dict)
