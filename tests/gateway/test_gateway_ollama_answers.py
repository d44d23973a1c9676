"""What engines say, in the words of Ollama's API."""

from __future__ import annotations

import itertools
import json

import ollama
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmctl.gateway.ollama_answers import Stream, failed, loaded, whole
from lmctl.gateway.ollama_lines import LONGEST, Told
from lmctl.gateway.refused import Refused

CHAT = Told("ollama_chat", "hello:latest", 1000.0, 0.25)
GENERATE = Told("ollama_generate", "hello", 1000.0)
EMBED = Told("ollama_embed", "hello", 1000.0)
OLDER = Told("ollama_embeddings", "hello", 1000.0)
NOW = 1001.5
AT = "1970-01-01T00:16:41.500000Z"

# as llama.cpp's server says them
USAGE = {
    "completion_tokens": 4,
    "prompt_tokens": 21,
    "total_tokens": 25,
    "prompt_tokens_details": {"cached_tokens": 20},
}
TIMINGS = {"cache_n": 20, "prompt_n": 1, "prompt_ms": 1.676, "predicted_n": 4, "predicted_ms": 0.91}
COUNTS = {"prompt_eval_count": 21, "prompt_eval_duration": 1676000, "eval_count": 4, "eval_duration": 910000}
TIMES = {"total_duration": 1500000000, "load_duration": 250000000}
END = {"done": True, "done_reason": "stop", **TIMES, **COUNTS}
WEATHER = {"id": "x1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Köln"}'}}


def said(message, finish="stop", **more):
    choice = {"index": 0, "finish_reason": finish, **({"message": message} if isinstance(message, dict) else {})}
    if isinstance(message, str):
        choice["text"] = message
    return json.dumps({"choices": [{**choice, **more}], "usage": USAGE, "timings": TIMINGS}).encode()


def read(line):
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    return json.loads(line)


def told(message, told=CHAT, **more):
    return read(whole(told, said(message, **more), NOW))


def test_a_chat_is_answered():
    message = {"role": "assistant", "content": "Hello from here."}
    answer = told(message)
    assert answer == {"model": "hello:latest", "created_at": AT, "message": message, **END}
    typed = ollama.ChatResponse(**answer)
    assert typed.message.content == "Hello from here."
    assert (typed.prompt_eval_count, typed.eval_count, typed.done_reason) == (21, 4, "stop")


@pytest.mark.parametrize("message", ["Hello.", {"content": "Hello."}], ids=["raw", "chat"])
def test_a_prompt_is_answered(message):
    answer = told(message, GENERATE, finish="length")
    assert ollama.GenerateResponse(**answer).response == "Hello."
    assert (answer["done_reason"], answer["load_duration"], "message" in answer) == ("length", 0, False)


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_stand_apart(name):
    message = {"content": "42", name: "six by seven"}
    assert told(message)["message"] == {"role": "assistant", "content": "42", "thinking": "six by seven"}
    assert told(message, GENERATE)["thinking"] == "six by seven"


def test_calls_of_tools_have_objects_as_arguments():
    answer = told({"content": None, "tool_calls": [WEATHER]}, finish="tool_calls")
    function = {"index": 0, "name": "weather", "arguments": {"city": "Köln"}}
    assert answer["message"]["tool_calls"] == [{"id": "x1", "function": function}]
    assert (answer["message"]["content"], answer["done_reason"]) == ("", "stop")
    assert ollama.ChatResponse(**answer).message.tool_calls[0].function.arguments == {"city": "Köln"}


def test_probabilities_are_told():
    one = {"token": "Hello", "logprob": -0.5, "bytes": [72]}
    content = [{"id": 260, **one, "top_logprobs": [{"id": 1, **one}]}]
    answer = told({"content": "Hello"}, logprobs={"content": content})
    assert answer["logprobs"] == [{**one, "top_logprobs": [one]}]
    assert ollama.ChatResponse(**answer).logprobs[0].top_logprobs[0].token == "Hello"


def test_what_the_engine_does_not_count_is_left_out():
    answer = read(whole(CHAT, b'{"choices": [{"message": {"content": "a"}}]}', NOW))
    assert answer.keys() == {"model", "created_at", "message", "done", "done_reason", *TIMES}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"choices": []}',
        b'{"choices": [1]}',
        b"{}",
        b"[" * 9999,
        b'{"choices": [{"message": {"content": "a"}}], "a": NaN}',
        said({"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}),
        said({"tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}),
        said({"tool_calls": [{"function": {"name": "f", "arguments": '{"a": 1e999}'}}]}),
        said({"tool_calls": [{"function": {"name": "f", "arguments": '{"a": "' + "x" * LONGEST + '"}'}}]}),
    ],
    ids=lambda body: f"I128-{body[:40]!r}-{len(body)}",
)
def test_an_answer_that_is_none_is_an_upstream_error(body):
    with pytest.raises(Refused) as raised:
        whole(CHAT, body, NOW)
    assert (raised.value.status, raised.value.code) == (502, "upstream_error")


def test_embeddings_stand_in_the_order_of_their_texts():
    data = [{"index": 1, "embedding": [0.5]}, {"index": 0, "embedding": [0.25]}]
    body = json.dumps({"data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}}).encode()
    answer = read(whole(EMBED, body, NOW))
    times = {"total_duration": 1500000000, "load_duration": 0}
    assert answer == {"model": "hello", "embeddings": [[0.25], [0.5]], **times, "prompt_eval_count": 2}
    assert ollama.EmbedResponse(**answer).embeddings == [[0.25], [0.5]]
    assert read(whole(OLDER, body, NOW)) == {"embedding": [0.25]}


@pytest.mark.parametrize("body", [b"{}", b'{"data": []}', b'{"data": [{}]}', b'{"data": [{"embedding": "AAAA"}]}'])
def test_I128_embeddings_that_are_none_are_an_upstream_error(body):
    with pytest.raises(Refused, match="no embeddings"):
        whole(EMBED, body, NOW)


def test_a_model_is_loaded_without_an_answer():
    answer = read(loaded(CHAT, "load", NOW))
    message = {"role": "assistant", "content": ""}
    assert answer == {"model": "hello:latest", "created_at": AT, "message": message} | {
        "done": True,
        "done_reason": "load",
        **TIMES,
    }
    assert ollama.GenerateResponse(**read(loaded(GENERATE, "unload", NOW))).done_reason == "unload"
    assert read(loaded(EMBED, "load", NOW))["embeddings"] == []
    assert read(loaded(OLDER, "load", NOW)) == {"embedding": []}


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b'{"error": {"code": 400, "message": "the prompt is too long"}}', "the prompt is too long"),
        (b'{"error": "no such model"}', "no such model"),
        (b'{"object": "error", "message": "too long"}', "too long"),
        (b'{"error": {"code": 500}}', "the engine failed and does not say why"),
        (b'{"error": ["x"]}', "the engine failed and does not say why"),
    ],
)
def test_an_engines_own_error_is_told(body, says):
    refused = failed(400, body)
    assert (refused.status, refused.message) == (400, says)


def event(**body):
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def delta(finish=None, **said):
    return event(choices=[{"index": 0, "finish_reason": finish, "delta": said}])


WORDS = [delta(content="Hello"), delta(content=" from"), delta(content=" here. 🌍")]
LAST = event(choices=[], usage=USAGE, timings=TIMINGS)
DONE = b"data: [DONE]\n\n"
WHOLE = delta(role="assistant", content=None) + b"".join(WORDS) + delta("stop") + LAST + DONE


def lines(*pieces, of=CHAT, end=True):
    stream = Stream(of)
    made = b"".join([*(stream.feed(piece, NOW) for piece in pieces), stream.end(NOW) if end else b""])
    assert made.endswith(b"\n") or not made
    return [json.loads(line) for line in made.splitlines()]


def chunk(content="", **more):
    return {
        "model": "hello:latest",
        "created_at": AT,
        "message": {"role": "assistant", "content": content, **more},
        "done": False,
    }


def test_a_stream_of_events_becomes_lines():
    told = lines(WHOLE)
    assert told == [chunk("Hello"), chunk(" from"), chunk(" here. 🌍"), {**chunk(), **END}]
    assert all(ollama.ChatResponse(**one) for one in told)


def test_a_stream_of_text_becomes_lines():
    pieces = [event(choices=[{"text": text, "finish_reason": None}]) for text in ("Hello", " from", "")]
    last = event(choices=[{"text": "", "finish_reason": "length"}], usage=USAGE, timings=TIMINGS)
    told = lines(*pieces, last, DONE, of=GENERATE)
    assert [one["response"] for one in told] == ["Hello", " from", ""]
    assert (told[-1]["done_reason"], told[-1]["eval_count"]) == ("length", 4)
    assert ollama.GenerateResponse(**told[-1]).eval_duration == 910000


def test_a_line_is_said_as_soon_as_its_event_ends():
    stream = Stream(CHAT)
    assert stream.feed(WORDS[0][:-3], NOW) == b""
    assert json.loads(stream.feed(WORDS[0][-3:-1], NOW))["message"]["content"] == "Hello"


def test_thoughts_stream_apart():
    told = lines(delta(reasoning_content="so"), delta(reasoning="well"), delta(content="42"), delta("stop"), DONE)
    assert [one["message"].get("thinking") for one in told] == ["so", "well", None, None]


def test_calls_are_told_whole_before_the_end():
    def part(index, id=None, **function):
        return {"index": index, "function": function, **({"id": id, "type": "function"} if id else {})}

    told = lines(
        delta(tool_calls=[part(0, "a", name="weather", arguments="")]),
        delta(tool_calls=[part(0, arguments='{"city":')]),
        delta(tool_calls=[part(1, "b", name="time"), part(0, arguments='"Köln"}')]),
        delta("tool_calls"),
        LAST,
        DONE,
    )
    calls = [
        {"id": "a", "function": {"index": 0, "name": "weather", "arguments": {"city": "Köln"}}},
        {"id": "b", "function": {"index": 1, "name": "time", "arguments": {}}},
    ]
    assert told == [chunk(tool_calls=calls), {**chunk(), **END}]


@pytest.mark.parametrize(
    ("rest", "says"),
    [
        (b"", "ends in the middle"),
        (WORDS[1][:-4], "ends in the middle"),
        (event(error={"message": "out of memory"}) + WORDS[1], "out of memory"),
        (b'error: {"message": "out of memory"}\n\n', "out of memory"),
        (b"data: {\n\n" + WORDS[1], "no JSON object"),
        (b"data: [1]\n\n", "no JSON object"),
        (b'data: {"choices": [{"delta": {"content": 1}}], "a": NaN}\n\n', "cannot be used"),
        (delta(tool_calls=[{"function": {"name": "f", "arguments": "{"}}]) + delta("stop"), "calls f with"),
        (b"data: " + b"x" * (LONGEST + 1), "too long"),
        (b"data: " + b"x" * (LONGEST + 1) + b"\n\n", "too long"),
        (delta(tool_calls=[{"function": {"arguments": "x" * (LONGEST // 2)}}]) * 3, "too many tools"),
        (delta(logprobs=0) + event(choices=[{"logprobs": {"content": [{"logprob": 1}]}}]), "ends in the middle"),
    ],
    ids=lambda value: f"I128-{value[:50]!r}-{len(value)}" if isinstance(value, bytes) else None,
)
def test_a_stream_that_breaks_off_ends_with_an_error(rest, says):
    told = lines(WORDS[0], rest, DONE if b"middle" not in says.encode() else b"")
    assert told[0] == chunk("Hello")
    assert told[-1].keys() == {"error"} and says in told[-1]["error"]
    assert not any(one.get("done") for one in told)
    assert "error" not in told[-2]


def test_F83_a_cut_is_told_once_and_nothing_after_it():
    stream = Stream(CHAT)
    stream.feed(WORDS[0] + WORDS[1][:9], NOW)
    assert json.loads(stream.failed(Refused(502, "upstream_error", "it broke"))) == {"error": "it broke"}
    assert stream.feed(WHOLE, NOW) + stream.end(NOW) + stream.failed(Refused(503, "ending", "x")) == b""


def test_after_the_end_nothing_is_said():
    assert lines(WHOLE, WHOLE) == lines(WHOLE)


def test_an_end_without_its_mark_is_one_when_the_model_has_finished():
    assert lines(delta(content="a"), delta("length"))[-1]["done_reason"] == "length"
    assert lines(delta(content="a"), DONE)[-1]["done_reason"] == "stop"


def test_a_client_that_waits_is_told_nothing_in_words():
    told = json.loads(Stream(CHAT).waiting(NOW))
    assert told == chunk()
    assert ollama.ChatResponse(**told).message.content == ""


def test_comments_and_other_fields_of_events_are_skipped():
    assert lines(b": loading\n\nevent: message\nid: 1\nretry: 5\n", WHOLE) == lines(WHOLE)
    assert lines(WHOLE.replace(b"\n", b"\r\n")) == lines(WHOLE.replace(b"data: ", b"data:")) == lines(WHOLE)


def test_half_of_a_surrogate_pair_is_passed_on_as_it_came():
    stream = Stream(CHAT)
    made = stream.feed(b'data: {"choices": [{"delta": {"content": "\\ud83d"}}]}\n\n', NOW)
    assert b'"content":"\\ud83d"' in made


STREAMS = [
    WHOLE,
    b": wait\r\n\r\n" + WHOLE.replace(b"\n", b"\r\n"),
    WORDS[0] + event(error={"message": "x"}) + WORDS[1],
    WORDS[0] + b"data: {\n\n" + WORDS[1] + DONE,
    WORDS[0] + WORDS[1][:-5],
    delta(tool_calls=[{"id": "a", "function": {"name": "f", "arguments": '{"a": "ü"}'}}]) + delta("tool_calls") + DONE,
]


@given(st.sampled_from(STREAMS), st.lists(st.integers(0, len(WHOLE) + 50), max_size=30))
def test_any_pieces_make_the_same_lines(data, cuts):
    at = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert lines(*(data[a:b] for a, b in itertools.pairwise(at))) == lines(data)


@pytest.mark.parametrize("data", STREAMS)
def test_single_bytes_make_the_same_lines(data):
    assert lines(*(data[at : at + 1] for at in range(len(data)))) == lines(data)


NAMES = ["choices", "delta", "message", "content", "tool_calls", "function", "arguments", "index", "usage", "error"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "message",
                    "content",
                    "tool_calls",
                    "function",
                    "arguments",
                    "index",
                    "usage",
                    "error",
                    "text",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.lists(JSON | st.binary(max_size=20), max_size=5))
def test_I128_whatever_an_engine_says_each_line_is_json_and_the_last_ends_it(said):
    parts = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in said]
    stream = Stream(CHAT)
    made = b"".join([*(stream.feed(b"data: " + one + b"\n\n", NOW) for one in parts), stream.end(NOW)])
    told = [json.loads(line) for line in made.splitlines()]
    assert [("error" in one or one["done"]) for one in told] == [*(False for _ in told[1:]), True]


@given(JSON, st.sampled_from([CHAT, GENERATE, EMBED, OLDER]))
def test_I128_whatever_an_engine_answers_is_json_or_an_upstream_error(said, told):
    try:
        made = whole(told, json.dumps(said).encode(), NOW)
    except Refused as refused:
        assert refused.status == 502
    else:
        assert isinstance(json.loads(made), dict)
