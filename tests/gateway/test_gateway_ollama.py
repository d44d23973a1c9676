"""Ollama's requests, in the words of the API that engines speak."""

from __future__ import annotations

import base64
import json

import ollama
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmctl.gateway.bodies import checked
from lmctl.gateway.ollama import Asked, asked, named
from lmctl.gateway.paths import ENDPOINTS
from lmctl.gateway.refused import Refused

BY_NAME = {one.name: one for one in ENDPOINTS}
USER = {"role": "user", "content": "hi"}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(8)).decode()
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def ask(name, **body):
    """Return what is asked for a body that came to the endpoint `name`, judged as every body is."""
    checked(body, BY_NAME[name])
    return asked(name, body)


def chat(**body):
    return ask("ollama_chat", model="m", messages=[USER], stream=False, **body).body


def test_a_chat_is_a_chat_that_streams_unless_told_not_to():
    told = {"messages": [USER]}
    assert ask("ollama_chat", model="m", messages=[USER]) == Asked("/v1/chat/completions", {**STREAMED, **told})
    assert chat() == {"stream": False, **told}


def test_a_prompt_is_a_chat_with_its_system_message():
    told = ask("ollama_generate", model="m", prompt="hi", system="be kind", stream=False)
    assert told.path == "/v1/chat/completions"
    assert told.body["messages"] == [{"role": "system", "content": "be kind"}, USER]


def test_a_raw_prompt_is_completed_as_it_is():
    told = ask("ollama_generate", model="m", prompt="[INST] hi [/INST]", raw=True, options={"num_predict": 3})
    assert told == Asked("/v1/completions", {**STREAMED, "max_tokens": 3, "prompt": "[INST] hi [/INST]"})


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"num_predict": 7, "num_keep": 4}, {"max_tokens": 7, "n_keep": 4}),
        ({"num_predict": -1}, {}),
        ({"num_predict": -2}, {}),
        ({"num_predict": 0}, {"max_tokens": 0}),
        ({"temperature": 0, "top_k": 1, "top_p": 0.5, "min_p": 0.1, "seed": 42, "stop": ["a"]},) * 2,
        ({"repeat_penalty": 1.1}, {"repeat_penalty": 1.1, "repetition_penalty": 1.1}),
        ({"repeat_penalty": -1}, {"repeat_penalty": -1}),
        ({"presence_penalty": 1, "frequency_penalty": 2, "typical_p": 0.5, "repeat_last_n": 64, "mirostat": 0},) * 2,
        ({"tfs_z": 1, "penalize_newline": True, "num_ctx": 4096}, {}),
    ],
    ids=str,
)
def test_options_are_fields_of_the_request(options, told):
    assert chat(options=options) == {"stream": False, "messages": [USER], **told}


def test_every_option_of_ollamas_own_client_is_known_or_refused():
    names = set(ollama.Options.model_fields)
    loading = {"numa", "num_batch", "num_gpu", "main_gpu", "low_vram", "f16_kv", "logits_all", "vocab_only"}
    loading |= {"use_mmap", "use_mlock", "num_thread"}
    for name in sorted(loading):
        with pytest.raises(Refused, match="declare it in the profile"):
            chat(options={name: 1})
    told = {name: [] if name == "stop" else name == "penalize_newline" for name in names - loading}
    values = {name: value if name in ("stop", "penalize_newline") else 1 for name, value in told.items()}
    kept = chat(options=values).keys()
    left_out = {"num_ctx", "embedding_only", "tfs_z", "penalize_newline"}
    assert {*names - loading - left_out} - {"num_predict", "num_keep"} <= kept
    assert {"max_tokens", "n_keep"} <= kept and not left_out & kept


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ("", None),
        ("json", {"type": "json_object"}),
        (
            {"type": "object"},
            {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}},
        ),
    ],
    ids=str,
)
def test_a_format_is_a_response_format(form, told):
    assert chat(format=form).get("response_format") == told


@pytest.mark.parametrize(
    ("think", "told"),
    [
        (True, {"chat_template_kwargs": {"enable_thinking": True}}),
        (False, {"chat_template_kwargs": {"enable_thinking": False}}),
        (
            "high",
            {
                "reasoning_effort": "high",
                "chat_template_kwargs": {"enable_thinking": True, "reasoning_effort": "high"},
            },
        ),
    ],
)
def test_thinking_is_a_switch_of_the_template(think, told):
    assert chat(think=think) == {"stream": False, "messages": [USER], **told}


def test_probabilities_are_asked_for_in_each_apis_way():
    assert chat(logprobs=True, top_logprobs=3).items() >= {"logprobs": True, "top_logprobs": 3}.items()
    assert chat(logprobs=True)["top_logprobs"] == 0
    assert chat(top_logprobs=3).keys() == {"stream", "messages"}
    raw = ask("ollama_generate", model="m", prompt="a", raw=True, stream=False, logprobs=True, top_logprobs=2)
    assert raw.body == {"stream": False, "logprobs": 2, "prompt": "a"}


def test_fields_that_steer_ollama_itself_go_no_further():
    assert chat(keep_alive="5m", truncate=True, shift=False) == {"stream": False, "messages": [USER]}


@pytest.mark.parametrize(
    ("image", "kind"),
    [(PNG, "png"), ("/9j/AAAA", "jpeg"), ("R0lGODlh", "gif"), ("UklGRiIA", "webp"), ("AAAA", "jpeg")],
)
def test_an_image_is_a_part_of_its_message(image, kind):
    parts = [
        {"type": "text", "text": "hi"},
        {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{image}"}},
    ]
    told = ask("ollama_chat", model="m", messages=[{**USER, "images": [image]}])
    assert told.body["messages"] == [{"role": "user", "content": parts}]
    assert ask("ollama_generate", model="m", prompt="hi", images=[image]).body["messages"] == [
        {"role": "user", "content": parts}
    ]


def test_tools_pass_and_say_what_they_are():
    assert chat(tools=[TOOL])["tools"] == [TOOL]
    assert chat(tools=[{"function": TOOL["function"]}])["tools"] == [TOOL]
    assert "tools" not in chat(tools=[])


def call(name, **arguments):
    return {"function": {"name": name, "arguments": arguments}}


def test_calls_get_ids_and_results_find_their_call():
    told = ask(
        "ollama_chat",
        model="m",
        messages=[
            USER,
            {"role": "assistant", "tool_calls": [call("weather", city="Köln"), call("time")], "thinking": "so"},
            {"role": "tool", "tool_name": "time", "content": "noon"},
            {"role": "tool", "content": "rain"},
            {"role": "assistant", "content": "", "tool_calls": [{"id": "mine", **call("time")}]},
            {"role": "tool", "tool_call_id": "mine", "content": "one"},
            {"role": "tool", "content": "for nothing"},
        ],
    ).body["messages"]
    first = told[1]
    assert [one["id"] for one in first["tool_calls"]] == ["call_0", "call_1"]
    assert json.loads(first["tool_calls"][0]["function"]["arguments"]) == {"city": "Köln"}
    assert first["tool_calls"][1] == {
        "id": "call_1",
        "type": "function",
        "function": {"name": "time", "arguments": "{}"},
    }
    assert (first["content"], first["reasoning_content"]) == ("", "so")
    assert told[2] == {"role": "tool", "content": "noon", "tool_call_id": "call_1", "name": "time"}
    assert told[3] == {"role": "tool", "content": "rain", "tool_call_id": "call_0"}
    assert told[4]["tool_calls"][0]["id"] == told[5]["tool_call_id"] == "mine"
    assert "tool_call_id" not in told[6]


@pytest.mark.parametrize(
    "message",
    [
        {"content": "hi"},
        {"role": 1, "content": "hi"},
        {"role": "assistant", "tool_calls": {}, "content": ""},
        {"role": "assistant", "tool_calls": "x"},
        {"role": "assistant", "tool_calls": ["x"]},
        {"role": "assistant", "tool_calls": [{}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": 1}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]},
    ],
    ids=lambda message: f"I121-{message}",
)
def test_a_message_that_is_none_is_refused(message):
    with pytest.raises(Refused) as raised:
        ask("ollama_chat", model="m", messages=[message])
    assert (raised.value.status, raised.value.code) == (400, "out_of_range")
    assert raised.value.param.startswith("messages")


@pytest.mark.parametrize("form", ["xml", 1, [], True])
def test_I121_a_format_that_is_none_is_refused(form):
    with pytest.raises(Refused, match="format must be an object"):
        chat(format=form)


@pytest.mark.parametrize(
    "body",
    [
        {"raw": True, "system": "x"},
        {"raw": True, "images": [PNG]},
        {"raw": True, "format": "json"},
    ],
    ids=str,
)
def test_what_no_engine_can_do_is_refused_and_not_left_out(body):
    with pytest.raises(Refused) as raised:
        ask("ollama_generate", model="m", prompt="a", **body)
    assert (raised.value.status, raised.value.code) == (400, "not_supported")


@pytest.mark.parametrize("body", [{"suffix": "x"}, {"context": [1, 2]}, {"template": "{{ .Prompt }}"}], ids=str)
def test_I122_what_no_engine_takes_is_refused_as_a_field(body):
    with pytest.raises(Refused, match="is not allowed: ") as raised:
        ask("ollama_generate", model="m", prompt="a", **body)
    assert raised.value.code == "field_not_allowed"


def test_what_clients_send_for_nothing_asks_for_nothing():
    """As the API's client in Go does, which writes every field."""
    empty = {"system": "", "template": "", "suffix": "", "images": [], "context": [], "raw": False, "format": ""}
    told = ask("ollama_generate", model="m", prompt="hi", stream=False, options={}, **empty)
    assert told.body == {"stream": False, "messages": [USER]}


@pytest.mark.parametrize("body", [{}, {"messages": []}, {"messages": None}])
@pytest.mark.parametrize(
    ("keep", "done"),
    [
        *((keep, "load") for keep in (None, "5m", -1, "", "s", "10s", "-1m", 0.5)),
        *((keep, "unload") for keep in (0, 0.0, "0", "0s", "0.0m")),
    ],
)
def test_a_request_with_nothing_in_it_is_for_the_model_alone(body, keep, done):
    body = {"model": "m", "keep_alive": keep, **body}
    assert ask("ollama_chat", **body) == ask("ollama_generate", model="m", keep_alive=keep) == Asked(done=done)


def test_texts_are_embedded():
    told = ask("ollama_embed", model="m", input=["a", "b"], dimensions=3, truncate=True, options={"seed": 1})
    assert told == Asked("/v1/embeddings", {"input": ["a", "b"], "encoding_format": "float", "dimensions": 3})
    told = ask("ollama_embeddings", model="m", prompt="a")
    assert told == Asked("/v1/embeddings", {"input": "a", "encoding_format": "float"})
    assert ask("ollama_embed", model="m", input=[]) == ask("ollama_embeddings", model="m", prompt="") == Asked()


@pytest.mark.parametrize(
    ("model", "means"),
    [
        ("hello", "hello"),
        ("hello:latest", "hello"),
        ("exact:latest", "exact:latest"),
        ("qwen3:8b", "qwen3:8b"),
        ("other:latest", "other"),
    ],
)
def test_a_name_without_a_tag_has_the_tag_latest_at_ollama(model, means):
    assert named(model, {"hello", "exact:latest", "exact"}.__contains__) == means


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
MESSAGE = st.dictionaries(
    st.sampled_from(["role", "content", "images", "tool_calls", "thinking", "tool_name", "tool_call_id", "name"]), ANY
)
CALL = st.fixed_dictionaries(
    {"role": TEXT}, optional={"tool_calls": st.lists(st.dictionaries(st.sampled_from(["function", "id"]), ANY))}
)
FIELDS = ["prompt", "input", "options", "format", "think", "keep_alive", "tools"]
FIELDS += ["raw", "suffix", "context", "images", "system", "logprobs", "stream"]


@given(
    st.sampled_from(["ollama_chat", "ollama_generate", "ollama_embed", "ollama_embeddings"]),
    st.lists(MESSAGE | CALL, max_size=3),
    st.dictionaries(st.sampled_from(FIELDS), ANY, max_size=5),
)
def test_any_body_becomes_a_request_that_passes_as_one_of_openais_or_is_refused(name, messages, body):
    try:
        told = ask(name, model="m", messages=messages, **body)
    except Refused as refused:
        assert refused.status == 400
        return
    assert bool(told.path) == bool(told.body)
    if told.path:
        openai = next(one for one in ENDPOINTS if one.upstream == told.path)
        passed = json.loads(json.dumps(told.body))
        checked(passed, openai)
        assert passed == told.body
