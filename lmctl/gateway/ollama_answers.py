"""What engines answer in the words of Ollama's API: whole answers, and streams of events as lines of JSON. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from lmctl.gateway.ollama_lines import (
    LONGEST,
    Calls,
    Told,
    begin,
    broken,
    counts,
    failure,
    first,
    line,
    message,
    piece,
    read,
    reason,
    times,
)
from lmctl.gateway.refused import Refused, answer
from lmctl.spec import Json


def whole(told: Told, said: bytes, now: float) -> bytes:
    """Return the answer for what an engine said. Raises Refused 502 where that is not what was asked for."""
    body = read(said)
    if told.endpoint in ("ollama_embed", "ollama_embeddings"):
        return line(_embedded(told, body, now))
    choice = first(body)
    if choice is None:
        broken("it holds none")
    calls = Calls()
    calls.take(choice)
    made = piece(told, now, choice, calls.done()) or begin(told, now)
    return line(made | {"done": True, "done_reason": reason(choice)} | times(told, now) | counts(body))


def loaded(told: Told, why: str, now: float) -> bytes:
    """Return the answer to a request that holds nothing to answer; `why` is "load" or "unload"."""
    if told.endpoint == "ollama_embeddings":
        return line({"embedding": []})
    if told.endpoint == "ollama_embed":
        return line({"model": told.model, "embeddings": [], **times(told, now)})
    return line(begin(told, now) | {"done": True, "done_reason": why} | times(told, now))


def failed(status: int, said: bytes) -> Refused:
    """Return the refusal for an engine's own error, as its body tells it."""
    return Refused(status, "upstream_error", message(read(said)))


class Stream:
    """Turns the events of one stream into lines, whatever pieces they come in; times are seconds since the epoch."""

    def __init__(self, told: Told) -> None:
        self._told = told
        self._rest = b""  # the beginning of an event's line
        self._reason: str | None = None
        self._told_last: dict[str, Json] = {}
        self._calls = Calls()
        self.over = False  # nothing more is said
        self.broke: Refused | None = None  # why it is over before its end

    def feed(self, data: bytes, now: float) -> bytes:
        """Return the lines for the events that `data` ends."""
        made = []
        lines = (self._rest + data).split(b"\n")
        self._rest = lines.pop()
        try:
            for one in lines:
                if self.over:
                    break
                self._fits(one)
                if one.startswith((b"data:", b"error:")):
                    made.append(self._event(one.partition(b":")[2].strip(), now))
            self._fits(self._rest)
        except Refused as refused:
            made.append(self.failed(refused))
        if self.over:
            self._rest = b""
        return b"".join(made)

    def end(self, now: float) -> bytes:
        """Return the last lines, when the engine's answer has ended; an error where it is not whole."""
        if self.over:
            return b""
        try:
            if self._reason is None:
                broken("it ends in the middle")
            calls = self._calls.done()
            told = [{**begin(self._told, now, calls=calls), "done": False}] if calls else []
            last = begin(self._told, now) | {"done": True, "done_reason": self._reason}
            made = b"".join(map(line, [*told, last | times(self._told, now) | counts(self._told_last)]))
        except Refused as refused:
            return self.failed(refused)
        self.over = True
        return made

    def failed(self, why: Refused) -> bytes:
        """Return the last line of a stream that breaks off; nothing where it was over."""
        if self.over:
            return b""
        self.over, self.broke = True, why
        return answer(why, "ollama") + b"\n"

    def waiting(self, now: float) -> bytes:
        """Return a line that says nothing, for a client that waits: blank ones are no JSON and break clients."""
        return line({**begin(self._told, now), "done": False})

    def _fits(self, data: bytes) -> None:
        if len(data) > LONGEST:
            raise failure("an event is too long")

    def _event(self, data: bytes, now: float) -> bytes:
        if data == b"[DONE]":
            self._reason = self._reason or "stop"
            return self.end(now)
        body = read(data)
        if body.get("error") or "choices" not in body:
            return self.failed(Refused(502, "upstream_error", message(body)))
        self._told_last |= {name: body[name] for name in ("usage", "timings") if isinstance(body.get(name), dict)}
        choice = first(body)
        if choice is None:
            return b""
        if choice.get("finish_reason") is not None:
            self._reason = reason(choice)
        self._calls.take(choice)
        made = piece(self._told, now, choice)
        return b"" if made is None else line({**made, "done": False})


def _embedded(told: Told, body: Mapping[str, Json], now: float) -> dict[str, Json]:
    data = body.get("data")
    rows = [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []
    found: list[Json] = [one.get("embedding") for one in sorted(rows, key=_index)]
    if not found or not all(isinstance(one, list) for one in found):
        broken("it holds no embeddings")
    if told.endpoint == "ollama_embeddings":
        return {"embedding": found[0]}
    counted = {key: value for key, value in counts(body).items() if key == "prompt_eval_count"}
    return {"model": told.model, "embeddings": found, **times(told, now), **counted}


def _index(row: Mapping[str, Json]) -> int:
    index = row.get("index")
    return index if isinstance(index, int) else 0
