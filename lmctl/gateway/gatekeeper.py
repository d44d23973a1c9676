"""Who may ask the gateway: Host, Origin, content type, key and shape of the headers, before a body is read. Pure."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence

from lmctl.errors import escape
from lmctl.gateway.refused import Refused
from lmctl.record import record

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})  # always allowed as Host, with any port
MAX_HEADERS, MAX_HEADER_BYTES = 100, 64 * 1024

Headers = tuple[tuple[bytes, bytes], ...]

# Two of one of these, and two programs that read the request may each take another one.
_ONCE = frozenset(
    b"host content-type content-length transfer-encoding content-encoding authorization x-api-key origin".split()
)
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(?::[0-9]{1,5})?")
_BROKEN = re.compile(rb"[\r\n\0]")
_BEARER = re.compile(rb"(?i:bearer) +([\x21-\x7e]{1,1024})")  # RFC 6750, wider: keys are chosen by people
_KEY = re.compile(rb"([\x21-\x7e]{1,1024})")
_NAMES = re.compile(rb"[A-Za-z0-9-]{1,64}(?: ?, ?[A-Za-z0-9-]{1,64}){0,63}")  # of headers, in a preflight


@record
class Admission:
    """A request that may go on: the CORS headers of its answer, and whether that answer is all (204, no body)."""

    headers: Headers = ()
    preflight: bool = False


_PLAIN = Admission()


def admit(
    headers: Sequence[tuple[bytes, bytes]],
    *,
    method: str,
    hosts: frozenset[str],
    origins: frozenset[str],
    keys: frozenset[bytes] | None,
) -> Admission:
    """Return how to go on with a request, or raise Refused before anything else of it is read.

    `hosts`: names, with or without a port, in lower case, allowed as Host besides LOOPBACK: a page that had its own
    name point at this machine (DNS rebinding) asks under that name. `origins`: as browsers send them,
    `https://host[:port]`. `keys`: sha256 digests of the keys of which one must be given, None where none is asked; an
    empty set lets nobody in.
    A key counts in `Authorization: Bearer` and `x-api-key` alone; where both are given, both must be right.

    Refused: 431 too large; 400 contradictory headers; 403 Host or Origin; 415 content type; 401 key. A preflight is
    answered without a key: browsers send none with it.
    """
    one = _shape(headers)
    if not _host_allowed(one[b"host"], hosts):
        shown = escape(one[b"host"].decode("latin-1"), 60)
        raise Refused(403, "host_not_allowed", f"Host {shown} is not allowed; ask 127.0.0.1 or localhost")
    origin = one.get(b"origin")
    if origin is None and method != "POST" and keys is None:
        return _PLAIN
    cors = () if origin is None else _cors(origin, origins)
    if origin is not None and method == "OPTIONS" and b"access-control-request-method" in one:
        return Admission((*cors, *_preflight(one)), preflight=True)
    readable = tuple((name.decode("ascii"), value.decode("ascii")) for name, value in cors)
    if method == "POST":
        _json_only(one, readable)
    if keys is not None:
        _key_given(one, keys, readable)
    return Admission(cors) if cors else _PLAIN


def host(address: str) -> str:
    """Return an IP address as Host names it. No name can be made to point at it, so whoever says it means it."""
    return f"[{address}]" if ":" in address else address


def _shape(headers: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the headers by name in lower case, the last of those that may come twice."""
    size = sum([len(name) + len(value) + 4 for name, value in headers])
    if len(headers) > MAX_HEADERS or size > MAX_HEADER_BYTES:
        limit = f"{MAX_HEADERS} headers and {MAX_HEADER_BYTES // 1024} KiB"
        raise Refused(431, "headers_too_large", f"the headers are more than {limit}")
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        name = name.lower()
        if name in found and name in _ONCE:
            raise Refused(400, "invalid_headers", f"the header {name.decode('ascii')} stands twice")
        if _BROKEN.search(value):
            raise Refused(400, "invalid_headers", "a header holds a line break or a zero byte")
        found[name] = value
    if b"host" not in found:
        raise Refused(400, "invalid_headers", "the header host is missing")
    length, transfer = found.get(b"content-length"), found.get(b"transfer-encoding")
    if transfer is not None and (length is not None or transfer.strip().lower() != b"chunked"):
        raise Refused(400, "invalid_headers", "send a content-length, or transfer-encoding: chunked alone")
    if length is not None and not (length.isdigit() and len(length) < 20):
        raise Refused(400, "invalid_headers", "content-length is not a number of bytes")
    return found


def _host_allowed(value: bytes, hosts: frozenset[str]) -> bool:
    matched = _HOST.fullmatch(value)
    if matched is None:
        return False
    name = matched[1].decode("ascii").lower()
    return name in LOOPBACK or name in hosts or value.decode("ascii").lower() in hosts


def _cors(origin: bytes, origins: frozenset[str]) -> Headers:
    """Return what lets a page of this origin read the answer."""
    if not origin.isascii() or origin.decode("ascii") not in origins:
        shown = escape(origin.decode("latin-1"), 100)
        fix = "declare it in `[gateway] origins` to let its pages ask"
        raise Refused(403, "origin_not_allowed", f"Origin {shown} is not allowed; {fix}")
    return ((b"access-control-allow-origin", origin), (b"vary", b"Origin"))


def _preflight(one: dict[bytes, bytes]) -> Headers:
    """Return what a page of a declared origin may send: the methods served, and the headers that it asks for."""
    allowed = [(b"access-control-allow-methods", b"GET, POST"), (b"access-control-max-age", b"600")]
    asked = one.get(b"access-control-request-headers", b"")
    if _NAMES.fullmatch(asked):
        allowed.append((b"access-control-allow-headers", asked))
    if one.get(b"access-control-request-private-network") == b"true":  # a page of the internet asks this machine
        allowed.append((b"access-control-allow-private-network", b"true"))
    return tuple(allowed)


def _json_only(one: dict[bytes, bytes], cors: tuple[tuple[str, str], ...]) -> None:
    """Refuse what a page may send without asking first: forms and plain text; and what would have to be unpacked."""
    kind = one.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if kind != b"application/json":
        message = "the body must be JSON, sent with the header Content-Type: application/json"
        raise Refused(415, "unsupported_media_type", message, headers=cors)
    if one.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise Refused(415, "unsupported_media_type", "send the body without Content-Encoding", headers=cors)


def _key_given(headers: dict[bytes, bytes], keys: frozenset[bytes], cors: tuple[tuple[str, str], ...]) -> None:
    challenge = (("WWW-Authenticate", "Bearer"), *cors)
    bearer, plain = headers.get(b"authorization"), headers.get(b"x-api-key")
    if bearer is None and plain is None:
        message = "a key is missing: send it as Authorization: Bearer, or as x-api-key"
        raise Refused(401, "missing_api_key", message, headers=challenge)
    found = [] if bearer is None else [_BEARER.fullmatch(bearer)]
    found += [] if plain is None else [_KEY.fullmatch(plain)]
    if not all(one is not None and _known(one[1], keys) for one in found):
        raise Refused(401, "invalid_api_key", "the key is not one of this gateway's", headers=challenge)


def _known(key: bytes, keys: frozenset[bytes]) -> bool:
    digest = hashlib.sha256(key).digest()
    return sum(hmac.compare_digest(digest, known) for known in keys) > 0  # all of them, whichever is right
