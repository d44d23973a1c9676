"""The lines of JSON that Ollama's answers are made of, from what an engine's OpenAI API says. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import NoReturn

from lmctl.gateway.refused import Refused
from lmctl.record import record
from lmctl.spec import Json

LONGEST = 4 << 20  # bytes of one event of a stream, and of all calls of tools in one answer


@record
class Told:
    """What all lines of one answer go by. Seconds since the epoch; `load` is how long the model took to start."""

    endpoint: str
    model: str  # as the client named it
    begun: float
    load: float = 0.0


def begin(told: Told, now: float, text: str = "", thought: str = "", calls: Sequence[Json] = ()) -> dict[str, Json]:
    """Return a line that is not the last one, without saying so."""
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"
    made: dict[str, Json] = {"model": told.model, "created_at": at}
    if told.endpoint == "ollama_generate":
        return made | {"response": text} | ({"thinking": thought} if thought else {})
    message: dict[str, Json] = {"role": "assistant", "content": text}
    if thought:
        message["thinking"] = thought
    if calls:
        message["tool_calls"] = [*calls]
    return {**made, "message": message}


def piece(told: Told, now: float, choice: Mapping[str, Json], calls: Sequence[Json] = ()) -> dict[str, Json] | None:
    """Return what `begin` does for one choice of an engine's answer, None where it says nothing."""
    said = said_in(choice)
    text, thought = said.get("content", choice.get("text")), said.get("reasoning_content", said.get("reasoning"))
    text, thought = text if isinstance(text, str) else "", thought if isinstance(thought, str) else ""
    probable = _logprobs(choice)
    if not (text or thought or calls or probable):
        return None
    return begin(told, now, text, thought, calls) | ({"logprobs": probable} if probable else {})


def times(told: Told, now: float) -> dict[str, Json]:
    """Return what an answer took, in nanoseconds."""
    return {"total_duration": max(0, int((now - told.begun) * 1e9)), "load_duration": int(told.load * 1e9)}


def counts(body: Mapping[str, Json]) -> dict[str, Json]:
    """Return tokens, and nanoseconds where the engine tells them: llama.cpp does."""
    usage, timings = body.get("usage"), body.get("timings")
    usage, timings = usage if isinstance(usage, dict) else {}, timings if isinstance(timings, dict) else {}
    told = {
        "prompt_eval_count": usage.get("prompt_tokens"),
        "prompt_eval_duration": _nanoseconds(timings.get("prompt_ms")),
        "eval_count": usage.get("completion_tokens"),
        "eval_duration": _nanoseconds(timings.get("predicted_ms")),
    }
    return {name: value for name, value in told.items() if isinstance(value, int)}


def reason(choice: Mapping[str, Json]) -> str:
    """Return why an answer ended: this API knows `stop` and `length`."""
    return "length" if choice.get("finish_reason") == "length" else "stop"


def first(body: Mapping[str, Json]) -> dict[str, Json] | None:
    """Return the first choice of an engine's answer."""
    choices = body.get("choices")
    found = choices[0] if isinstance(choices, list) and choices else None
    return found if isinstance(found, dict) else None


def said_in(choice: Mapping[str, Json]) -> Mapping[str, Json]:
    """Return the message of a choice, or the piece of one; nothing where the choice is plain text."""
    said = choice.get("delta", choice.get("message"))
    return said if isinstance(said, dict) else {}


def message(body: Mapping[str, Json]) -> str:
    """Return what an engine says of its own error."""
    error = body.get("error") or body
    told = error.get("message") if isinstance(error, dict) else error
    return told if isinstance(told, str) and told else "the engine failed and does not say why"


def read(data: bytes | str) -> dict[str, Json]:
    """Return a JSON object. Raises Refused 502."""
    try:
        body = json.loads(data, parse_constant=broken)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        broken("it is no JSON object")
    return body


def line(value: Mapping[str, Json]) -> bytes:
    """Return one line of JSON. Raises Refused 502 for a number that is none, as 1e999.

    Half a surrogate pair, which engines may say, stays escaped as it came.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        broken("a number in it is too large")
    return text.encode("utf-8", "backslashreplace") + b"\n"


def broken(why: str) -> NoReturn:
    """Raise the refusal of what an engine said."""
    raise failure(why)


def failure(why: str) -> Refused:
    """Return that refusal."""
    return Refused(502, "upstream_error", f"the engine's answer cannot be used: {why}")


class Calls:
    """Calls of tools, put together from the pieces in which a stream tells them."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, str]] = {}
        self._size = 0

    def take(self, choice: Mapping[str, Json]) -> None:
        """Add what a choice tells of calls. Raises Refused 502 beyond LONGEST."""
        given = said_in(choice).get("tool_calls")
        for at, one in enumerate(given if isinstance(given, list) else ()):
            if not isinstance(one, dict):
                continue
            index, function = one.get("index", at), one.get("function")
            call = self._calls.setdefault(index if isinstance(index, int) else at, {})
            self._add(call, "id", one.get("id"))
            if isinstance(function, dict):
                self._add(call, "name", function.get("name"))
                given_to = function.get("arguments")
                self._add(call, "arguments", json.dumps(given_to) if isinstance(given_to, dict) else given_to)

    def done(self) -> list[Json]:
        """Return the calls, their arguments as objects. Raises Refused 502 where they are none."""
        return [_call(at, call) for at, (_, call) in enumerate(sorted(self._calls.items()))]

    def _add(self, call: dict[str, str], name: str, piece: Json) -> None:
        self._size += 64
        if isinstance(piece, str):
            call[name] = call.get(name, "") + piece if name == "arguments" else call.get(name) or piece
            self._size += len(piece)
        if self._size > LONGEST:
            broken("it calls too many tools")


def _call(index: int, call: Mapping[str, str]) -> Json:
    name = call.get("name", "")
    try:
        given = read(call.get("arguments") or "{}")
    except Refused:
        broken(f"the model calls {name} with what is no JSON object")
    made: dict[str, Json] = {"function": {"index": index, "name": name, "arguments": given}}
    return {"id": call["id"], **made} if call.get("id") else made


def _nanoseconds(ms: Json) -> int | None:
    return int(ms * 1_000_000) if isinstance(ms, int | float) and 0 <= ms < 1e12 else None


def _logprobs(choice: Mapping[str, Json]) -> list[Json]:
    told = choice.get("logprobs")
    content = told.get("content") if isinstance(told, dict) else None
    return [_logprob(one) for one in content if isinstance(one, dict)] if isinstance(content, list) else []


def _logprob(one: Mapping[str, Json]) -> Json:
    made = {name: one[name] for name in ("token", "logprob", "bytes") if name in one}
    others = one.get("top_logprobs")
    if isinstance(others, list) and others:
        made["top_logprobs"] = [_logprob(other) for other in others if isinstance(other, dict)]
    return made
