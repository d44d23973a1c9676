"""Where `auto` goes: what a request is like, its score, and what rules, tasks and clients say instead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmctl.front import Cloud, Front, Router
from lmctl.gateway import router
from lmctl.gateway.features import MOST_CODE, Features, features
from lmctl.gateway.refused import Refused
from lmctl.gateway.router import Decision, Table, complexity, decide, score
from lmctl.record import replace
from lmctl.spec import Declaration, Profile, Settings

BIG = Cloud("big", "https://api.example/v1", "large")
RULES = Table(Router(cloud="big"), "big", {"classification": "small"}, {"chat": "chat", "embeddings": "vectors"})
HARD = Features(prompt=9000, tools=3, code=30, turns=12)
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 4000}}
PYTHON = "import os\n\ndef f(x):\n    return x + 1\n"


def asks(*texts: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text} for text in texts], **more}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (asks("abcd" * 10), Features(prompt=10)),
        (asks("äöü!"), Features(prompt=2)),
        (asks("a", "b", "c"), Features(prompt=1, turns=2)),
        ({"prompt": [1, 2, 3]}, Features(prompt=3)),
        ({"prompt": [[1, 2], "abcd"]}, Features(prompt=3)),
        ({"prompt": PYTHON}, Features(prompt=10, code=3)),
        (asks("see\n```\nx\n```"), Features(prompt=4, code=MOST_CODE)),
        (asks("I return to you. If this works, use it for fun."), Features(prompt=12)),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "abcd"}, IMAGE]}]}, Features(1, images=1)),
        (asks("abcd", tools=[{"type": "function"}] * 2), Features(prompt=12, tools=2)),
        (asks("abcd", max_tokens=900, max_completion_tokens=70), Features(prompt=1, output=900)),
        (asks("abcd", response_format={"type": "json_schema"}), Features(prompt=1, schema=1)),
        (asks("abcd", response_format={"type": "text"}), Features(prompt=1)),
        (
            {"input": "abcd", "instructions": "abcd", "text": {"format": {"type": "json_object"}}},
            Features(prompt=2, schema=1),
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "abcd"}]}, {"output": "abcd"}]},
            Features(prompt=2),
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "a" * 40}}]}]},
            Features(prompt=10),
        ),
        ({}, Features()),
    ],
)
def test_what_a_request_is_like(body, expected):
    assert features(body) == expected


def test_the_weights_make_one_whole():
    assert sum(one.weight for one in router.WEIGHTS) == pytest.approx(1)
    assert {one.feature for one in router.WEIGHTS} == set(vars(Features()))
    assert (score(Features()), score(Features(*[10**9] * 7))) == (0, 1)


COUNTS = st.integers(0, 10**7)
ANY = st.builds(Features, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS, COUNTS)


@given(found=ANY, feature=st.sampled_from([one.feature for one in router.WEIGHTS]), more=COUNTS)
def test_a_score_is_from_0_to_1_and_more_of_anything_never_lowers_it(found, feature, more):
    harder = replace(found, **{feature: vars(found)[feature] + more})
    assert 0 <= score(found) <= score(harder) <= 1


LINES = st.sampled_from(["def f(x):", "prose and more", "", "x = 1", "```", "SELECT 1", "   "])
TEXT = st.text(max_size=30) | st.lists(LINES, max_size=5).map("\n".join)


@given(texts=st.lists(TEXT, min_size=1, max_size=5), at=st.integers(0, 4), more=TEXT, extra=TEXT)
def test_a_longer_prompt_never_scores_less(texts, at, more, extra):
    grown = [f"{text}\n{more}" if number == at % len(texts) else text for number, text in enumerate(texts)]
    assert score(features(asks(*texts))) <= score(features(asks(*grown))) <= score(features(asks(*grown, extra)))


BODIES = st.lists(TEXT, max_size=4).map(lambda texts: asks(*texts)) | st.just(asks(PYTHON * 2000, tools=[{}]))
SIDES = st.sampled_from([None, "local", "cloud"])
ROUTERS = st.builds(
    Router, st.floats(0, 1), st.just("big"), max_prompt=st.none() | st.integers(1, 9), tools=SIDES, images=SIDES
)
SCORES = st.none() | st.floats(0, 1)
TASKS = st.sampled_from([None, b"classification"])


@given(rules=ROUTERS, body=BODIES, task=TASKS, points=SCORES)
def test_without_a_cloud_everything_stays_here(rules, body, task, points):
    assert decide(replace(RULES, router=rules, cloud=None), "chat", body, task, points).cloud is None


@given(rules=ROUTERS, body=BODIES, task=TASKS, points=SCORES)
def test_everything_goes_somewhere_and_the_task_says_who_answers_here(rules, body, task, points):
    found = decide(replace(RULES, router=rules), "chat", body, task, points)
    assert (found.profile, found.cloud) != (None, None)
    assert found.profile in (None, "chat" if task is None else "small")
    assert 0 <= found.score <= 1 and found.why


@given(body=BODIES, points=st.floats(0, 1), threshold=st.floats(0, 1))
def test_the_clients_own_score_wins(body, points, threshold):
    found = decide(replace(RULES, router=Router(threshold, "big")), "chat", body, None, points)
    assert (found.score, found.cloud is not None) == (points, points >= threshold)


@given(rules=ROUTERS, body=BODIES, task=TASKS, points=SCORES, endpoint=st.sampled_from(["embeddings", "messages"]))
def test_what_no_cloud_may_be_asked_stays_here(rules, body, task, points, endpoint):
    assert decide(replace(RULES, router=rules), endpoint, body, task, points).cloud is None


EASY = asks("Hello")
TOOLS = asks("Hello", tools=[{"type": "function"}])
BOTH = {"messages": [{"role": "user", "content": [IMAGE]}], "tools": [{"type": "function"}]}


@pytest.mark.parametrize(
    ("rules", "body", "expected"),
    [
        (Router(), EASY, Decision("chat", None, "score 0.00", 0.0)),
        (Router(threshold=0), EASY, Decision("chat", "big", "score 0.00", 0.0)),
        (Router(tools="cloud"), TOOLS, Decision(None, "big", "tools", 0.15)),
        (Router(tools="cloud"), EASY, Decision("chat", None, "score 0.00", 0.0)),
        (Router(threshold=0, tools="local"), TOOLS, Decision("chat", None, "tools", 0.15)),
        (Router(tools="cloud", images="local"), BOTH, Decision("chat", None, "images", 0.2)),
        (Router(max_prompt=1), EASY, Decision(None, "big", "prompt above max_prompt", 0.0)),
        (Router(max_prompt=1, tools="local"), TOOLS, Decision("chat", None, "tools", 0.15)),
        (Router(max_prompt=2), EASY, Decision("chat", None, "score 0.00", 0.0)),
    ],
)
def test_rules_come_before_the_score_and_staying_before_leaving(rules, body, expected):
    found = decide(replace(RULES, router=rules), "chat", body)
    assert replace(found, score=round(found.score, 2)) == expected


def test_hard_requests_leave_and_easy_ones_stay():
    assert score(HARD) >= Router().threshold > score(Features(prompt=2000, tools=1, code=30))
    talk = [PYTHON * 900, *["And now?"] * 12]
    assert decide(RULES, "chat", asks(*talk, tools=[{"type": "function"}])).cloud == "big"


def test_a_task_that_nobody_declares_is_refused_with_those_there_are():
    with pytest.raises(Refused, match="no task is called poems; declared: classification") as refused:
        decide(RULES, "chat", EASY, b"poems")
    assert (refused.value.status, refused.value.code) == (400, "unknown_task")


@pytest.mark.parametrize("value", [b"0", b"1", b"0.7", b"1.0", b"0.123456789"])
def test_a_score_may_be_given(value):
    assert complexity(value) == float(value)


@pytest.mark.parametrize(
    "value", [b"", b"1.1", b"-0", b"nan", b"1e-1", b" 0", b".5", b"0.5 ", b"0,5", b"\xd9\xa0", b"inf"]
)
def test_a_score_that_is_none_is_refused(value):
    with pytest.raises(Refused) as refused:
        complexity(value)
    assert refused.value.status == 400


def profile(name: str, **keys: Any) -> Profile:
    return Profile(name, "llama.cpp", None, **{"settings": Settings(), **keys})


def declared(*profiles: Profile, **keys: Any) -> Declaration:
    return Declaration("team", Path("/d"), Path("/d/x.toml"), profiles, **{"router": Router(cloud="big"), **keys})


VECTORS = profile("vectors", settings=Settings(embeddings=True))
ORDER = profile("order", settings=Settings(rerank=True))
CHAT = profile("chat", aliases=("gpt",), tasks=("chat", "code"))
CODE = profile("code", tasks=("code",))


def test_without_a_router_there_is_none():
    assert router.table(declared(CHAT, router=None)) is None


def test_profiles_that_cannot_chat_are_asked_for_what_they_can():
    found = router.table(declared(VECTORS, ORDER, CHAT, CODE))
    assert found and dict(found.usual) == {"chat": "chat", "embeddings": "vectors", "rerank": "order"}
    assert decide(found, "embeddings", {"input": "x"}) == Decision("vectors", None, "kept here", 0.0)


def test_the_gateways_default_comes_before_the_first():
    assert router.table(declared(CODE, CHAT, front=Front(default="gpt"))).usual["chat"] == "chat"
    assert router.table(declared(VECTORS, CODE, front=Front(default="vectors"))).usual["chat"] == "code"


def test_the_routers_tasks_come_before_those_of_profiles_and_these_in_their_order():
    rules = Router(cloud="big", tasks={"chat": "code", "poems": "gpt"})
    assert dict(router.table(declared(CHAT, CODE, router=rules)).tasks) == {
        "chat": "code",
        "code": "chat",
        "poems": "chat",
    }


def test_a_cloud_that_is_not_allowed_here_is_none():
    assert router.table(declared(CHAT, untrusted=("big",))).cloud is None
    assert router.table(declared(CHAT, clouds=(BIG,))).cloud == "big"


def test_where_no_profile_serves_it_the_cloud_does_and_without_one_nobody():
    found = decide(Table(cloud="big"), "chat", EASY, None, 0.5)
    assert found == Decision(None, "big", "no profile serves it", 0.5)
    with pytest.raises(Refused) as refused:
        decide(Table(), "chat", EASY)
    assert refused.value.status == 404
