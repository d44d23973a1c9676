"""One request on its way to an engine and back: the name rewritten, the answer judged, bytes passed on as they come."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from lmctl.errors import escape
from lmctl.gateway.refused import Dialect, Refused, answer
from lmctl.gateway.routing import Target
from lmctl.gateway.upstream import Broken, Exchange, Pool, Unreachable
from lmctl.record import record
from lmctl.spec import Json

ANSWER = 64 << 20  # bytes of an answer that does not stream
_ERROR = 64 << 10  # bytes of an engine's own error
_SENT = ((b"content-type", b"application/json"), (b"accept-encoding", b"identity"))
_STREAM, _JSON = b"text/event-stream", b"application/json"
_LOADING = 503


@record
class Answer:
    """A whole answer of an engine."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()


async def ask(pool: Pool, target: Target, path: str, body: dict[str, Json]) -> Exchange:
    """Send `body` to the engine of `target`, `model` being what that engine calls it. Raises Refused: 502, 503."""
    told = json.dumps({**body, "model": target.model}, ensure_ascii=False, separators=(",", ":")).encode()
    try:
        return await pool.ask(b"POST", path.encode(), _SENT, told)
    except Unreachable:
        message = f"{target.profile} does not run: start it with `lmctl start {target.profile}`"
        raise Refused(503, "model_not_running", message, headers=(("Retry-After", "5"),)) from None
    except Broken as error:
        raise broken(target, str(error)) from error


def broken(target: Target, why: str) -> Refused:
    """Return what a client is told of an engine that failed."""
    return Refused(502, "upstream_error", f"the engine of {target.profile} failed: {why}")


def streams(exchange: Exchange, target: Target) -> bool:
    """Return whether the answer is a stream of events. Raises Refused for what no engine may answer."""
    head = exchange.head
    if 300 <= head.status < 400:
        raise broken(target, f"it answered {head.status}")
    if (head.header(b"content-encoding") or b"identity") != b"identity":
        raise broken(target, "its answer is packed")
    kind = (head.header(b"content-type") or b"").partition(b";")[0].strip().lower()
    if kind not in (_STREAM, _JSON):
        raise broken(target, f"it answered {escape(kind.decode('latin-1'), 60) or 'no content type'}")
    return kind == _STREAM and head.status == 200


async def whole(exchange: Exchange, target: Target) -> Answer:
    """Return an answer that does not stream. Raises Refused where it is no JSON object or too long."""
    status = exchange.head.status
    try:
        body = await exchange.body(ANSWER if status < 300 else _ERROR)
    except Broken as error:
        raise broken(target, str(error)) from error
    try:
        right = isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        right = False
    if not right:
        raise broken(target, f"it answered {status} with what is no JSON object")
    return Answer(status, body, ((b"retry-after", b"1"),) if status == _LOADING else ())


async def events(exchange: Exchange, target: Target, dialect: Dialect) -> AsyncIterator[bytes]:
    """Yield a stream as it comes; one that breaks off ends with an event that says so, in the client's dialect."""
    try:
        async for data in exchange.chunks():
            yield data
    except Broken as error:
        yield cut(broken(target, str(error)), dialect)


def cut(why: Refused, dialect: Dialect) -> bytes:
    """Return the event with which a stream ends that broke off: a half line must not swallow what is said now."""
    return b"\n\n" + (b"event: error\n" if dialect == "anthropic" else b"") + b"data: " + answer(why, dialect) + b"\n\n"
