"""What a cloud is told of a request: the fields of OpenAI's API that a client sent, and no other. Pure."""

from __future__ import annotations

from lmctl.spec import Json

_SAMPLING = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "logit_bias", "stop", "n")
_ACCOUNT = ("user", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier", "metadata")
_COMMON = ("model", "stream", "stream_options", *_ACCOUNT, "store")
_TOOLS = ("tools", "tool_choice", "parallel_tool_calls")

# Fields by the name of the endpoint. What engines of this machine read besides (top_k, min_p, grammar, samplers,
# chat_template_kwargs, cache settings …) is left out: clouds refuse requests with fields that they do not know.
FIELDS: dict[str, frozenset[str]] = {
    "chat": frozenset(
        [
            *(*_COMMON, *_SAMPLING, *_TOOLS, "functions", "function_call"),
            *("messages", "max_tokens", "max_completion_tokens", "response_format", "logprobs", "top_logprobs"),
            *("reasoning_effort", "verbosity", "modalities", "audio", "prediction"),
        ]
    ),
    "completions": frozenset(
        [*_COMMON, *_SAMPLING, "prompt", "suffix", "max_tokens", "logprobs", "echo", "best_of"],
    ),
    "responses": frozenset(
        [
            *(*_COMMON, *_TOOLS, "input", "instructions", "max_output_tokens", "max_tool_calls", "temperature"),
            *("top_p", "top_logprobs", "text", "reasoning", "include", "truncation"),
            *("previous_response_id", "conversation"),
        ]
    ),
    "embeddings": frozenset(["model", "input", "user", "encoding_format", "dimensions"]),
}


def told(endpoint: str, body: dict[str, Json]) -> dict[str, Json]:
    """Return the part of a checked body that a cloud is told. The endpoint is one of FIELDS."""
    known = FIELDS[endpoint]
    return {name: value for name, value in body.items() if name in known}
