"""The gateway's OpenAPI document says what the tables of paths and fields say."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lmctl import __version__
from lmctl.gateway.bodies import checked
from lmctl.gateway.fields import FIELDS, OPTIONS, REQUIRED
from lmctl.gateway.openapi import document
from lmctl.gateway.paths import ENDPOINTS, MODEL
from lmctl.gateway.refused import Refused

DOCUMENT = document(__version__)
BY_NAME = {one.name: one for one in ENDPOINTS if one.body}
COMMITTED = Path(__file__).parents[2] / "schemas/gateway.openapi.json"


def operation(endpoint):
    return DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]


def body_schema(name):
    content = operation(BY_NAME[name])["requestBody"]["content"]
    return {**content["application/json"]["schema"], "components": DOCUMENT["components"]}


VALIDATORS = {name: jsonschema.Draft202012Validator(body_schema(name)) for name in BY_NAME}


def test_the_committed_document_is_what_the_tables_say():
    """When this fails: `lmctl schema --write schemas`."""
    assert json.loads(COMMITTED.read_text()) == DOCUMENT


def test_every_path_is_in_it_and_no_other():
    told = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert told == {(one.method, one.path) for one in (*ENDPOINTS, MODEL)}


def test_every_reference_leads_somewhere():
    def references(node):
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                yield node["$ref"]
            for inner in node.values():
                yield from references(inner)
        elif isinstance(node, list):
            for inner in node:
                yield from references(inner)

    kinds = DOCUMENT["components"]
    for one in set(references(DOCUMENT)):
        _, _, kind, name = one.split("/")
        assert name in kinds[kind]


@pytest.mark.parametrize("name", BY_NAME)
def test_every_body_schema_is_one_and_asks_for_what_is_required(name):
    jsonschema.Draft202012Validator.check_schema(body_schema(name))
    assert set(body_schema(name).get("required", [])) == set(REQUIRED.get(name, ()))


# without line breaks: to this validator, and to no other, a `$` stands before the last one too
TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=4) | st.sampled_from(
    ["data:,", "http://x", "a:b"]
)
NUMBER = st.integers() | st.integers(-3, 30) | st.floats(-200, 200).filter(lambda one: not one.is_integer())
KEYS = ["url", "content", "image_url", "file", "source", "images", "file_id", "type", "server_url", "messages", "x"]
ANY = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT | st.sampled_from(["mcp", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | TEXT, inner, max_size=3),
    max_leaves=8,
)
NAMES = sorted({name for fields in (*FIELDS.values(), OPTIONS) for name in fields})


def taken(name, body):
    try:
        checked(json.loads(json.dumps(body)), BY_NAME[name])
    except Refused:
        return False
    return True


@given(st.sampled_from(sorted(BY_NAME)), st.dictionaries(st.sampled_from(NAMES), ANY, max_size=3))
@example("chat", {"messages": [{"content": [{"image_url": {"url": "http://x"}}]}]})
@example("chat", {"messages": [{"content": [{"image_url": {"url": None}}]}]})
@example("chat", {"messages": [], "tools": [{"type": "mcp"}]})
@example("chat", {"messages": [], "chat_template_kwargs": {"messages": True}})
@example("chat", {"messages": [], "logit_bias": [[1, True]]})
@example("chat", {"messages": [], "logit_bias": {"1": False}})
@example("chat", {"messages": [], "adapters": "x"})
@example("chat", {"messages": None})
@example("embeddings", {"input": [[1, "a"], "b", 1]})
@example("embeddings", {"input": [[[]]]})
@example("ollama_generate", {"template": ""})
@example("ollama_generate", {"template": "x"})
@example("ollama_generate", {"images": ["data:,"]})
@example("ollama_chat", {"options": {"num_predict": -3}})
@example("ollama_chat", {"messages": [{"content": "a"}]})
@example("ollama_chat", {"messages": [{"role": "a", "tool_calls": [{"function": {"name": "f", "arguments": []}}]}]})
@example("ollama_chat", {"messages": [{"role": "a", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}]})
@example("ollama_chat", {"format": "xml"})
@example("ollama_generate", {"suffix": "", "context": [], "format": ""})
@example("ollama_generate", {"context": [1]})
@example("ollama_chat", {"options": {"num_gpu": 1}})
@example("ollama_chat", {"options": {"num_ctx": "x"}})
def test_a_body_is_taken_where_its_schema_says_so_and_nowhere_else(name, body):
    """But for the size of what is told in characters of JSON, which no schema can say; nothing here is so large."""
    assert taken(name, body) == VALIDATORS[name].is_valid(body)


@given(st.data())
def test_each_field_is_taken_where_its_schema_says_so(data):
    name = data.draw(st.sampled_from(sorted(BY_NAME)))
    body = dict.fromkeys(REQUIRED.get(name, ()), "a")
    if "messages" in body:
        body["messages"] = []
    body[data.draw(st.sampled_from(sorted(FIELDS[name])))] = data.draw(ANY)
    assert taken(name, body) == VALIDATORS[name].is_valid(body)
