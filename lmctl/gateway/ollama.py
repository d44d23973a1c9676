"""Ollama's requests in the words of an engine's OpenAI API. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Literal

from lmctl.gateway.refused import Refused
from lmctl.record import NOTHING, record
from lmctl.spec import Json

Done = Literal["load", "unload"]

_RENAMED = {"num_predict": "max_tokens", "num_keep": "n_keep"}
_FORGOTTEN = frozenset(["tfs_z", "penalize_newline"])  # options that no engine knows any more
# Engines take an image with the name of its format, which the first bytes tell; they look for themselves anyhow.
_IMAGES = {"iVBOR": "image/png", "R0lGOD": "image/gif", "UklGR": "image/webp"}
_ZERO = re.compile(r"[+-]?0+(?:\.0*)?(?:ns|us|µs|ms|s|m|h)?")


@record
class Asked:
    """What an engine is asked: a path and a body of its API; no path where the model is all that was asked for."""

    path: str = ""
    body: Mapping[str, Json] = NOTHING
    done: Done = "load"  # why the answer ends, where there is no path


def named(model: str, known: Callable[[str], object]) -> str:
    """Return the name that a client means: Ollama's write `:latest` behind every name that has no tag.

    `known` returns something true for a name that is one as it is.
    """
    return model if known(model) else model.removesuffix(":latest")


def asked(endpoint: str, body: Mapping[str, Json]) -> Asked:
    """Return what to ask an engine for a body that `bodies.checked` took; its `model` is left out.

    Raises Refused 400 `not_supported` where an answer would silently lack what was asked for.
    """
    return _ASKED[endpoint](body)


def _chat(body: Mapping[str, Json]) -> Asked:
    given = body.get("messages")
    if not isinstance(given, list) or not given:
        return _nothing(body)
    calls = _Calls()
    told: list[Json] = [_message(one, calls) for one in given if isinstance(one, dict)]
    return Asked("/v1/chat/completions", {**_chosen(body), **_tools(body), "messages": told})


def _generate(body: Mapping[str, Json]) -> Asked:
    prompt = body.get("prompt")
    if not prompt:
        return _nothing(body)
    if body.get("raw"):
        for name in ("system", "images", "format"):
            if body.get(name):
                raise Refused(400, "not_supported", f"raw does not go with {name}", param=name)
        chosen = _chosen(body)
        if chosen.pop("logprobs", False):  # how many, in this API
            chosen["logprobs"] = chosen.pop("top_logprobs", None) or 1
        return Asked("/v1/completions", {**chosen, "prompt": prompt})
    told: list[Json] = [{"role": "system", "content": body["system"]}] if body.get("system") else []
    told.append({"role": "user", "content": _content(prompt, body.get("images"))})
    return Asked("/v1/chat/completions", {**_chosen(body), "messages": told})


def _embed(body: Mapping[str, Json]) -> Asked:
    given = body.get("input", body.get("prompt"))
    if not given:
        return _nothing(body)
    wide = {"dimensions": body["dimensions"]} if "dimensions" in body else {}
    return Asked("/v1/embeddings", {"input": given, "encoding_format": "float", **wide})


_ASKED: dict[str, Callable[[Mapping[str, Json]], Asked]] = {
    "ollama_chat": _chat,
    "ollama_generate": _generate,
    "ollama_embed": _embed,
    "ollama_embeddings": _embed,
}


def _nothing(body: Mapping[str, Json]) -> Asked:
    """Return the request for a model alone; one that says how long to keep it not at all is a farewell."""
    keep = body.get("keep_alive")
    if isinstance(keep, str):
        return Asked(done="unload" if _ZERO.fullmatch(keep) else "load")
    return Asked(done="unload" if keep is not None and keep == 0 else "load")


def _chosen(body: Mapping[str, Json]) -> dict[str, Json]:
    """Return what goes with every prompt: how it is streamed, sampled, constrained, thought about and told."""
    made: dict[str, Json] = {"stream": body.get("stream", True)}
    if made["stream"]:
        made["stream_options"] = {"include_usage": True}
    return made | _options(body.get("options")) | _format(body.get("format")) | _think(body.get("think")) | _told(body)


def _options(options: Json) -> dict[str, Json]:
    made: dict[str, Json] = {}
    for name, value in options.items() if isinstance(options, dict) else ():
        if name == "num_predict" and isinstance(value, int) and value < 0:
            continue  # -1: no end, -2: as far as the context goes; no limit of its own means both
        if name not in _FORGOTTEN:
            made[_RENAMED.get(name, name)] = value
    penalty = made.get("repeat_penalty")
    if isinstance(penalty, int | float) and penalty >= 0:  # the same in the words of mlx_lm.server and vLLM
        made.setdefault("repetition_penalty", penalty)
    return made


def _format(form: Json) -> dict[str, Json]:
    if form is None or form == "":
        return {}
    if form == "json":
        return {"response_format": {"type": "json_object"}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": form}}}


def _think(think: Json) -> dict[str, Json]:
    if think is None or think == "":
        return {}
    if isinstance(think, bool):
        return {"chat_template_kwargs": {"enable_thinking": think}}
    variables: dict[str, Json] = {"enable_thinking": True, "reasoning_effort": think}
    return {"reasoning_effort": think, "chat_template_kwargs": variables}


def _told(body: Mapping[str, Json]) -> dict[str, Json]:
    if not body.get("logprobs"):
        return {}
    return {"logprobs": True, "top_logprobs": body.get("top_logprobs", 0)}


def _tools(body: Mapping[str, Json]) -> dict[str, Json]:
    given = body.get("tools")
    if not isinstance(given, list) or not given:
        return {}
    return {"tools": [{"type": "function", **tool} for tool in given if isinstance(tool, dict)]}


class _Calls:
    """Names the calls of a conversation, for Ollama's clients do not, and finds the one that a result belongs to."""

    def __init__(self) -> None:
        self._made = 0
        self._open: list[tuple[str, str]] = []  # id and name of the calls without a result so far

    def made(self, name: str, id: Json) -> str:
        """Return the id of a call of the function `name`; `id` is what the client calls it, if it does."""
        told = id if isinstance(id, str) and id else f"call_{self._made}"
        self._made += 1
        self._open.append((told, name))
        return told

    def answered(self, name: Json, id: Json) -> str | None:
        """Return the id of the call that a result is for, None where there was none."""
        for at, one in enumerate(self._open):
            if (one[0] == id) if id else (name is None or one[1] == name):
                return self._open.pop(at)[0]
        return id if isinstance(id, str) and id else None


def _message(one: Mapping[str, Json], calls: _Calls) -> dict[str, Json]:
    made: dict[str, Json] = {"role": one["role"], "content": _content(one.get("content"), one.get("images"))}
    thinking, given = one.get("thinking"), one.get("tool_calls")
    if isinstance(thinking, str) and thinking:
        made["reasoning_content"] = thinking
    if isinstance(given, list) and given:
        made["tool_calls"] = [_call(call, calls) for call in given if isinstance(call, dict)]
    if one["role"] == "tool":
        name = one.get("tool_name") or one.get("name")
        id = calls.answered(name, one.get("tool_call_id"))
        made |= {key: value for key, value in (("tool_call_id", id), ("name", name)) if isinstance(value, str)}
    return made


def _call(call: Mapping[str, Json], calls: _Calls) -> Json:
    function = call["function"]
    assert isinstance(function, dict)  # as of every checked call
    name, given = str(function["name"]), function.get("arguments") or {}
    text = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
    told: dict[str, Json] = {"name": name, "arguments": text}
    return {"id": calls.made(name, call.get("id")), "type": "function", "function": told}


def _content(content: Json, images: Json) -> Json:
    """Return the content of a message: text, or parts where there are images or the client sent parts."""
    if not images or not isinstance(images, list):
        return "" if content is None else content
    parts: list[Json] = [*content] if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    parts += [{"type": "image_url", "image_url": {"url": _url(str(one))}} for one in images]
    return parts


def _url(image: str) -> str:
    kind = next((kind for start, kind in _IMAGES.items() if image.startswith(start)), "image/jpeg")
    return f"data:{kind};base64,{image}"
