"""The gateway as an ASGI application: a request is admitted, judged, routed and passed on; every refusal is JSON."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

import orjson

from lmctl.gateway import bodies, dialects, gatekeeper, metrics, paths
from lmctl.gateway import ways as leads
from lmctl.gateway.forward import Absent, Engines
from lmctl.gateway.metrics import Tally
from lmctl.gateway.paths import Endpoint
from lmctl.gateway.refused import Refused
from lmctl.gateway.reply import Reply, Send
from lmctl.gateway.routing import Routes
from lmctl.gateway.slots import Slots
from lmctl.gateway.visit import LEFT, PRESENCE, Presence, Visit
from lmctl.gateway.ways import Way
from lmctl.record import record
from lmctl.spec import Json
from lmctl.usage.rows import Row

_QUIET = 5.0  # seconds that a stream waits for its engine in silence, so that it can still be refused with a status
_HEALTH = b"/health"  # tells nobody anything, and who supervises the gateway has no key
_SLEEPS = ("asleep", "stopping")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


@record
class Rules:
    """What the gateway holds every request to. Bytes and seconds; `keys` are sha256 digests, None: none is asked.

    Ports of profiles' own let no origin in, and ask those for no key who come from this machine.
    """

    max_body: int = 32 << 20
    request_timeout: float = 600.0
    origins: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    keys: frozenset[bytes] | None = None
    quiet: float = _QUIET


class Gateway:
    """Answers requests by `routes` and `rules`, which may be replaced at any time: requests under way keep theirs."""

    def __init__(self, rules: Rules, routes: Routes, slots: Slots, note: Callable[[Row], None]) -> None:
        self.rules, self.routes = rules, routes
        self.tallies: dict[str, Tally] = {}
        self._slots, self._note = slots, note
        self._engines = Engines()
        self._counting: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; ASGI's entry."""
        if scope["type"] != "http":
            return
        presence: Presence = scope.get(PRESENCE) or scope.setdefault(PRESENCE, Presence())
        if presence.task is None:
            presence.task = asyncio.current_task()
        reply = Reply(send)
        try:
            await self._admitted(scope, receive, reply)
        except Refused as refused:
            await reply.refused(refused)
        except asyncio.CancelledError:
            if presence.gone:
                return
            # the time that requests have to end is over; a stream tells so itself
            await reply.refused(_ending())
        finally:
            presence.task = None

    async def close(self) -> None:
        """Close idle connections to engines; tokens that are still being counted stay unknown."""
        for task in self._counting:
            task.cancel()
        await asyncio.gather(*self._counting, return_exceptions=True)
        self._engines.close()

    def follow(self, rules: Rules, routes: Routes) -> None:
        """Judge and route what comes from now on by these."""
        self.rules, self.routes = rules, routes
        self._engines.keep(routes)

    async def _admitted(self, scope: Scope, receive: Receive, reply: Reply) -> None:
        rules, routes = self.rules, self.routes
        reply.dialect = paths.dialect(scope["raw_path"])
        method, headers = scope["method"], scope["headers"]
        here, port = scope["server"]
        own, near = port in routes.ports, here.startswith("127.") or here == "::1"
        admitted = gatekeeper.admit(
            headers,
            method=method,
            hosts=rules.hosts if near else rules.hosts | {gatekeeper.host(here)},
            origins=frozenset() if own else rules.origins,
            keys=None if (own and near) or scope["raw_path"] == _HEALTH else rules.keys,
        )
        reply.headers = admitted.headers
        if admitted.preflight:
            await reply.whole(204, b"")
            return
        endpoint = paths.endpoint(method, scope["raw_path"])
        if not endpoint.body:
            await self._told(endpoint, {}, reply)
            return
        data = await _body(headers, receive, rules.max_body)
        if data is None:
            return
        body = bodies.parsed(data)
        bodies.checked(body, endpoint)
        if endpoint.answered:
            await self._told(endpoint, body, reply)
            return
        endpoint, body, reply.words = dialects.translated(endpoint, body, routes)
        if own:
            target = routes.at(port, bodies.model(body), self._running)
            ways = leads.behind(routes, endpoint, Way(target))
        else:
            ways = leads.ways(routes, endpoint, body, headers)
        visit = Visit(scope, endpoint, ways, body, reply)
        while not await self._served(visit, rules):
            pass

    async def _told(self, endpoint: Endpoint, body: dict[str, Json], reply: Reply) -> None:
        """Answer what the gateway knows by itself."""
        if endpoint.name == "health":
            await reply.whole(200, b'{"status":"ok"}')
        elif endpoint.name == "metrics":
            await reply.whole(200, metrics.render(self.tallies, self._slots), kind=metrics.KIND)
        elif endpoint.name == "models":
            listed = [_model(*one) for one in leads.listed(self.routes)]
            await reply.whole(200, orjson.dumps({"object": "list", "data": listed}))
        elif endpoint.name == "model":
            await reply.whole(200, orjson.dumps(self._named(endpoint.model or "")))
        elif endpoint.name == "root":
            await reply.whole(200, b"lmctl answers here\n", kind=b"text/plain")
        else:
            told = dialects.told(endpoint, body, self.routes, self._slots.states())
            await reply.whole(200, orjson.dumps(told))

    def _named(self, model: str) -> dict[str, Any]:
        """Return what is told of one model. Raises Refused 404."""
        owners = dict(leads.listed(self.routes))
        return _model(model, owners[model]) if model in owners else _model(self.routes.find(model).profile, "lmctl")

    async def _served(self, visit: Visit, rules: Rules) -> bool:
        """Have one who may answer a visit do so; return whether nobody else is to be asked."""
        target, status, done = visit.target, LEFT, True
        tally = self.tallies.get(target.profile) or self.tallies.setdefault(target.profile, Tally())
        tally.running += 1
        try:
            await self._in_turn(visit, rules)
            status = visit.reply.status or LEFT
        except Refused as refused:
            if visit.passed_on(refused):
                done = False
                return False
            told = visit.told(refused)
            status = told.status
            visit.partial = visit.reply.streams
            raise told from None
        except asyncio.CancelledError:
            visit.partial = True
            if not visit.left:  # the time that requests have to end is over
                status = _ending().status
            if visit.reply.streams:
                await visit.reply.refused(_ending())
                return True
            raise
        finally:
            tally.running -= 1
            if done:
                self._ended(visit, status, tally)
        return True

    def _ended(self, visit: Visit, status: int, tally: Tally) -> None:
        """Count a visit that is over; where the engine did not tell its tokens, once its tokenizer has."""
        seconds, stream = visit.elapsed(), visit.uncounted()
        if stream is None:
            visit.ended(status, seconds, tally, self._note)
            return

        async def count() -> None:
            visit.counts = await self._engines.recounted(visit, stream)

        def counted(task: asyncio.Task[None]) -> None:
            self._counting.discard(task)
            visit.ended(status, seconds, tally, self._note)

        task = asyncio.ensure_future(count())
        self._counting.add(task)
        task.add_done_callback(counted)  # also where it is cancelled before it began

    async def _in_turn(self, visit: Visit, rules: Rules) -> None:
        """Wait for a slot of the profile, have the engine answer, and give the slot back."""
        name, slots = visit.target.profile, self._slots
        if visit.target.cloud is not None:
            await visit.placed()
            await self._engines.answer(visit, rules.request_timeout, slots)
            return
        if visit.endpoint.dialect == "anthropic" and not visit.target.anthropic:
            raise Refused(404, "not_supported", f"the engine of {name} does not speak this dialect")
        words = visit.reply.words if not visit.endpoint.upstream else None
        if words is not None and not words.wakes:
            await visit.reply.whole(200, words.nothing())
            return
        for last in (False, True):
            if not slots.enter(name):
                await _waited(slots, name, visit.reply if visit.streams else None, rules.quiet)
            try:
                if words is not None:
                    await visit.reply.whole(200, words.nothing())
                    return
                await visit.placed()
                await self._engines.answer(visit, rules.request_timeout, slots)
                return
            except Absent:  # it ended since it was last seen: who comes again waits until it is back, or hears why not
                if last:
                    raise
            finally:
                slots.leave(name)

    def _running(self) -> frozenset[str]:
        return frozenset(name for name, one in self._slots.states().items() if one.state not in _SLEEPS)


async def _waited(slots: Slots, name: str, stream: Reply | None, quiet: float) -> None:
    """Wait for a slot; a stream that waits long is begun, and comments keep its connection alive. Raises Refused."""
    if stream is None:
        await slots.wait(name)
        return
    waiting = asyncio.ensure_future(slots.wait(name))
    try:
        while not (await asyncio.wait((waiting,), timeout=quiet))[0]:
            await stream.waiting()
    except BaseException:
        waiting.cancel()
        with suppress(asyncio.CancelledError, Refused):
            await waiting
            slots.leave(name)  # it came at the same moment
        raise
    waiting.result()


async def _body(headers: list[tuple[bytes, bytes]], receive: Receive, limit: int) -> bytes | None:
    """Return the whole body, None when the client left within it. Raises Refused: 413 above `limit` bytes."""
    told = next((value for name, value in headers if name == b"content-length"), b"0")
    size, parts = int(told) if told.isdigit() else 0, []
    while size <= limit:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size = size + len(parts[-1]) if len(parts) > 1 else len(parts[0])
        if not message.get("more_body") and size <= limit:
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise Refused(413, "too_large", f"a request may have {limit} bytes", headers=(("Connection", "close"),))


def _ending() -> Refused:
    return Refused(503, "ending", "the gateway ends", headers=(("Retry-After", "5"),))


def _model(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": owner}
