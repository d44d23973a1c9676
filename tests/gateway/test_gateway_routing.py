"""Which profile a request means."""

from __future__ import annotations

import pytest

from lmctl.gateway.refused import Refused
from lmctl.gateway.routing import routes
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
    found = {name: (one.host, one.port, one.model, one.anthropic) for name, one in ROUTES.targets.items()}
    assert found["chat"] == ("127.0.0.1", 28000, "chat", True)
    assert found["code"] == ("::1", 28001, "default_model", False)
    assert found["raw"] == ("127.0.0.1", 28002, "raw", False)


def test_a_row_of_usage_names_model_and_backend():
    assert [(one.weights, one.backend) for one in ROUTES.targets.values()] == [
        ("owner/model", "llama.cpp"),
        ("owner/model", "mlx"),
        ("-", "command"),
    ]


SHARED = routes(
    (profile("one", port=8081), profile("two", port=8081), profile("moved", port=8082), profile("fixed", port=8083)),
    {"one": "127.0.0.1:28000", "two": "127.0.0.1:28001", "moved": "127.0.0.1:28002", "fixed": "127.0.0.1:8083"},
    None,
    {"one": b"secret"},
)


def test_profiles_are_reached_at_their_own_port_unless_their_engine_listens_there():
    assert SHARED.ports == {8081: ("one", "two"), 8082: ("moved",)}
    assert (SHARED.targets["one"].key, SHARED.targets["two"].key) == (b"secret", None)


@pytest.mark.parametrize(
    ("port", "model", "running", "means"),
    [
        (8082, None, (), "moved"),
        (8082, "anything at all", (), "moved"),
        (8082, "one", (), "moved"),
        (8081, "two", (), "two"),
        (8081, "two", ("one",), "two"),
        (8081, None, (), "one"),
        (8081, "unknown", ("two",), "two"),
        (8081, "moved", ("two",), "two"),
    ],
)
def test_on_a_port_of_its_own_a_profile_may_be_called_anything(port, model, running, means):
    assert SHARED.at(port, model, lambda: running).profile == means


def test_a_port_that_no_profile_has_any_more_is_503():
    with pytest.raises(Refused) as refused:
        SHARED.at(8099, None, list)
    assert refused.value.status == 503


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
