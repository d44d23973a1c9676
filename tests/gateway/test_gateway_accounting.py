"""Tokens as engines tell them, in whole answers and in streams, and what of a stream its client gets to see."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmctl.gateway.accounting import NONE, Counts, Sieve, counts

TIMINGS = {"cache_n": 5, "prompt_ms": 12.5, "predicted_per_second": 40.0}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({"usage": {"prompt_tokens": 7, "completion_tokens": 3}}, Counts(7, None, 3)),
        ({"usage": {"prompt_tokens": 7, "completion_tokens": 3}, "timings": TIMINGS}, Counts(7, 5, 3, 12.5, 40.0)),
        ({"usage": {"prompt_tokens": 7, "prompt_tokens_details": {"cached_tokens": 2}}}, Counts(7, 2)),
        ({"usage": {"prompt_tokens": 7, "total_tokens": 7}}, Counts(7)),
        ({"usage": {"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 1}}, Counts(8, 1, 3)),
        ({"type": "message_start", "message": {"usage": {"input_tokens": 9}}}, Counts(9)),
        (
            {"type": "response.completed", "response": {"usage": {"input_tokens": 9, "output_tokens": 1}}},
            Counts(9, None, 1),
        ),
        ({"choices": []}, NONE),
    ],
    ids=["openai", "llama.cpp", "cached", "embeddings", "anthropic", "its stream", "responses", "nothing"],
)
def test_counts_are_read_in_the_words_of_every_api(answer, told):
    assert counts(answer) == told


@pytest.mark.parametrize("wrong", [-1, 2**64, "7", 1.5, True, None, [7]], ids=repr)
def test_I128_what_is_no_count_is_not_known(wrong):
    assert counts({"usage": {"prompt_tokens": wrong, "completion_tokens": wrong}}) == NONE
    assert counts({"usage": wrong, "timings": {"prompt_ms": -1.0, "predicted_per_second": float("inf")}}) == NONE


def event(**told: object) -> bytes:
    return b"data: " + json.dumps(told).encode() + b"\n\n"


TEXT = event(choices=[{"delta": {"content": 'he said "usage": {"prompt_tokens": 1}'}}])
LAST = event(choices=[], usage={"prompt_tokens": 7, "completion_tokens": 3}, timings=TIMINGS)
DONE = b"data: [DONE]\n\n"
ANSWER = TEXT * 3 + LAST + DONE


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[begin:end] for begin, end in itertools.pairwise(edges)]


@given(st.lists(st.integers(0, 10**6), max_size=12), st.booleans())
def test_however_a_stream_is_cut_its_counts_are_heard_and_hidden_or_not(cuts, hide):
    sieve = Sieve(hide)
    seen = b"".join(sieve.feed(piece) for piece in pieces(ANSWER, cuts)) + sieve.end()
    assert seen == (ANSWER.replace(LAST, b"") if hide else ANSWER)
    assert sieve.counts == Counts(7, 5, 3, 12.5, 40.0)


def test_counts_that_come_with_text_are_heard_and_pass():
    both = event(choices=[{"delta": {"content": "x"}}], usage={"prompt_tokens": 7})
    sieve = Sieve(hide=True)
    assert sieve.feed(both) == both
    assert sieve.counts == Counts(7)


def test_events_with_other_line_ends_are_events_too():
    sieve = Sieve(hide=True)
    data = LAST.replace(b"\n", b"\r\n")
    assert sieve.feed(TEXT.replace(b"\n", b"\r\n") + data) == TEXT.replace(b"\n", b"\r\n")
    assert sieve.counts.tokens_out == 3


def test_later_events_add_to_what_earlier_ones_told():
    sieve = Sieve(hide=False)
    sieve.feed(event(message={"usage": {"input_tokens": 9}}) + event(usage={"output_tokens": 4}))
    assert sieve.counts == Counts(9, None, 4)


@pytest.mark.parametrize("said", [b'data: {"usage": {\n\n', b'{"usage": {"prompt_tokens": 1}}\n\n', b"data: 1\n\n"])
def test_I128_what_is_no_event_passes_and_tells_nothing(said):
    sieve = Sieve(hide=True)
    assert sieve.feed(said) == said
    assert sieve.counts == NONE


def test_a_stream_without_an_end_of_events_is_not_kept_in_memory():
    sieve, passed = Sieve(hide=True), 0
    for _ in range(64):
        passed += len(sieve.feed(b"x" * 65536))
    assert passed >= 2 << 20
    assert len(sieve.end()) <= 1 << 20
