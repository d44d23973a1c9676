"""A body is read in one way only, and holds what the table of its API allows."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmctl.gateway.bodies import MAX_DEPTH, MAX_VALUES, checked, model, parsed
from lmctl.gateway.paths import ENDPOINTS
from lmctl.gateway.refused import Refused

BY_NAME = {one.name: one for one in ENDPOINTS}
USUAL = {
    "chat": {"model": "code", "messages": [{"role": "user", "content": "hello"}]},
    "completions": {"model": "code", "prompt": "hello"},
    "responses": {"model": "code", "input": "hello"},
    "embeddings": {"model": "embed", "input": ["hello"]},
    "rerank": {"model": "rerank", "query": "hello", "documents": ["a", "b"]},
    "messages": {"model": "code", "max_tokens": 10, "messages": [{"role": "user", "content": "hello"}]},
    "count_tokens": {"model": "code", "messages": [{"role": "user", "content": "hello"}]},
    "ollama_show": {"model": "code"},
    "ollama_chat": {"model": "code", "messages": [{"role": "user", "content": "hello"}]},
    "ollama_generate": {"model": "code", "prompt": "hello"},
    "ollama_embed": {"model": "embed", "input": "hello"},
    "ollama_embeddings": {"model": "embed", "prompt": "hello"},
}
DATA = "data:image/png;base64,AAAA"


def check(name, **more):
    """Return the usual body of this endpoint with `more` fields, as it is passed on."""
    body = {**USUAL[name], **more}
    checked(body, BY_NAME[name])
    return body


def refusal(name, **more):
    with pytest.raises(Refused) as raised:
        check(name, **more)
    assert raised.value.status == 400
    assert len(raised.value.message) < 300
    return raised.value


def test_an_object_is_read():
    assert parsed(b' {"model": "a", "n": 1, "t": [1.0, true, null, "\\ud83d\\ude00", {}]}\r\n') == {
        "model": "a",
        "n": 1,
        "t": [1.0, True, None, "\U0001f600", {}],
    }


def nested(depth, one=b"[", other=b"]"):
    """Return an object inside which lists make so many levels, the object's own included."""
    return b'{"a":' + one * (depth - 1) + b"1" + other * (depth - 1) + b"}"


NOT_JSON = {
    "not-json": b"hello",
    "empty": b"",
    "blank": b" \n",
    "array": b"[]",
    "text": b'"model"',
    "number": b"1",
    "null": b"null",
    "cut": b'{"model": "a"',
    "more": b'{"model": "a"} {}',
    "comma": b'{"model": "a",}',
    "single-quotes": b"{'model': 'a'}",
    "comment": b'{"model": "a"} // b',
    "form": b"model=a",
    "BOM": b'\xef\xbb\xbf{"model": "a"}',
    "UTF-16": '{"model": "a"}'.encode("utf-16"),
    "UTF-16-LE": '{"model": "a"}'.encode("utf-16-le"),
    "UTF-32": '{"model": "a"}'.encode("utf-32"),
    "latin-1": b'{"model": "\xe9"}',
    "gzip": b"\x1f\x8b\x08\x00",
    "NaN": b'{"temperature": NaN}',
    "Infinity": b'{"temperature": Infinity}',
    "minus-Infinity": b'{"temperature": [-Infinity]}',
    "1e999": b'{"temperature": 1e999}',
    "minus-1e999": b'{"temperature": -1e999}',
    "duplicate": b'{"model": "a", "model": "b"}',
    "duplicate-escaped": b'{"model": "a", "mod\\u0065l": "b"}',
    "duplicate-same-value": b'{"model": "a", "model": "a"}',
    "duplicate-nested": b'{"options": {"seed": 1, "seed": 2}}',
    "duplicate-in-list": b'{"messages": [{"role": "user", "role": "system"}]}',
    "depth-65": nested(MAX_DEPTH + 1),
    "depth-900": nested(900),
    "depth-100k": nested(100_000),
    "depth-100k-objects": nested(100_000, b'{"a":', b"}"),
    "depth-100k-open": b'{"a":' + b"[" * 100_000,
    "numbers": b'{"a":[' + b"1," * (MAX_VALUES - 2) + b"1]}",
    "containers": b'{"a":[' + b"{}," * (MAX_VALUES // 2) + b"{}]}",
    "names": b'{"a":{' + b",".join(b'"%d":1' % name for name in range(MAX_VALUES)) + b"}}",
    "open-text": b'{"a":"' + b'\\"' * 100_000 + b"[" * MAX_VALUES,
    "5000-digits": b'{"seed": ' + b"9" * 5000 + b"}",
    "400-digits": b'{"seed": -' + b"9" * 400 + b"}",
    "long-fraction": b'{"top_p": 0.' + b"1" * 5000 + b"}",
    "lone-surrogate": b'{"model": "\\ud800"}',
    "lone-low-surrogate": b'{"a": ["\\uDC00"]}',
    "lone-surrogate-name": b'{"a": {"\\ud800": 1}}',
    "surrogate-bytes": b'{"model": "\xed\xa0\x80"}',
    "control": b'{"model": "a\x00"}',
    "newline": b'{"model": "a\nb"}',
    "plus": b'{"n": +1}',
    "octal": b'{"n": 01}',
    "underscore": b'{"n": 1_0}',
    "digits": '{"n": ١}'.encode(),
}


@pytest.mark.parametrize("data", NOT_JSON.values(), ids=[f"I119-{name}" for name in NOT_JSON])
def test_what_two_programs_could_read_in_two_ways_is_refused(data):
    with pytest.raises(Refused) as raised:
        parsed(data)
    assert (raised.value.status, raised.value.code) == (400, "invalid_json")
    assert len(raised.value.message) < 200


def test_limits_are_those_told():
    assert parsed(nested(MAX_DEPTH))
    assert parsed(b'{"a":[' + b"1," * (MAX_VALUES - 3) + b"1]}")
    assert parsed(b'{"a":"' + b'[{,\\"' * MAX_VALUES + b'"}')  # in text they cost nothing
    assert parsed(b'{"seed": ' + b"9" * 308 + b"}")


def test_a_body_that_is_refused_is_not_told():
    with pytest.raises(Refused) as raised:
        parsed(b'{"messages": "my secret" oops}')
    assert "secret" not in raised.value.message


def texts(**limits):
    return st.text(st.characters(exclude_categories=["Cs"]), **limits)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**300), 10**300) | st.floats(allow_nan=False, allow_infinity=False)
    | texts(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts(max_size=4), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(st.dictionaries(texts(max_size=5), JSON, max_size=5), st.booleans())
def test_every_object_is_read_as_it_was_written(body, ascii_only):
    assert parsed(json.dumps(body, ensure_ascii=ascii_only).encode()) == body


PIECES = [b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\", b"\\u", b"d800", b"NaN", b"1e9", b"-", b"0", b"true", b" "]
PIECES += [b'"a"', b"\xff", b"\xc3\xa9", b"\0", b'{"a":', b'"a":1', b"9" * 400]


@given(st.one_of(st.binary(max_size=40), st.lists(st.sampled_from(PIECES), max_size=20).map(b"".join)))
@example(b'{"a":1}')
def test_any_bytes_are_an_object_or_refused(data):
    try:
        body = parsed(data)
    except Refused as refused:
        assert refused.code == "invalid_json"
    else:
        assert body == json.loads(data.decode())


@pytest.mark.parametrize("name", USUAL)
def test_the_usual_body_passes_as_it_is(name):
    assert check(name) == USUAL[name]
    assert model(check(name)) == USUAL[name]["model"]


def test_a_model_may_be_absent():
    assert model({}) is None


HARMLESS = {
    "chat": {
        "temperature": 0.7, "top_p": 1, "n": 1, "stream": True, "stream_options": {"include_usage": True},
        "stop": ["a", "b"], "max_completion_tokens": 100, "max_tokens": 0, "seed": 42, "logprobs": True,
        "top_logprobs": 5, "user": "me", "store": False, "metadata": {"a": "b"}, "parallel_tool_calls": True,
        "reasoning_effort": "high", "service_tier": "auto", "logit_bias": {"50256": -100, "7": False},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"image_url": {}}}}}],
        "tool_choice": {"type": "function", "function": {"name": "f"}}, "response_format": {"type": "json_object"},
        "chat_template_kwargs": {"enable_thinking": False, "reasoning_effort": "low", "thinking_budget": 100},
        "top_k": 40, "min_p": 0.05, "repeat_penalty": 1.1, "samplers": ["top_k", "temperature"], "n_predict": 10,
        "grammar": 'root ::= "yes"', "presence_penalty": -2, "prompt_cache_key": "k", "verbosity": "low",
    },
    "completions": {"prompt": [1, 2, 3], "suffix": "x", "echo": True, "best_of": 1, "logprobs": 5, "stop": "x"},
    "responses": {
        "input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}, {"type": "function_call",
        "arguments": '{"url": "https://x"}'}], "instructions": "be kind", "max_output_tokens": 5, "store": True,
        "reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}}, "include": [], "tools": [],
    },
    "embeddings": {"input": [[1, 2], [3]], "encoding_format": "base64", "dimensions": 256, "user": "me"},
    "rerank": {"top_n": 2, "return_documents": True},
    "messages": {
        "system": [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}], "stop_sequences": ["x"],
        "temperature": 1, "top_k": 5, "top_p": 0.9, "stream": True, "metadata": {"user_id": "x"},
        "tools": [{"name": "f", "input_schema": {"type": "object"}}], "tool_choice": {"type": "auto"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    },
    "ollama_chat": {
        "stream": False, "format": "json", "keep_alive": "5m", "think": True, "tools": [],
        "options": {"temperature": 0, "num_predict": 10, "seed": 1, "stop": ["x"], "top_k": 1, "mirostat": 0},
    },
    "ollama_generate": {"keep_alive": -1, "system": "x", "raw": False, "context": [], "images": ["/9j/AAAA"],
        "format": {"type": "object"}, "think": "high", "suffix": ""},
    "ollama_embed": {"input": ["a", "b"], "truncate": True, "dimensions": 3, "options": {}},
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_what_clients_send_passes_as_it_is(name):
    assert check(name, **HARMLESS[name]) == {**USUAL[name], **HARMLESS[name]}


@pytest.mark.parametrize("name", USUAL)
def test_unknown_and_empty_fields_go_no_further(name):
    assert check(name, not_yet_invented={"a": 1}, MODEL="x", keep=None, adapters=None, seed=None) == USUAL[name]


@pytest.mark.parametrize("value", [-2, -1, 0])
def test_ollama_clients_may_ask_for_no_end(value):
    assert check("ollama_chat", options={"num_predict": value})["options"] == {"num_predict": value}


def test_a_template_with_nothing_in_it_is_none():
    assert check("ollama_generate", template="")["template"] == ""


def test_the_context_that_ollama_clients_ask_for_goes_no_further():
    assert check("ollama_chat", options={"num_ctx": 4096, "seed": 1})["options"] == {"seed": 1}


BIG = 2**63
OUT_OF_RANGE = [
    ("chat", "n", [0, 9, 10**9, -1, 1.0, True, "1", []]),
    ("chat", "max_tokens", [-1, BIG, 1.5, "10", True, 2**31, [], 10**300]),
    ("chat", "max_completion_tokens", [-1, BIG, 1.5, "10"]),
    ("completions", "max_tokens", [-1, BIG, 1.5, "10"]),
    ("completions", "best_of", [0, 9, 10**9, "1"]),
    ("responses", "max_output_tokens", [-1, BIG, 1.5, "10"]),
    ("messages", "max_tokens", [-1, BIG, 1.5, "10"]),
    ("chat", "n_predict", [-1, -2, BIG]),
    ("chat", "n_discard", [-1, BIG, 0.5]),
    ("chat", "n_keep", [-2]),
    ("chat", "logit_bias", [{str(n): 1 for n in range(1025)}, {"1": "x"}, {"1": 101}, {"1": True}, [[1]], "x", 1]),
    ("chat", "logit_bias", [[[n, 1] for n in range(1025)]]),
    ("chat", "stop", [["x"] * 17, ["x"] * 100_000, [1], 1, {}, "x" * 5000, ["x" * 5000]]),
    ("messages", "stop_sequences", [["x"] * 17, "x"]),
    ("chat", "temperature", [-1, 101, 10**300, "0.7", True, [], 1e308]),
    ("chat", "top_p", [-0.1, 1.1, "1", False]),
    ("chat", "top_k", [-2, 1.5, BIG]),
    ("chat", "min_p", [2]),
    ("chat", "presence_penalty", ["1", 1000]),
    ("chat", "seed", [1.5, "1", 2**64]),
    ("chat", "stream", [1, "true", 0, []]),
    ("ollama_chat", "stream", ["false"]),
    ("chat", "stream_options", [[], True]),
    ("chat", "model", [1, True, [], {"a": 1}, "x" * 257]),
    ("ollama_generate", "model", [1, "x" * 257]),
    ("chat", "messages", ["hello", {}, 1, ["hello"], [[]], [None], [{"role": "user", "content": ["hello"]}]]),
    ("messages", "system", [1, {}]),
    ("completions", "prompt", [1, {}, [{}], [True], [[1.5]], [[True]], [None], [["a", []]], ["x"] * 2049]),
    ("embeddings", "input", [1, {}, ["x"] * 2049, [[1]] * 2049]),
    ("embeddings", "dimensions", [0, 2**21]),
    ("rerank", "documents", ["x", [1], ["x"] * 2049]),
    ("rerank", "top_n", [0, -1]),
    ("chat", "logprobs", [21, -1, "x"]),
    ("chat", "top_logprobs", [21, -1]),
    ("chat", "tools", [{}, ["x"], [{}] * 1025]),
    ("chat", "chat_template_kwargs", [[], {"a": []}, {"a": {}}, {"a": "x" * 65}, {f"a{n}": 1 for n in range(17)}]),
    ("chat", "response_format", [{"type": "json_schema", "json_schema": {"schema": {"pattern": "x" * 65536}}}]),
    ("chat", "grammar", ["x" * 65537]),
    ("chat", "structured_outputs", [{"regex": "(" * 65537}]),
    ("ollama_chat", "format", [{"pattern": "x" * 65537}]),
    ("ollama_chat", "keep_alive", [[], "x" * 33, 10**300]),
    ("ollama_chat", "options", [[], "x", 1]),
    ("ollama_generate", "images", ["x", [1]]),
]


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        pytest.param(name, field, value, id=f"I121-{name}-{field}-{str(value)[:24]}")
        for name, field, values in OUT_OF_RANGE
        for value in values
    ],
)
def test_a_value_out_of_range_is_refused(name, field, value):
    refused = refusal(name, **{field: value})
    assert refused.code == "out_of_range"
    assert refused.param.startswith(field)


@pytest.mark.parametrize("value", [-3, -(2**31), BIG, 1.5, "10"], ids=lambda value: f"I121-{value}")
def test_options_of_ollama_are_held_to_the_same(value):
    refused = refusal("ollama_chat", options={"num_predict": value})
    assert (refused.code, refused.param) == ("out_of_range", "options.num_predict")


GENERATING = ["chat", "completions", "responses", "embeddings", "rerank", "messages", "ollama_chat", "ollama_generate"]
NEVER = ["adapters", "draft_model", "lora", "chat_template", "template", "api_base", "base_url", "api_key", "id_slot"]
NEVER += ["cache_prompt", "media_io_kwargs", "mm_processor_kwargs", "kv_transfer_params", "mcp_servers", "chat_parser"]
NEVER += ["chat_format", "preserved_tokens", "logits_processors", "grammar_triggers", "num_draft_tokens"]


@pytest.mark.parametrize("name", GENERATING)
@pytest.mark.parametrize("field", NEVER, ids=lambda field: f"I122-{field}")
def test_a_field_that_reaches_beyond_the_model_is_refused(name, field):
    refused = refusal(name, **{field: "x"})
    assert (refused.code, refused.param) == ("field_not_allowed", field)


@pytest.mark.parametrize("field", ["num_gpu", "num_thread", "use_mmap", "main_gpu", "lora", "template", "id_slot"])
def test_I122_options_that_load_the_model_anew_are_refused(field):
    refused = refusal("ollama_chat", options={field: 1})
    assert (refused.code, refused.param) == ("field_not_allowed", f"options.{field}")


@pytest.mark.parametrize(
    "variable", ["chat_template", "messages", "tools", "tokenize", "__class__", "a.b", "", "a" * 65]
)
def test_I122_a_template_gets_switches_and_nothing_else(variable):
    refused = refusal("chat", chat_template_kwargs={variable: True})
    assert refused.code == "field_not_allowed"


@pytest.mark.parametrize("tool", [{"type": "mcp"}, {"server_url": "http://x"}, {"connector_id": "x"}])
def test_I122_no_server_is_called_for_a_tool(tool):
    assert refusal("responses", tools=[tool]).code == "field_not_allowed"


URLS = [
    "http://x/a.png",
    "https://x/a.png",
    "file:///etc/passwd",
    "/etc/passwd",
    "DATA:image/png",
    "ftp://x",
    "",
    " data:,",
]


def parts(url):
    """Return every way to name a file in a message: endpoint, field and value."""
    image = {"type": "image_url", "image_url": {"url": url}}
    flat = {"type": "input_image", "image_url": url}
    source = {"type": "image", "source": {"type": "url", "url": url}}
    result = {"type": "tool_result", "content": [source]}
    return [
        ("chat", "messages", [{"role": "user", "content": [{"type": "text", "text": "a"}, image]}]),
        ("chat", "messages", [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]),
        ("chat", "messages", [{"role": "user", "content": [{"type": "x", "video_url": {"url": url}}]}]),
        ("chat", "messages", [{"role": "user", "content": [{"type": "x", "audio_url": {"url": url}}]}]),
        ("chat", "messages", [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"url": url}}]}]),
        ("responses", "input", [{"role": "user", "content": [flat]}]),
        ("responses", "input", [flat]),
        ("responses", "input", [{"type": "input_file", "file_url": url}]),
        ("responses", "input", [{"type": "computer_call_output", "output": flat}]),
        ("responses", "input", [{"type": "function_call_output", "output": [flat]}]),
        ("messages", "messages", [{"role": "user", "content": [source]}]),
        ("messages", "messages", [{"role": "user", "content": [result]}]),
        (
            "messages",
            "messages",
            [{"role": "user", "content": [{"type": "document", "source": {"content": [source]}}]}],
        ),
        ("messages", "system", [source]),
        ("count_tokens", "messages", [{"role": "user", "content": [source]}]),
    ]


@pytest.mark.parametrize("url", URLS, ids=lambda url: f"I122-{url}")
@pytest.mark.parametrize("number", range(len(parts(""))))
def test_no_file_is_fetched_for_a_message(url, number):
    name, field, value = parts(url)[number]
    assert refusal(name, **{field: value}).code == "field_not_allowed"


@pytest.mark.parametrize("number", range(len(parts(""))))
def test_a_file_in_the_message_itself_passes(number):
    name, field, value = parts(DATA)[number]
    assert check(name, **{field: value})[field] == value


@pytest.mark.parametrize("part", [{"type": "file", "file": {"file_id": "f"}}, {"type": "input_file", "file_id": "f"}])
def test_I122_no_file_is_kept_here(part):
    assert refusal("chat", messages=[{"role": "user", "content": [part]}]).code == "field_not_allowed"


@pytest.mark.parametrize("image", ["http://x/a.png", "file:///etc/passwd"])
def test_I122_images_of_ollama_are_in_the_message(image):
    assert refusal("ollama_generate", images=[image]).code == "field_not_allowed"
    message = {"role": "user", "content": "a", "images": [image]}
    assert refusal("ollama_chat", messages=[message]).code == "field_not_allowed"


def test_what_a_tool_was_called_with_is_not_judged():
    used = {"type": "tool_use", "id": "1", "name": "f", "input": {"image_url": "https://x", "source": {"url": "x"}}}
    body = check("messages", messages=[{"role": "assistant", "content": [used]}])
    assert body["messages"][0]["content"] == [used]


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("chat", "messages"),
        ("completions", "prompt"),
        ("responses", "input"),
        ("embeddings", "input"),
        ("rerank", "query"),
    ],
)
@pytest.mark.parametrize("given", [{}, {"null": None}], ids=["absent", "null"])
def test_a_request_that_cannot_be_answered_wakes_no_model(name, field, given):
    body = {key: value for key, value in USUAL[name].items() if key != field}
    if given:
        body[field] = None
    with pytest.raises(Refused) as raised:
        checked(body, BY_NAME[name])
    assert (raised.value.code, raised.value.param) == ("missing_required_parameter", field)


@given(
    st.sampled_from(sorted(USUAL)),
    st.dictionaries(
        st.sampled_from(["messages", "input", "prompt", "options", "tools", "stop", "images", "system", "documents"]),
        JSON,
    ),
)
def test_any_json_is_taken_or_refused(name, more):
    try:
        check(name, **more)
    except Refused as refused:
        assert refused.status == 400
