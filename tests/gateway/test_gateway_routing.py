"""Which profile a request means."""

from __future__ import annotations

import pytest

from lmctl.gateway.refused import Refused
from lmctl.gateway.routing import Target, routes
from lmctl.spec import Profile, Settings, Wanted


def profile(name: str, backend: str = "llama.cpp", repo: str | None = None, **more: object) -> Profile:
    weights = Wanted(f"{repo}@main:", repo, "main", "", "gguf") if repo else None
    return Profile(name, backend, weights, Settings(), **more)  # type: ignore[arg-type]


PROFILES = (
    profile("chat", repo="owner/model", aliases=("gpt-4o", "fast")),
    profile("code", "mlx", repo="owner/model"),
    profile("raw", "command"),
)
LISTENS = {"chat": "127.0.0.1:28000", "code": "[::1]:28001", "raw": "0.0.0.0:28002"}
ROUTES = routes(PROFILES, LISTENS, "chat")


@pytest.mark.parametrize(
    ("model", "means"),
    [
        ("chat", "chat"),
        ("gpt-4o", "chat"),
        ("owner/model", "chat"),
        ("code", "code"),
        ("raw", "raw"),
        (None, "chat"),
        ("local", "chat"),
        ("default", "chat"),
    ],
)
def test_a_name_an_alias_or_an_id_means_a_profile(model, means):
    assert ROUTES.find(model).profile == means


def test_an_engine_is_told_the_name_that_it_serves_and_asked_where_it_listens():
    assert ROUTES.find("chat") == Target("chat", "127.0.0.1", 28000, "chat", anthropic=True)
    assert ROUTES.find("code") == Target("code", "::1", 28001, "default_model")
    assert ROUTES.find("raw") == Target("raw", "127.0.0.1", 28002, "raw")


@pytest.mark.parametrize(
    ("model", "says"),
    [("cod", "did you mean code?"), ("Chat", "did you mean chat?"), ("x\x1b[31m", r"x\\x1b"), ("y" * 9999, "…")],
    ids=["near", "case", "escape", "long"],
)
def test_an_unknown_name_is_404_with_the_near_one(model, says):
    with pytest.raises(Refused, match=says) as refused:
        ROUTES.find(model)
    assert (refused.value.status, refused.value.code) == (404, "model_not_found")
    assert len(refused.value.message) < 200


@pytest.mark.parametrize("default", [None, "gone"])
@pytest.mark.parametrize("model", [None, "local", "default"])
def test_without_a_default_a_model_must_be_named(model, default):
    with pytest.raises(Refused) as refused:
        routes(PROFILES, LISTENS, default).find(model)
    assert (refused.value.status, refused.value.code) == (400, "model_required")


def test_a_profile_without_an_address_is_no_route():
    assert [*routes(PROFILES, {"raw": "127.0.0.1:1"}, None).targets] == ["raw"]
