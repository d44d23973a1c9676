"""What a profile's keys do to the engine that runs, by its own words."""

from __future__ import annotations

import json
import urllib.request
from typing import Any

from e2e_tools import ask, profile


def get(port: int, path: str, body: Any = None) -> Any:
    """Return what the engine on `port` answers, as JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=120) as answer:
        return json.load(answer)


def test_every_slot_has_the_whole_declared_context(machine, port):
    machine.hello()
    machine.declare(profile("hello", path="hello.gguf", port=(number := port()), ctx=1024, parallel=3))
    machine.run("apply")
    slots = get(number, "/slots")
    assert [slot["n_ctx"] for slot in slots] == [1024] * 3


def test_a_profile_is_offered_by_its_name_and_answers_to_any_model(machine, port):
    machine.hello("Any name will do.")
    machine.declare(profile("hello", path="hello.gguf", port=(number := port())))
    machine.run("apply")
    assert [model["id"] for model in get(number, "/v1/models")["data"]] == ["hello"]
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 32, "model": "gpt-whatever"}
    assert get(number, "/v1/chat/completions", body)["choices"][0]["message"]["content"] == "Any name will do."


def test_embeddings_are_served_where_they_are_declared(machine, port):
    machine.hello()
    keys = {"path": "hello.gguf", "embeddings": True, "pooling": "mean"}
    machine.declare(profile("vectors", **keys, port=(number := port())))
    machine.run("apply")
    vector = get(number, "/v1/embeddings", {"input": "hello", "model": "x"})["data"][0]["embedding"]
    assert abs(sum(value * value for value in vector) - 1) < 1e-3


def test_declared_sampling_is_the_default_and_a_request_wins(machine, port):
    machine.hello("One two three four.")
    text = profile("hello", path="hello.gguf", port=(number := port()))
    machine.declare(text + "[profiles.hello.sampling]\nmax_tokens = 2\ntemperature = 0.25\n")
    machine.run("apply")
    body = {"messages": [{"role": "user", "content": "hi"}]}
    assert get(number, "/v1/chat/completions", body)["choices"][0]["message"]["content"] == "One two"
    assert ask(number, "hi") == "One two three four."


def test_a_declared_template_is_what_the_engine_uses(machine, port):
    machine.hello()
    (machine.folder / "mine.jinja").write_text("{% for m in messages %}MINE {{ m['content'] }}{% endfor %}")
    machine.declare(profile("hello", path="hello.gguf", port=(number := port()), chat_template="mine.jinja"))
    machine.run("apply")
    prompt = get(number, "/apply-template", {"messages": [{"role": "user", "content": "hi"}]})["prompt"]
    assert prompt.startswith("MINE hi")
