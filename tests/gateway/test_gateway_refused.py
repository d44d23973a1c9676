"""A refusal is told in the words of the API that the client speaks, without secrets."""

from __future__ import annotations

import json

import pytest

from lmctl.gateway.refused import Refused, answer

REFUSED = Refused(400, "out_of_range", "n must be a whole number", param="n")


def test_openai_clients_read_type_param_and_code():
    error = {
        "message": "n must be a whole number",
        "type": "invalid_request_error",
        "param": "n",
        "code": "out_of_range",
    }
    assert json.loads(answer(REFUSED, "openai")) == {"error": error}


def test_anthropic_clients_read_the_type():
    error = {"type": "invalid_request_error", "message": "n must be a whole number"}
    assert json.loads(answer(REFUSED, "anthropic")) == {"type": "error", "error": error}


def test_ollama_clients_read_one_text():
    assert json.loads(answer(REFUSED, "ollama")) == {"error": "n must be a whole number"}


@pytest.mark.parametrize(
    ("status", "openai", "anthropic"),
    [
        (400, "invalid_request_error", "invalid_request_error"),
        (401, "authentication_error", "authentication_error"),
        (403, "permission_error", "permission_error"),
        (404, "invalid_request_error", "not_found_error"),
        (413, "invalid_request_error", "request_too_large"),
        (429, "rate_limit_error", "rate_limit_error"),
        (502, "server_error", "api_error"),
        (503, "server_error", "overloaded_error"),
        (504, "server_error", "timeout_error"),
    ],
)
def test_the_type_follows_the_status(status, openai, anthropic):
    refused = Refused(status, "x", "y")
    assert json.loads(answer(refused, "openai"))["error"]["type"] == openai
    assert json.loads(answer(refused, "anthropic"))["error"]["type"] == anthropic


@pytest.mark.parametrize("dialect", ["openai", "anthropic", "ollama"])
@pytest.mark.parametrize(
    "name",
    ["a\r\nX-Evil: 1", "\x1b[31m", "\u202e", "\ud800", "x" * 10_000, "sk-" + "a" * 40, "hf_" + "b" * 40],
    ids=["lines", "escape", "bidi", "surrogate", "long", "openai-key", "hub-token"],
)
def test_what_a_client_sent_is_told_on_one_short_line_without_secrets(dialect, name):
    body = answer(Refused(404, "model_not_found", f"no model {name}", param=name), dialect)
    assert len(body) < 800
    assert body.isascii()
    said = body.decode()
    assert name not in json.loads(said).values()
    assert not any(secret in said for secret in ("\n", "\x1b", "sk-aaaa", "hf_bbbb"))
