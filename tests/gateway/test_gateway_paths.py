"""Exactly the paths of the table are served."""

from __future__ import annotations

import pytest

from lmctl.gateway.fields import FIELDS, REQUIRED
from lmctl.gateway.paths import ENDPOINTS, dialect, endpoint
from lmctl.gateway.refused import Refused


@pytest.mark.parametrize("one", ENDPOINTS, ids=lambda one: one.name)
def test_every_endpoint_is_found_by_its_method_and_path(one):
    assert endpoint(one.method, one.path.encode()) == one


def test_names_and_paths_of_endpoints_are_unique():
    assert len({one.name for one in ENDPOINTS}) == len({one.path for one in ENDPOINTS}) == len(ENDPOINTS)


def test_every_body_has_a_table_of_fields():
    assert FIELDS.keys() == {one.name for one in ENDPOINTS if one.body}
    assert all(set(names) <= FIELDS[name].keys() for name, names in REQUIRED.items())


def test_a_query_is_cut_off():
    assert endpoint("POST", b"/v1/chat/completions?api-version=2024&key=x").name == "chat"


@pytest.mark.parametrize("name", ["code", "gpt-4o-mini", "owner/name", "qwen3:8b", "a@b+c", "x" * 128, "..."])
def test_a_model_is_looked_up_by_the_name_in_its_path(name):
    found = endpoint("GET", f"/v1/models/{name}".encode())
    assert (found.name, found.model) == ("model", name)


NOT_SERVED = [
    # what llama-server, vLLM, mlx and Ollama serve besides, some of which loads weights or stops the engine
    *("/pause", "/resume", "/update_weights", "/invocations", "/props", "/slots", "/slots/0", "/models/load"),
    *("/completion", "/infill", "/tokenize", "/lora-adapters", "/apply-template", "/load_lora_adapter", "/v1/tokenize"),
    *("/api/pull", "/api/push", "/api/create", "/api/delete", "/api/copy", "/api/blobs/sha256:0"),
    *(
        "/chat/completions",
        "/completions",
        "/embeddings",
        "/models",
        "/v1/audio/transcriptions",
        "/v1/load_lora_adapter",
    ),
    # other spellings of what is served
    *("/v1/../admin", "//v1", "/v1//models", "//v1/models", "/v1/models/", "/v1/models//x", "/v1/models/../admin"),
    *("/v1/models/.", "/v1/models/a/..", "/v1/models/a/../b", "/%2e%2e", "/v1/%2e%2e/health", "/v1/models/%2e%2e"),
    *("/v1/%6dodels", "/v1%2fmodels", "/v1/models%00", "/V1/models", "/health/", "/health;x", "/health#x", " /health"),
    *("http://127.0.0.1/health", "/v1\\models", "/v1/models/\x00", "/v1/models/é", "/v1/models/a\n", "", "*", "?"),
    "/v1/models/" + "x" * 129,
    "/" + "a" * 100_000,
]


@pytest.mark.parametrize("path", NOT_SERVED, ids=lambda path: f"I125-{path[:40]!r}")
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_other_path_is_served(method, path):
    with pytest.raises(Refused) as raised:
        endpoint(method, path.encode())
    assert (raised.value.status, raised.value.code) == (404, "not_found")
    assert len(raised.value.message) < 200


@pytest.mark.parametrize("method", ["CONNECT", "TRACE", "PUT", "DELETE", "OPTIONS", "get", "PRI", "X" * 9999, ""])
@pytest.mark.parametrize(
    ("path", "allow"), [(b"/health", "GET, HEAD"), (b"/api/chat", "POST"), (b"/v1/models/code", "GET, HEAD")]
)
def test_I125_no_other_method_is_served(method, path, allow):
    with pytest.raises(Refused) as raised:
        endpoint(method, path)
    assert (raised.value.status, raised.value.code) == (405, "method_not_allowed")
    assert raised.value.headers == (("Allow", allow),)


@pytest.mark.parametrize("path", [one.path for one in ENDPOINTS if one.method == "GET"])
def test_what_is_got_may_be_asked_for_its_head(path):
    assert endpoint("HEAD", path.encode()) == endpoint("GET", path.encode())


def test_I125_no_head_is_asked_for_of_what_is_posted():
    with pytest.raises(Refused) as raised:
        endpoint("HEAD", b"/api/chat")
    assert (raised.value.status, raised.value.headers) == (405, (("Allow", "POST"),))


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/api/chat", "ollama"),
        ("/api/pull", "ollama"),
        ("/v1/messages/count_tokens", "anthropic"),
        ("/v1/models", "openai"),
        ("/x", "openai"),
    ],
)
def test_a_refusal_is_read_in_the_dialect_of_its_path(path, told):
    assert dialect(path.encode()) == told


def test_I125_a_tunnel_is_not_opened():
    with pytest.raises(Refused) as raised:
        endpoint("CONNECT", b"evil.example:443")
    assert raised.value.status == 404
