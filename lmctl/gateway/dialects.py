"""Dialects that engines do not speak: their requests become those of the OpenAI API, and its answers theirs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from lmctl.gateway import ollama, ollama_answers, ollama_models
from lmctl.gateway.demand import Standing
from lmctl.gateway.ollama_answers import Stream
from lmctl.gateway.ollama_lines import Told
from lmctl.gateway.ollama_models import Known, Running
from lmctl.gateway.paths import ENDPOINTS, Endpoint
from lmctl.gateway.refused import Refused, answer
from lmctl.gateway.routing import Routes
from lmctl.record import replace
from lmctl.spec import Json

_ENGINES = {one.upstream: one for one in ENDPOINTS if one.dialect == "openai" and one.upstream}
_RUNS = frozenset(["ready", "draining"])


class Ollama:
    """The answer to one request of Ollama's API; what an engine says of it goes in, what its client reads comes out."""

    events = b"application/x-ndjson"

    def __init__(self, asked: ollama.Asked, endpoint: str, model: str, clock: Callable[[], float] = time.time) -> None:
        self._asked, self._clock = asked, clock
        self._told = Told(endpoint, model, clock())
        self._stream = Stream(self._told)

    @property
    def wakes(self) -> bool:
        """Whether the model has to run for it."""
        return self._asked.done != "unload"

    @property
    def broke(self) -> Refused | None:
        """Why the stream broke off, which its client knows by now."""
        return self._stream.broke

    def nothing(self) -> bytes:
        """Return the answer to a request for the model alone."""
        return ollama_answers.loaded(self._told, self._asked.done, self._clock())

    def whole(self, status: int, said: bytes) -> bytes:
        """Return a whole answer, or an engine's own error. Raises Refused 502."""
        if status >= 300:
            return answer(ollama_answers.failed(status, said), "ollama")
        return ollama_answers.whole(self._told, said, self._clock())

    def piece(self, data: bytes) -> bytes:
        """Return what follows from a part of a stream, maybe nothing."""
        return self._stream.feed(data, self._clock())

    def end(self, last: bytes) -> bytes:
        """Return what follows from the last part of a stream."""
        now = self._clock()
        return self._stream.feed(last, now) + self._stream.end(now)

    def cut(self, why: Refused) -> bytes:
        """Return the end of a stream that breaks off."""
        return self._stream.failed(why)

    def waiting(self) -> bytes:
        """Return what keeps the connection of a client that waits alive."""
        return self._stream.waiting(self._clock())


Call = tuple[Endpoint, dict[str, Json], Ollama | None]


def translated(endpoint: Endpoint, body: dict[str, Json], routes: Routes) -> Call:
    """Return how an engine is asked for a checked body, and who puts its answer into words; None: itself.

    `upstream` is empty where the model is all that was asked for. Raises Refused 400.
    """
    if endpoint.upstream:
        return endpoint, body, None
    asked = ollama.asked(endpoint.name, body)
    made = {**asked.body, **_model(body.get("model"), routes)}
    words = Ollama(asked, endpoint.name, str(body.get("model", "default")))
    if not asked.path:
        return endpoint, made, words
    engines = _ENGINES[asked.path]
    return replace(engines, path=endpoint.path, dialect=endpoint.dialect), made, words


def told(
    endpoint: Endpoint, body: Mapping[str, Json], routes: Routes, standings: Mapping[str, Standing]
) -> dict[str, Json] | None:
    """Return what the gateway answers by itself in these dialects, None for other endpoints. Raises Refused 404."""
    if endpoint.name == "ollama_version":
        return ollama_models.version()
    if endpoint.name == "ollama_tags":
        return ollama_models.tags(_known(name, routes) for name in routes.targets)
    if endpoint.name == "ollama_ps":
        names = [name for name, standing in standings.items() if standing.state in _RUNS and name in routes.targets]
        return ollama_models.ps(Running(_known(name, routes), _expires(name, routes, standings)) for name in names)
    if endpoint.name == "ollama_show":
        asked = _model(body.get("model") or body.get("name"), routes).get("model")
        return ollama_models.show(_known(routes.find(asked).profile, routes))
    return None


def _expires(name: str, routes: Routes, standings: Mapping[str, Standing]) -> float | None:
    """Return when a model is stopped for idling: after its ttl, counted from its last use."""
    ttl = _known(name, routes).ttl
    if ttl is None:
        return None
    return time.time() + min(ttl, max(0.0, standings[name].sleeps - time.monotonic()))


def _known(name: str, routes: Routes) -> Known:
    return routes.models.get(name) or Known(name)


def _model(model: Json, routes: Routes) -> dict[str, str]:
    named = ollama.named(model, routes.named) if isinstance(model, str) else None
    return {} if named is None else {"model": named}
