"""What the gateway serves: every path in one table, matched byte by byte, and nothing else."""

from __future__ import annotations

import re

from lmctl.errors import escape
from lmctl.gateway.refused import Dialect, Refused
from lmctl.record import record, replace


@record
class Endpoint:
    """One method of one path.

    `upstream` is the engine's path for requests that are passed on as they are, empty where the gateway answers by
    itself (`answered`) or translates. `model` is the name in the path of `/v1/models/{name}`.
    """

    name: str
    dialect: Dialect
    method: str
    path: str
    upstream: str = ""
    body: bool = False  # it reads a JSON object
    stream: bool = False  # `stream` may ask for server-sent events, for JSON lines in Ollama's dialect
    model: str | None = None
    answered: bool = False


def _passed(name: str, dialect: Dialect, path: str, stream: bool = False) -> Endpoint:
    return Endpoint(name, dialect, "POST", path, upstream=path, body=True, stream=stream)


def _own(name: str, dialect: Dialect, path: str) -> Endpoint:
    return Endpoint(name, dialect, "GET", path, answered=True)


ENDPOINTS = (
    _passed("chat", "openai", "/v1/chat/completions", stream=True),
    _passed("completions", "openai", "/v1/completions", stream=True),
    _passed("responses", "openai", "/v1/responses", stream=True),
    _passed("embeddings", "openai", "/v1/embeddings"),
    _passed("rerank", "openai", "/v1/rerank"),
    _own("models", "openai", "/v1/models"),
    _own("health", "openai", "/health"),
    _own("metrics", "openai", "/metrics"),
    _passed("messages", "anthropic", "/v1/messages", stream=True),  # llama-server and vLLM speak it themselves
    _passed("count_tokens", "anthropic", "/v1/messages/count_tokens"),
    _own("root", "ollama", "/"),  # which Ollama's clients ask to hear whether anybody is there
    _own("ollama_version", "ollama", "/api/version"),
    _own("ollama_tags", "ollama", "/api/tags"),
    _own("ollama_ps", "ollama", "/api/ps"),
    Endpoint("ollama_show", "ollama", "POST", "/api/show", body=True, answered=True),
    Endpoint("ollama_chat", "ollama", "POST", "/api/chat", body=True, stream=True),
    Endpoint("ollama_generate", "ollama", "POST", "/api/generate", body=True, stream=True),
    Endpoint("ollama_embed", "ollama", "POST", "/api/embed", body=True),
    Endpoint("ollama_embeddings", "ollama", "POST", "/api/embeddings", body=True),  # as it was before /api/embed
)
MODEL = _own("model", "openai", "/v1/models/{name}")

_EXACT = {one.path.encode(): one for one in ENDPOINTS}
# Names and aliases hold slashes and colons; a percent sign is none of their characters, so nothing is ever decoded.
_MODEL = re.compile(rb"/v1/models/((?!\.{0,2}(?:/|\Z))[A-Za-z0-9._:@+-]+(?:/(?!\.{0,2}(?:/|\Z))[A-Za-z0-9._:@+-]+)*)")
_LONGEST_NAME = 128  # bytes, as of an alias


def dialect(raw_path: bytes) -> Dialect:
    """Return the dialect in which a refusal of this path is read, served or not."""
    if raw_path.startswith(b"/api/"):
        return "ollama"
    return "anthropic" if raw_path.startswith(b"/v1/messages") else "openai"


def endpoint(method: str, raw_path: bytes) -> Endpoint:
    """Return what serves this request; `raw_path` as it came on the request line, a query is cut off and never read.

    Refused: 404 `not_found` for a path that is not in the table, 405 `method_not_allowed` for another method of one.
    """
    path = raw_path.partition(b"?")[0]
    found = _EXACT.get(path) or _model(path)
    if found is None:
        shown = escape(path.decode("latin-1"), 100)
        raise Refused(404, "not_found", f"{shown} is not served here; GET /v1/models lists the models")
    if method != found.method and not (method == "HEAD" and found.method == "GET"):
        shown = f"{escape(method, 20)} {escape(path.decode('latin-1'), 100)}"
        allow = (("Allow", "GET, HEAD" if found.method == "GET" else found.method),)
        raise Refused(405, "method_not_allowed", f"{shown} is not served; use {found.method}", headers=allow)
    return found


def _model(path: bytes) -> Endpoint | None:
    matched = _MODEL.fullmatch(path)
    if matched is None or len(matched[1]) > _LONGEST_NAME:
        return None
    return replace(MODEL, model=matched[1].decode("ascii"))
