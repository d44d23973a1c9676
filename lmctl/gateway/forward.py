"""Engines behind the gateway: the name rewritten, the answer judged and counted, bytes passed on as they come."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from typing import Any

import orjson
import truststore

from lmctl.errors import escape
from lmctl.gateway import cloud_fields, recount
from lmctl.gateway.accounting import Counts, Sieve, counts
from lmctl.gateway.connection import Broken, Cut, Headers
from lmctl.gateway.recount import Kept
from lmctl.gateway.refused import Refused
from lmctl.gateway.routing import Routes, Target
from lmctl.gateway.slots import Slots
from lmctl.gateway.upstream import Exchange, Pool, Unreachable
from lmctl.gateway.visit import Visit
from lmctl.spec import Json

ANSWER = 64 << 20  # bytes of an answer that does not stream
_ERROR = 64 << 10  # bytes of an engine's own error
_SENT = ((b"content-type", b"application/json"), (b"accept-encoding", b"identity"))
_STREAM, _JSON = b"text/event-stream", b"application/json"
_LOADING = 503
_RECOUNT = 10.0  # seconds for a tokenizer's answer: the engine may be busy with others
_LOOK = 1.0  # seconds between two looks at whose time is over
_SOON = ((b"retry-after", b"1"),)
_KEYS = (401, 403)  # what a cloud answers to a wrong key: nothing that its client could mend
_BUSY = 429
Where = tuple[str, int, bool | None]  # host, port; None: an engine, else whether a cloud is asked over TLS
# The endpoints whose streams tell their tokens only when they are asked to.
_ASKED = frozenset(["chat", "completions"])


class Absent(Refused):
    """Nothing listens where an engine should, or it ended at once: waiting for it may help."""


class Engines:
    """The pools of connections to engines and clouds, by address."""

    def __init__(self) -> None:
        self._pools: dict[Where, Pool] = {}
        self._tls: ssl.SSLContext | None = None  # made for the first cloud: it takes its time
        self._waiting: dict[Visit, float] = {}  # until when each has to be answered, by the monotonic clock
        self._timer: asyncio.TimerHandle | None = None

    def close(self) -> None:
        """Close idle connections."""
        if self._timer is not None:
            self._timer.cancel()
        for pool in self._pools.values():
            pool.close()

    def keep(self, routes: Routes) -> None:
        """Let go of the pools of engines that are not where they were."""
        here = {_where(target) for target in (*routes.targets.values(), *routes.clouds.values())}
        for where in self._pools.keys() - here:
            self._pools.pop(where).close()

    async def answer(self, visit: Visit, limit: float, slots: Slots) -> None:
        """Have the engine of a visit answer it, within `limit` seconds until it is answered or its stream begins.

        Raises Refused: 502, 503, 504.
        """
        self._watch(visit, limit)
        try:
            exchange = await self._ask(visit, slots)
            async with exchange:
                _declined(exchange.head.status, visit)
                if _streams(exchange, visit.target):
                    self._waiting.pop(visit, None)  # a stream that flows may last as long as it likes
                    await _flow(exchange, visit)
                else:
                    await _whole(exchange, visit)
        except asyncio.CancelledError:
            if not visit.overdue or visit.task is None or visit.task.uncancel():
                raise
            message = f"{visit.target.profile} did not answer within {limit:.0f} s"
            raise Refused(504, "upstream_timeout", message) from None
        finally:
            self._waiting.pop(visit, None)

    async def recounted(self, visit: Visit, stream: bytes) -> Counts:
        """Return the tokens of a visit whose stream was cut, as its engine's tokenizer counts them."""
        target = visit.target
        pool = self._pools.get(_where(target)) or self._pool(target)

        async def ask(path: str, body: Mapping[str, Json]) -> Mapping[str, Any] | None:
            try:
                async with asyncio.timeout(_RECOUNT):
                    told = orjson.dumps(body)
                    async with await pool.ask(b"POST", path.encode(), _headers(target), told) as exchange:
                        found = orjson.loads(await exchange.body(ANSWER))
            except (Broken, Unreachable, TimeoutError, ValueError, TypeError):
                return None
            return found if isinstance(found, dict) else None

        return await recount.counts(stream, visit.body, ask)

    def _watch(self, visit: Visit, limit: float) -> None:
        """Have a visit end when its time is over: one timer looks after all, for a timer each costs a good deal."""
        self._waiting[visit] = time.monotonic() + limit  # what came before was waiting for a slot
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(min(limit / 4, _LOOK), self._look, loop, limit)

    def _look(self, loop: asyncio.AbstractEventLoop, limit: float) -> None:
        now, self._timer = time.monotonic(), None
        for visit in [visit for visit, due in self._waiting.items() if due <= now]:
            del self._waiting[visit]
            visit.overdue = True
            if visit.task is not None:
                visit.task.cancel()
        if self._waiting:
            self._timer = loop.call_later(min(limit / 4, _LOOK), self._look, loop, limit)

    async def _ask(self, visit: Visit, slots: Slots) -> Exchange:
        """Send the request, `model` being what that engine calls it. Raises Refused: 502, 503."""
        target, path = visit.target, visit.endpoint.upstream
        pool = self._pools.get(_where(target)) or self._pool(target)
        if target.cloud is not None:
            if target.cloud.problem:
                raise Refused(503, "cloud_key_missing", target.cloud.problem)
            path = target.cloud.base + path.removeprefix("/v1")
        try:
            return await pool.ask(b"POST", path.encode(), _headers(target), _told(visit))
        except Unreachable as error:
            if target.cloud is not None:
                raise Refused(502, "cloud_unreachable", f"{target.profile} is not reached: {error}") from error
            slots.lost(target.profile)
            message = f"{target.profile} does not run: start it with `lmctl start {target.profile}`"
            raise Absent(503, "model_not_running", message, headers=(("Retry-After", "5"),)) from None
        except Cut as error:
            slots.lost(target.profile)
            told = broken(target, str(error))
            raise Absent(told.status, told.code, told.message) from error
        except Broken as error:
            raise broken(target, str(error)) from error

    def _pool(self, target: Target) -> Pool:
        if target.cloud is not None and target.cloud.secure:
            self._tls = self._tls or truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            pool = Pool(target.host, target.port, self._tls, again=False)
        else:
            pool = Pool(target.host, target.port, again=target.cloud is None)
        return self._pools.setdefault(_where(target), pool)


def _where(target: Target) -> Where:
    return target.host, target.port, None if target.cloud is None else target.cloud.secure


def broken(target: Target, why: str) -> Refused:
    """Return what a client is told of an engine or a cloud that failed."""
    who = "the engine of " if target.cloud is None else ""
    return Refused(502, "upstream_error", f"{who}{target.profile} failed: {why}")


def _declined(status: int, visit: Visit) -> None:
    """Raise Refused for an answer that says nothing of the request, where that is not the client's business.

    What a cloud says of its key may show a part of it, and a client would look for the mistake in its own.
    """
    if visit.target.cloud is not None and status in _KEYS:
        message = f"{visit.target.profile} answered {status}: its key is missing, wrong, or may not use that model"
        raise Refused(502, "cloud_refused", message)
    if (visit.spare or visit.declined is not None) and (status >= 500 or status == _BUSY):
        raise broken(visit.target, f"it answered {status}")


def _headers(target: Target) -> Headers:
    return _SENT if target.key is None else (*_SENT, (b"authorization", b"Bearer " + target.key))


def _told(visit: Visit) -> bytes:
    """Return the body as the engine reads it; of streams, with the wish to be told their tokens."""
    said = visit.body if visit.target.cloud is None else cloud_fields.told(visit.endpoint.name, visit.body)
    body: dict[str, Json] = {**said, "model": visit.target.model}
    if visit.streams and visit.endpoint.name in _ASKED:
        options = body.get("stream_options")
        body["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    try:
        return orjson.dumps(body)
    except TypeError:  # numbers of more than 64 bits
        return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _hides(visit: Visit) -> bool:
    """Whether the client did not ask for the event of a stream that tells its tokens."""
    options = visit.body.get("stream_options")
    return visit.endpoint.name in _ASKED and not (isinstance(options, dict) and options.get("include_usage") is True)


def _streams(exchange: Exchange, target: Target) -> bool:
    """Return whether the answer is a stream of events. Raises Refused for what no engine may answer."""
    head = exchange.head
    if 300 <= head.status < 400:
        raise broken(target, f"it answered {head.status}")
    if (head.header(b"content-encoding") or b"identity") != b"identity":
        raise broken(target, "its answer is packed")
    kind = head.header(b"content-type") or b""
    if kind not in (_STREAM, _JSON):
        kind = kind.partition(b";")[0].strip().lower()
    if kind not in (_STREAM, _JSON):
        raise broken(target, f"it answered {escape(kind.decode('latin-1'), 60) or 'no content type'}")
    return kind == _STREAM and head.status == 200


async def _whole(exchange: Exchange, visit: Visit) -> None:
    """Pass on an answer that does not stream. Raises Refused where it is no JSON object or too long."""
    status, target = exchange.head.status, visit.target
    try:
        body = await exchange.body(ANSWER if status < 300 else _ERROR)
    except Broken as error:
        raise broken(target, str(error)) from error
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        answer = None
    if not isinstance(answer, dict):
        raise broken(target, f"it answered {status} with what is no JSON object")
    visit.counts = counts(answer)
    visit.settled()
    if visit.reply.streams:  # it was begun while the engine was started
        named = status >= 300 and visit.endpoint.dialect == "anthropic"
        await visit.reply.end((b"event: error\n" if named else b"") + b"data: " + body + b"\n\n")
    else:
        await visit.reply.answered(status, body, _SOON if status == _LOADING else ())


async def _flow(exchange: Exchange, visit: Visit) -> None:
    """Pass on a stream as it comes. Raises Refused where it breaks off."""
    reply, sieve = visit.reply, Sieve(_hides(visit))
    counted = visit.target.backend in recount.BACKENDS and visit.endpoint.name in recount.ENDPOINTS
    kept = visit.kept = Kept() if counted else None
    if not visit.spare:  # else nothing is said before the engine says something: it may end while it reads the prompt
        await reply.stream()
    try:
        async for data in exchange.chunks():
            passed = sieve.feed(data)
            if passed:
                if visit.first is None:
                    visit.first = visit.elapsed()
                    visit.settled()
                    await reply.stream()
                if kept is not None:
                    kept.add(passed)
                await reply.piece(passed)
        if exchange.until_close and visit.endpoint.name in _ASKED and not sieve.done:
            raise Broken("it ended the connection")
    except Broken as error:
        rest = sieve.end()
        if rest and not visit.spare:
            await reply.piece(rest)
        raise broken(visit.target, str(error)) from error
    finally:
        visit.counts = sieve.counts
    visit.settled()
    await reply.stream()
    await reply.end(sieve.end())
