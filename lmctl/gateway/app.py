"""The gateway as an ASGI application: a request is admitted, judged, routed and passed on; every refusal is JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

from lmctl.gateway import bodies, forward, gatekeeper, paths
from lmctl.gateway.paths import Endpoint
from lmctl.gateway.refused import Dialect, Refused, answer
from lmctl.gateway.routing import Routes, Target
from lmctl.gateway.upstream import Pool
from lmctl.record import record
from lmctl.spec import Json

_BODY_TIME = 30.0  # seconds without one byte of a body

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Pairs = tuple[tuple[bytes, bytes], ...]


@record
class Rules:
    """What the gateway holds every request to. Bytes and seconds; `keys` are sha256 digests, None: none is asked."""

    max_body: int = 32 << 20
    request_timeout: float = 600.0
    origins: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    keys: frozenset[bytes] | None = None


class Gone(Exception):
    """The client left."""


class Gateway:
    """Answers requests by `routes`, which may be replaced at any time: requests under way keep theirs."""

    def __init__(self, rules: Rules, routes: Routes) -> None:
        self.rules, self.routes = rules, routes
        self._pools: dict[tuple[str, int], Pool] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; ASGI's entry."""
        if scope["type"] != "http":
            return
        dialect: Dialect = "openai"
        cors: Pairs = ()
        try:
            method, headers = scope["method"], scope["headers"]
            rules = self.rules
            admitted = gatekeeper.admit(
                headers, method=method, hosts=rules.hosts, origins=rules.origins, keys=rules.keys
            )
            cors = admitted.headers
            if admitted.preflight:
                await _reply(send, 204, b"", cors)
                return
            endpoint = paths.endpoint(method, scope["raw_path"])
            dialect = endpoint.dialect
            await self._answer(endpoint, scope, receive, send, cors)
        except Refused as refused:
            extra = tuple((name.lower().encode(), value.encode()) for name, value in refused.headers)
            await _reply(send, refused.status, answer(refused, dialect), cors + extra)
        except Gone:
            return

    def close(self) -> None:
        """Close idle connections to engines."""
        for pool in self._pools.values():
            pool.close()

    async def _answer(self, endpoint: Endpoint, scope: Scope, receive: Receive, send: Send, cors: Pairs) -> None:
        if endpoint.name == "health":
            await _reply(send, 200, b'{"status":"ok"}', cors)
        elif endpoint.name == "models":
            await _reply(send, 200, _listing(self.routes), cors)
        elif endpoint.name == "model":
            await _reply(send, 200, _json(_model(self.routes.find(endpoint.model).profile)), cors)
        elif not endpoint.upstream:
            raise Refused(404, "not_found", f"{endpoint.path} is not served here; GET /v1/models lists the models")
        else:
            body = bodies.parsed(await _body(scope["headers"], receive, self.rules.max_body))
            bodies.checked(body, endpoint)
            target = self.routes.find(bodies.model(body))
            await _while_there(receive, self._forward(endpoint, target, body, send, cors))

    async def _forward(
        self, endpoint: Endpoint, target: Target, body: dict[str, Json], send: Send, cors: Pairs
    ) -> None:
        if endpoint.dialect == "anthropic" and not target.anthropic:
            raise Refused(404, "not_supported", f"the engine of {target.profile} does not speak this dialect")
        pool = self._pool(target)
        try:
            async with asyncio.timeout(self.rules.request_timeout) as limit:
                exchange = await forward.ask(pool, target, endpoint.upstream, body)
                async with exchange:
                    if not forward.streams(exchange, target):
                        done = await forward.whole(exchange, target)
                        await _reply(send, done.status, done.body, cors + done.headers)
                        return
                    limit.reschedule(None)  # a stream that flows may last as long as it likes
                    await _begin(send, 200, ((b"content-type", b"text/event-stream"), *_UNSTORED, *cors))
                    try:
                        async for data in forward.events(exchange, target, endpoint.dialect):
                            await send({"type": "http.response.body", "body": data, "more_body": True})
                    except asyncio.CancelledError:  # the client left and hears nothing, or the time to end is over
                        await send({"type": "http.response.body", "body": forward.cut(_ending(), endpoint.dialect)})
                        raise Gone from None
                    await send({"type": "http.response.body", "body": b""})
        except TimeoutError:
            message = f"{target.profile} did not answer within {self.rules.request_timeout:.0f} s"
            raise Refused(504, "upstream_timeout", message) from None

    def _pool(self, target: Target) -> Pool:
        where = (target.host, target.port)
        return self._pools.get(where) or self._pools.setdefault(where, Pool(*where))


_UNSTORED = ((b"cache-control", b"no-store"),)


async def _body(headers: list[tuple[bytes, bytes]], receive: Receive, limit: int) -> bytes:
    """Return the whole body. Raises Refused: 413 above `limit` bytes, 408 where it stalls; Gone."""
    told = next((value for name, value in headers if name == b"content-length"), b"0")
    size, parts = int(told) if told.isdigit() else 0, []
    while size <= limit:
        try:
            async with asyncio.timeout(_BODY_TIME):
                message = await receive()
        except TimeoutError:
            raise Refused(408, "timeout", "the body stalled", headers=(("Connection", "close"),)) from None
        if message["type"] == "http.disconnect":
            raise Gone
        parts.append(message.get("body", b""))
        size = size + len(parts[-1]) if len(parts) > 1 else len(parts[0])
        if not message.get("more_body") and size <= limit:
            return b"".join(parts)
    raise Refused(413, "too_large", f"a request may have {limit} bytes", headers=(("Connection", "close"),))


async def _while_there(receive: Receive, work: Awaitable[None]) -> None:
    """Do `work` until the client leaves: then it is cancelled, and with it what an engine does for nobody."""
    doing = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(receive())
    try:
        await asyncio.wait((doing, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not doing.done():
            raise Gone
        doing.result()
    except asyncio.CancelledError:  # the time that requests have to end is over
        doing.cancel()
        with suppress(asyncio.CancelledError):
            await doing  # Gone, where a stream ended with its event
        raise _ending() from None
    finally:
        leaving.cancel()
        if not doing.done():
            doing.cancel()
            await asyncio.gather(doing, return_exceptions=True)


def _ending() -> Refused:
    return Refused(503, "ending", "the gateway ends", headers=(("Retry-After", "5"),))


async def _begin(send: Send, status: int, headers: Pairs) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [*headers]})


async def _reply(send: Send, status: int, body: bytes, headers: Pairs) -> None:
    own = ((b"content-type", b"application/json"), (b"content-length", b"%d" % len(body)))
    await _begin(send, status, own + headers)
    await send({"type": "http.response.body", "body": body})


def _listing(routes: Routes) -> bytes:
    return _json({"object": "list", "data": [_model(name) for name in routes.targets]})


def _model(name: str) -> dict[str, Json]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "lmctl"}


def _json(value: Mapping[str, Json]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
