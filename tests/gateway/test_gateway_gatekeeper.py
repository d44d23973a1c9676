"""Requests from other pages, without a key or with contradictory headers go no further than their headers."""

from __future__ import annotations

import hashlib

import pytest

from lmctl.gateway.gatekeeper import MAX_HEADERS, admit
from lmctl.gateway.refused import Refused

KEY = b"correct-horse"
KEYS = frozenset(hashlib.sha256(key).digest() for key in (KEY, b"another"))
HOST, JSON = (b"host", b"127.0.0.1:8080"), (b"content-type", b"application/json")
PAGE = b"https://app.example"


def asked(*headers, method="POST", keys=None, hosts=(), origins=("https://app.example",)):
    """Ask with these headers; Host and a content type are added where none stands."""
    names = {name.lower() for name, _ in headers}
    usual = [one for one in (HOST, JSON) if one[0] not in names]
    return admit([*usual, *headers], method=method, hosts=frozenset(hosts), origins=frozenset(origins), keys=keys)


def refusal(*headers, **named):
    with pytest.raises(Refused) as raised:
        asked(*headers, **named)
    return raised.value


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]", "[::1]:65535"])
def test_this_machine_is_asked_by_its_loopback_names(host):
    assert asked((b"host", host.encode())).headers == ()


EVIL = [
    "evil.example",
    "evil.example:8080",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "localhost.",
    "0.0.0.0",
]
EVIL += [
    "127.1",
    "2130706433",
    "::1",
    "[::1",
    "[::1]x",
    "localhost:",
    "localhost:x",
    "user@localhost",
    "localhost/",
    "",
]
EVIL += ["localhost, evil.example", "lоcalhost", " localhost", "127.0.0.1:8080:1", "[::ffff:127.0.0.1]", "x" * 9999]


@pytest.mark.parametrize("host", EVIL, ids=lambda host: f"F85-host-{host[:30]!r}")
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_no_other_host_is_answered(host, method):
    refused = refusal((b"host", host.encode()), method=method)
    assert (refused.status, refused.code) == (403, "host_not_allowed")


def test_a_declared_host_is_answered_with_any_port_unless_it_names_one():
    assert asked((b"host", b"Box.lan:9"), hosts=["box.lan"]).headers == ()
    assert asked((b"host", b"box.lan:9"), hosts=["box.lan:9"]).headers == ()
    assert refusal((b"host", b"box.lan:8"), hosts=["box.lan:9"]).status == 403


ORIGINS = ["https://evil", "null", "", "https://app.example.evil", "http://app.example", "https://app.example:444", "*"]
ORIGINS += ["http://127.0.0.1:8080", "HTTPS://APP.EXAMPLE", "https://app.example/", "https://äpp.example", "x" * 9999]


@pytest.mark.parametrize("origin", ORIGINS, ids=lambda origin: f"F85-origin-{origin[:30]!r}")
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_no_other_origin_is_answered(origin, method):
    refused = refusal((b"origin", origin.encode()), method=method)
    assert (refused.status, refused.code) == (403, "origin_not_allowed")
    assert refused.headers == ()


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_page_of_a_declared_origin_may_read_the_answer(method):
    admitted = asked((b"origin", PAGE), method=method)
    assert admitted.headers == ((b"access-control-allow-origin", PAGE), (b"vary", b"Origin"))
    assert not admitted.preflight


def test_a_page_of_a_declared_origin_may_read_why_it_was_refused():
    refused = refusal((b"origin", PAGE), keys=KEYS)
    assert ("access-control-allow-origin", "https://app.example") in refused.headers


def test_a_preflight_is_answered_without_a_key():
    method, names = (b"access-control-request-method", b"POST"), b"authorization,content-type, x-stainless-os"
    wants = ((b"access-control-request-headers", names), (b"access-control-request-private-network", b"true"))
    admitted = asked((b"origin", PAGE), method, *wants, method="OPTIONS", keys=KEYS)
    assert admitted.preflight
    told = dict(admitted.headers)
    assert told[b"access-control-allow-origin"] == PAGE
    assert told[b"access-control-allow-methods"] == b"GET, POST"
    assert told[b"access-control-allow-headers"] == names
    assert told[b"access-control-allow-private-network"] == b"true"


@pytest.mark.parametrize("names", [b"a b", b"a;b", b"*", b"a,,b", b"x" * 65, b"a\tb", "ä".encode()])
def test_odd_names_of_headers_are_not_allowed_to_a_page(names):
    wants = ((b"access-control-request-method", b"POST"), (b"access-control-request-headers", names))
    admitted = asked((b"origin", PAGE), *wants, method="OPTIONS")
    assert admitted.preflight
    assert b"access-control-allow-headers" not in dict(admitted.headers)


def test_options_without_an_origin_is_no_preflight():
    assert not asked((b"access-control-request-method", b"POST"), method="OPTIONS").preflight
    assert refusal(method="OPTIONS", keys=KEYS).status == 401


@pytest.mark.parametrize(
    "kind",
    [b"application/json", b"application/json; charset=utf-8", b"Application/JSON ;x=y"],
)
def test_a_body_is_json(kind):
    assert asked((b"content-type", kind)).headers == ()


KINDS = ["text/plain", "text/plain; application/json", "application/x-www-form-urlencoded", "multipart/form-data", ""]
KINDS += ["application/jsonx", "application/json, text/plain", "text/json", "application/json\u00a0"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"F85-type-{kind!r}")
def test_another_content_type_is_refused(kind):
    refused = refusal((b"content-type", kind.encode()))
    assert (refused.status, refused.code) == (415, "unsupported_media_type")


def test_F85_a_missing_content_type_is_refused():
    with pytest.raises(Refused) as raised:
        admit([HOST], method="POST", hosts=frozenset(), origins=frozenset(), keys=None)
    assert raised.value.status == 415


def test_a_packed_body_is_refused():
    assert refusal((b"content-encoding", b"gzip")).status == 415
    assert asked((b"content-encoding", b"identity")).headers == ()


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "headers",
    [
        [(b"authorization", b"Bearer correct-horse")],
        [(b"Authorization", b"bearer  another")],
        [(b"x-api-key", KEY)],
        [(b"x-api-key", KEY), (b"authorization", b"Bearer another")],
    ],
    ids=["bearer", "any-case", "x-api-key", "both"],
)
def test_a_right_key_lets_in(headers, method):
    assert asked(*headers, keys=KEYS, method=method).headers == ()


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_F85_a_missing_key_is_refused(method):
    refused = refusal(keys=KEYS, method=method)
    assert (refused.status, refused.code) == (401, "missing_api_key")
    assert ("WWW-Authenticate", "Bearer") in refused.headers


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param([(b"authorization", b"Bearer wrong")], id="F85-wrong-key"),
        pytest.param([(b"x-api-key", b"wrong")], id="F85-wrong-x-api-key"),
        pytest.param([(b"x-api-key", KEY), (b"authorization", b"Bearer wrong")], id="F85-one-of-two-wrong"),
        pytest.param([(b"x-api-key", b"wrong"), (b"authorization", b"Bearer correct-horse")], id="F85-other-of-two"),
        pytest.param([(b"authorization", b"Bearer ' OR 1=1--")], id="I127-sql"),
        pytest.param([(b"authorization", b"Bearer " + b"x" * 60_000)], id="I127-long"),
        pytest.param([(b"authorization", "Bearer cörrect".encode())], id="I127-non-ascii"),
        pytest.param([(b"authorization", b"Basic Y29ycmVjdC1ob3JzZQ==")], id="I127-basic"),
        pytest.param([(b"authorization", KEY)], id="I127-no-scheme"),
        pytest.param([(b"authorization", b"Bearer")], id="I127-scheme-alone"),
        pytest.param([(b"authorization", b"Bearer\tcorrect-horse")], id="I127-tab"),
        pytest.param([(b"authorization", b"Bearer correct-horse another")], id="I127-two"),
        pytest.param([(b"authorization", b"Bearer correct-horse, Basic x")], id="I127-list"),
        pytest.param([(b"authorization", b"")], id="I127-empty"),
        pytest.param([(b"x-api-key", b"")], id="I127-empty-x-api-key"),
        pytest.param([(b"x-api-key", hashlib.sha256(KEY).hexdigest().encode())], id="I127-digest-for-key"),
    ],
)
def test_a_wrong_or_odd_key_is_refused_and_never_told(headers):
    refused = refusal(*headers, keys=KEYS)
    assert (refused.status, refused.code) == (401, "invalid_api_key")
    assert all(len(value) < 20 or value.decode("latin-1") not in refused.message for _, value in headers)
    assert len(refused.message) < 100


def test_no_keys_at_all_let_nobody_in():
    assert refusal((b"x-api-key", KEY), keys=frozenset()).status == 401


def test_a_key_is_not_looked_at_where_none_is_asked():
    assert asked((b"authorization", b"Bearer lm-studio")).headers == ()


@pytest.mark.parametrize(
    "name", ["host", "content-type", "content-length", "authorization", "x-api-key", "origin", "transfer-encoding"]
)
def test_a_header_that_decides_stands_once(name):
    headers = [(name.encode(), b"1"), (name.upper().encode(), b"1")]
    refused = refusal(*headers, keys=KEYS)
    assert (refused.status, refused.code) == (400, "invalid_headers")


@pytest.mark.parametrize(
    "headers",
    [
        [(b"content-length", b"3"), (b"transfer-encoding", b"chunked")],
        [(b"transfer-encoding", b"chunked, identity")],
        [(b"transfer-encoding", b"identity")],
        [(b"transfer-encoding", b"xchunked")],
        [(b"content-length", b"+3")],
        [(b"content-length", b"-1")],
        [(b"content-length", b"3, 3")],
        [(b"content-length", b"0x3")],
        [(b"content-length", b"")],
        [(b"content-length", b"9" * 20)],
        [(b"x-odd", b"a\r\nx-other: b")],
        [(b"x-odd", b"a\n b")],
        [(b"x-odd", b"a\0")],
    ],
    ids=repr,
)
def test_headers_that_two_programs_read_in_two_ways_are_refused(headers):
    refused = refusal(*headers)
    assert (refused.status, refused.code) == (400, "invalid_headers")


def test_a_host_is_needed():
    with pytest.raises(Refused) as raised:
        admit([JSON], method="POST", hosts=frozenset(), origins=frozenset(), keys=None)
    assert (raised.value.status, raised.value.code) == (400, "invalid_headers")


def test_a_length_or_chunks_are_fine():
    assert asked((b"content-length", b"12")).headers == ()
    assert asked((b"transfer-encoding", b"Chunked")).headers == ()


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-%d" % number, b"") for number in range(MAX_HEADERS - 1)],
        [(b"x-long", b"x" * 65_536)],
        [(b"x" * 65_536, b"")],
        [(b"authorization", b"Bearer " + b"x" * 2**20)],
    ],
    ids=["many", "long-value", "long-name", "I127-1-MB"],
)
def test_large_headers_are_refused(headers):
    refused = refusal(*headers, keys=KEYS)
    assert (refused.status, refused.code) == (431, "headers_too_large")


def test_as_many_headers_as_allowed_are_read():
    assert asked(*[(b"x-%d" % number, b"") for number in range(MAX_HEADERS - 2)]).headers == ()
