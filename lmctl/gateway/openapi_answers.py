"""What the gateway's OpenAPI document says of answers: those that it gives by itself, and errors in each dialect."""

from __future__ import annotations

from collections.abc import Mapping

from lmctl.gateway.refused import Dialect
from lmctl.spec import Json

# What a stream is made of.
EVENTS: Mapping[Dialect, str] = {
    "openai": "text/event-stream",
    "anthropic": "text/event-stream",
    "ollama": "application/x-ndjson",
}
# The schema of a refusal.
ERRORS: Mapping[Dialect, str] = {"openai": "Error", "anthropic": "AnthropicError", "ollama": "OllamaError"}


def _object(required: str, **properties: Json) -> dict[str, Json]:
    """Return the schema of an object; `required` are names in one line."""
    return {"type": "object", "required": [*required.split()], "properties": properties}


def _list(items: Json) -> dict[str, Json]:
    return {"type": "array", "items": items}


def _ref(name: str) -> dict[str, Json]:
    return {"$ref": f"#/components/schemas/{name}"}


_TEXT: dict[str, Json] = {"type": "string"}
_COUNT: dict[str, Json] = {"type": "integer", "minimum": 0}
_DATE: dict[str, Json] = {"type": "string", "format": "date-time"}

_CALL = _object("function", id=_TEXT, function=_object("name arguments", name=_TEXT, arguments={"type": "object"}))
_ENDED: dict[str, Json] = {
    "model": _TEXT,
    "created_at": _DATE,
    "done": {"const": True},
    "done_reason": {"enum": ["stop", "length", "load", "unload"]},
    "total_duration": _COUNT,
    "load_duration": _COUNT,
    "prompt_eval_count": _COUNT,
    "prompt_eval_duration": _COUNT,
    "eval_count": _COUNT,
    "eval_duration": _COUNT,
    "logprobs": _list({"type": "object"}),
}
_ALWAYS = "model created_at done done_reason total_duration load_duration"
_MODEL = _object("id object owned_by", id=_TEXT, object={"const": "model"}, created=_COUNT, owned_by={"const": "lmctl"})
_DETAILS = _object(
    "format family families parameter_size quantization_level",
    parent_model=_TEXT,
    format=_TEXT,
    family=_TEXT,
    families=_list(_TEXT),
    parameter_size=_TEXT,
    quantization_level=_TEXT,
)
_ENTRY: dict[str, Json] = {
    "name": _TEXT,
    "model": _TEXT,
    "size": _COUNT,
    "digest": _TEXT,
    "details": _ref("OllamaDetails"),
}
_VECTOR = _list({"type": "number"})

SCHEMAS: Mapping[str, Json] = {
    "Error": _object(
        "error",
        error=_object("message", message=_TEXT, type=_TEXT, param={"type": ["string", "null"]}, code={}),
    ),
    "AnthropicError": _object("error", type={"const": "error"}, error=_object("message", type=_TEXT, message=_TEXT)),
    "OllamaError": _object("error", error=_TEXT),
    "OllamaDetails": _DETAILS,
    "OllamaMessage": _object(
        "role content", role={"const": "assistant"}, content=_TEXT, thinking=_TEXT, tool_calls=_list(_CALL)
    ),
}

# By endpoint: the content type of a whole answer, and its schema. Others are the engine's own.
ANSWERS: Mapping[str, tuple[str, dict[str, Json]]] = {
    "health": ("application/json", _object("status", status=_TEXT)),
    "metrics": ("text/plain", _TEXT),
    "models": ("application/json", _object("object data", object={"const": "list"}, data=_list(_MODEL))),
    "model": ("application/json", _MODEL),
    "root": ("text/plain", _TEXT),
    "ollama_version": ("application/json", _object("version", version=_TEXT)),
    "ollama_tags": ("application/json", _object("models", models=_list(_object("name model details", **_ENTRY)))),
    "ollama_ps": (
        "application/json",
        _object(
            "models",
            models=_list(_object("name model expires_at", **_ENTRY, expires_at=_DATE, context_length=_COUNT)),
        ),
    ),
    "ollama_show": (
        "application/json",
        _object(
            "details model_info capabilities",
            modelfile=_TEXT,
            template=_TEXT,
            parameters=_TEXT,
            details=_ref("OllamaDetails"),
            model_info={"type": "object"},
            capabilities=_list(_TEXT),
        ),
    ),
    "ollama_chat": ("application/json", _object(f"{_ALWAYS} message", message=_ref("OllamaMessage"), **_ENDED)),
    "ollama_generate": ("application/json", _object(f"{_ALWAYS} response", response=_TEXT, thinking=_TEXT, **_ENDED)),
    "ollama_embed": (
        "application/json",
        _object(
            "model embeddings",
            model=_TEXT,
            embeddings=_list(_VECTOR),
            total_duration=_COUNT,
            load_duration=_COUNT,
            prompt_eval_count=_COUNT,
        ),
    ),
    "ollama_embeddings": ("application/json", _object("embedding", embedding=_VECTOR)),
}
