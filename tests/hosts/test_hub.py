"""The Hub is asked through huggingface_hub itself; every refusal has its own text, no secret goes elsewhere."""

from __future__ import annotations

import httpx2
import pytest
from downloads import TOKEN
from hub import Pattern
from huggingface_hub import get_session

from lmctl.errors import LmctlError
from lmctl.hosts.answers import Asked, Passing, refusal, retry_after
from lmctl.hosts.claims import checked_name
from lmctl.hosts.endpoint import Endpoint
from lmctl.hosts.hub import HuggingFace
from lmctl.paths import Folders
from lmctl.spec import Machine

FILES = {"model-Q4_K_M.gguf": b"GGUF" * 1000, "config.json": b"{}", "sub/tokenizer.json": b"[1]"}


def test_a_repository_is_listed_with_commit_sizes_and_hashes(hub, face):
    commit = hub.add("o/n", FILES)
    listing = face.list("o/n", "main")
    assert (listing.repo, listing.revision, listing.commit) == ("o/n", "main", commit)
    assert [file.path for file in listing.files] == ["config.json", "model-Q4_K_M.gguf", "sub/tokenizer.json"]
    config, model, _ = listing.files
    assert (model.size, model.sha256) == (4000, hub.file("o/n", "model-Q4_K_M.gguf").sha256)
    assert (config.size, config.sha256, config.blob) == (2, None, hub.file("o/n", "config.json").blob)


def test_ranges_of_files_are_read(hub, face):
    commit = hub.add("o/n", {**FILES, "big.gguf": Pattern(8 << 20)})
    assert face.read("o/n", commit, "model-Q4_K_M.gguf", 2, 4) == b"UFGG"
    assert face.read("o/n", commit, "config.json", 0, 1 << 20) == b"{}"
    assert face.read("o/n", commit, "config.json", 99, 5) == b""
    assert face.read("o/n", commit, "big.gguf", (5 << 20) - 4, 12)[4:] == (5).to_bytes(8, "big")


def test_F42_a_server_without_ranges_is_read_up_to_a_bound(hub, face):
    commit = hub.add("o/n", {**FILES, "big.gguf": Pattern(20 << 20)})
    hub.fault("o/n", ranges="ignore")
    assert face.read("o/n", commit, "model-Q4_K_M.gguf", 2, 4) == b"UFGG"
    with pytest.raises(LmctlError, match="serves no ranges"):
        face.read("o/n", commit, "big.gguf", 17 << 20, 4)


def test_nothing_but_the_repository_is_asked_for(hub, face):
    hub.add("o/n", FILES)
    face.list("o/n", "main")
    assert [request.path for request in hub.requests] == ["/api/models/o/n/revision/main?blobs=true"]
    assert hub.requests[0].headers["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("where", ["/api/agent-harnesses", "/api/whoami-v2", "/o/n/resolve/main/config.json", None])
def test_whatever_else_the_hubs_client_would_ask_is_not_sent(hub, face, where):
    """The client asks for more than repositories by itself, also at addresses of its own."""
    url = f"{hub.elsewhere}/api/models/o/n" if where is None else f"{hub.url}{where}"
    with pytest.raises(httpx2.ConnectError, match="not asked"):
        get_session().get(url, headers={"Authorization": f"Bearer {TOKEN}"})
    assert hub.requests == []


def test_without_a_token_none_is_sent(hub):
    hub.add("o/n", FILES)
    HuggingFace(Endpoint(hub.url)).list("o/n", "main")
    assert "authorization" not in hub.requests[0].headers


REFUSED = [
    pytest.param({"status": 401}, "E-AUTH", "does not accept the token", id="F41-401"),
    pytest.param({"status": 403, "headers": {"X-Error-Code": "GatedRepo"}}, "E-GATED", "is gated", id="F41-gated"),
    pytest.param({"status": 403}, "E-AUTH", "may not read", id="F41-403"),
    pytest.param({"status": 410}, "E-MISSING", "was removed", id="F41-410"),
    pytest.param({"status": 451}, "E-MISSING", "legal", id="F41-451"),
    pytest.param({"status": 429, "headers": {"Retry-After": "3600"}}, "E-RATE", "until ", id="F39-3600"),
    pytest.param({"status": 503}, "E-HUB", "answered 503", id="F40-503"),
    pytest.param({"redirect": "http://127.0.0.2/x"}, "E-MISSING", "moved to http://127.0.0.2/x", id="F43-moved"),
    pytest.param({"body": b"<html>log in"}, "E-HUB", "not a Hugging Face endpoint", id="F45-html"),
    pytest.param({"body": b"[1, 2]"}, "E-HUB", "not a Hugging Face endpoint", id="F45-json-list"),
    pytest.param({"body": b'{"a": 1}'}, "E-HUB", "not a Hugging Face endpoint", id="F45-json-object"),
    pytest.param({"body": b'{"id": "o/n", "sha": "main"}'}, "E-HUB", "commit", id="I113-main"),
    pytest.param({"body": b'{"id": "o/n", "sha": "../"}'}, "E-HUB", "commit", id="I113-dots"),
    pytest.param({"body": b'{"id": "o/n"}'}, "E-HUB", "commit", id="I113-missing"),
    pytest.param({"status": 400, "headers": {"X-Error-Message": "a\x1b[31m"}}, "E-HUB", "answered 400", id="I116-esc"),
    pytest.param({"status": 418, "body": b"x" * (10 << 20)}, "E-HUB", "answered 418", id="I115-10-MB"),
    pytest.param({"headers": {"X-Junk": "x" * (1 << 20)}}, "E-", "", id="I118-1-MB-header"),
    pytest.param(
        {"headers": {"Set-Cookie": "x" * 9000, "Strict-Transport-Security": "\x7f"}}, "", "", id="I118-cookie"
    ),
    pytest.param({"raw": b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * (33 << 20)}, "E-HUB", "does not end", id="F38-endless"),
]


@pytest.mark.parametrize(("fault", "code", "says"), REFUSED)
def test_a_listing_that_is_refused_says_why(hub, face, fault, code, says):
    hub.add("o/n", FILES)
    hub.fault("o/n", where="api", **fault)
    if not code:
        assert face.list("o/n", "main").commit
        return
    with pytest.raises(LmctlError) as error:
        face.list("o/n", "main")
    text = str(error.value)
    assert (error.value.code.startswith(code), says in text, error.value.exit_code) == (True, True, 7), text
    assert error.value.problems[0].fix
    assert TOKEN not in text
    assert "\x1b" not in text
    assert all(request.server == "hub" for request in hub.requests)


@pytest.mark.parametrize(
    ("repo", "revision", "says"),
    [("o/none", "main", "o/none does not exist"), ("o/n", "v9", "o/n has no revision v9")],
    ids=["F41-404-repo", "F41-404-revision"],
)
def test_F41_what_is_missing_is_named(hub, face, repo, revision, says):
    hub.add("o/n", FILES)
    with pytest.raises(LmctlError, match=says):
        face.list(repo, revision)


def test_F41_a_missing_file_is_named(hub, face):
    commit = hub.add("o/n", FILES)
    with pytest.raises(LmctlError, match=r"o/n has no file none\.gguf at"):
        face.read("o/n", commit, "none.gguf", 0, 4)


NAMES = {
    "dots": "../x", "inner-dots": "a/../../x", "absolute": "/etc/passwd", "nul": "a\0b",
    "backslash": "..\\x", "dot": "a/./b", "double": "a//b", "end": "a/", "empty": "",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES.values(), ids=[f"F44-{name}" for name in NAMES])
def test_F44_a_file_name_that_leaves_the_repository_is_refused(hub, face, name):
    hub.add("o/n", {name: b"x", "config.json": b"{}"})
    with pytest.raises(LmctlError, match="leaves its folder") as error:
        face.list("o/n", "main")
    assert error.value.code == "E-HUB"
    with pytest.raises(LmctlError):
        checked_name(name)


@pytest.mark.parametrize("name", ["x" * 255, "é" * 128, "x/" * 512 + "y"], ids=["255", "256", "path-of-1025"])
def test_F64_a_file_name_that_is_too_long_for_some_system_is_refused(hub, face, name):
    hub.add("o/n", {name: b"x", "config.json": b"{}"})
    with pytest.raises(LmctlError, match="bytes, and not every system takes more than") as error:
        face.list("o/n", "main")
    assert error.value.code == "E-HUB"
    assert checked_name("x/" + "x" * 254)


def test_F52_a_token_with_a_line_break_is_refused_and_not_shown(home):
    folders = Folders.of({}, home)
    with pytest.raises(LmctlError) as error:
        Endpoint.of({"HF_TOKEN": "hf_ab\nX-Evil: 1"}, folders, Machine())
    assert (error.value.code, "hf_ab" in str(error.value)) == ("E-AUTH", False)
    assert TOKEN not in repr(Endpoint("https://hub.example", TOKEN))


def test_the_token_is_read_where_huggingface_hub_reads_it(home):
    folders = Folders.of({}, home)
    assert Endpoint.of({}, folders, Machine()).token is None
    folders.hf_home.mkdir(parents=True)
    (folders.hf_home / "token").write_text("hf_default\n")
    (home / "other").write_text("hf_other")
    assert Endpoint.of({}, folders, Machine()).token == "hf_default"
    assert Endpoint.of({"HF_TOKEN_PATH": str(home / "other")}, folders, Machine()).token == "hf_other"
    assert Endpoint.of({}, folders, Machine(token_file=home / "other")).token == "hf_other"
    assert Endpoint.of({"HF_TOKEN": " hf_env "}, folders, Machine(token_file=home / "other")).token == "hf_env"


@pytest.mark.parametrize(
    ("url", "good"),
    [
        ("https://hub.example/", True),
        ("http://127.0.0.1:9", True),
        ("http://[::1]:9", True),
        ("http://hub.example", False),
        ("http://127.0.0.1.evil.example", False),
        ("ftp://x", False),
        ("https://user:pass@hub.example", False),
        ("x", False),
    ],
)
def test_only_https_or_loopback_is_a_hub(home, url, good):
    folders = Folders.of({}, home)
    if good:
        assert Endpoint.of({"HF_ENDPOINT": url}, folders, Machine()).url == url.rstrip("/")
        return
    with pytest.raises(LmctlError) as error:
        Endpoint.of({}, folders, Machine(endpoint=url))
    assert (error.value.code, "pass" in str(error.value) and "user" not in url) == ("E-MACHINE", False)


def test_offline_reaches_loopback_alone(home):
    folders = Folders.of({}, home)
    Endpoint.of({"HF_ENDPOINT": "http://127.0.0.1:1"}, folders, Machine(), offline=True).reachable()
    with pytest.raises(LmctlError, match="offline"):
        Endpoint.of({"HF_HUB_OFFLINE": "1"}, folders, Machine()).reachable()
    with pytest.raises(LmctlError) as error:
        HuggingFace(Endpoint(offline=True)).list("o/n", "main")
    assert error.value.code == "E-OFFLINE"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"Retry-After": "-7"}, None),
        ({"Retry-After": "9" * 30}, None),
        ({"Retry-After": "Fri, 99 Foo 9999"}, None),
        ({"Retry-After": "Thu, 01 Jan 1970 00:01:40 GMT"}, 90),
        ({"ratelimit": '"api";r=0;t=55'}, 55),
        ({"ratelimit": '"api";r=3;t=55'}, None),
        ({}, None),
    ],
)
def test_F39_retry_after_is_read_or_ignored(headers, seconds):
    assert retry_after(headers, 10.0) == seconds


@pytest.mark.parametrize(
    "value",
    ["Fri, 31 Dec 9999 23:59:59 -2359", "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 +2359", "9" * 9],
)
def test_F39_a_date_beyond_all_calendars_is_a_refusal_like_any_other(value):
    found = refusal(429, {"Retry-After": value}, Asked("hub.example", "o/n", "main"), 1.7e9)
    assert isinstance(found, Passing)
    assert found.error.code == "E-RATE"


@pytest.mark.parametrize("status", [401, 403, 404, 410, 429, 451, 500])
def test_F41_every_refusal_names_a_different_cause_and_a_next_step(status):
    asked = [Asked("hub.example", "o/n", "main", "x", token) for token in (True, False)]
    for one in asked:
        problem = refusal(status, {}, one, 0.0)
        error = problem.error if isinstance(problem, Passing) else problem
        assert error.problems[0].fix
    if status == 401:
        assert str(refusal(status, {}, asked[0], 0)) != str(refusal(status, {}, asked[1], 0))
