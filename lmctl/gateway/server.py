"""The gateway's server: uvicorn in front, with limits on what comes before a request, and routes that follow edits."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from lmctl.gateway.app import Gateway
from lmctl.gateway.refused import Refused, answer
from lmctl.gateway.routing import Routes
from lmctl.gateway.visit import PRESENCE, Presence

HEADERS = 64 << 10  # bytes of a request's first line and headers
_HEADERS_TIME = 10.0  # seconds in which they must have come
_BODY_TIME = 30.0  # seconds without one byte of a body
_KEPT_ALIVE = 75  # seconds for which an idle connection is kept: longer than clients' pools keep theirs
_LOOK = 1.0  # seconds between two looks at whether the routes changed

Look = Callable[[], Routes | None]  # None: as before; may block, may not raise


class Corked:
    """A transport that sends the head of an answer together with what follows it at once: uvicorn writes them apart."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._holds, self._held = False, b""
        self.is_closing = transport.is_closing
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading

    def hold(self) -> None:
        """Keep what is written next until something follows or the loop goes round."""
        self._holds = True

    def write(self, data: bytes) -> None:
        """Write, or keep the first part."""
        if self._holds:
            self._holds, self._held = False, data
            self._loop.call_soon(self._flush)
        elif self._held:
            data, self._held = self._held + data, b""
            self._transport.write(data)
        else:
            self._transport.write(data)

    def close(self) -> None:
        """Close behind what is kept."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._held:
            data, self._held = self._held, b""
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Connection(HttpToolsProtocol):
    """One client's connection: bounds the size of headers, the time that they and a body may take, and tells who left.

    uvicorn bounds none of these. A timer runs only while something of a request is missing.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.transport = self._corked = Corked(transport, self.loop)  # type: ignore[assignment]
        self._presence = Presence()
        self._begun = self._headed = False  # a request has begun, its headers are complete
        self._early = 0  # bytes of a first line and headers that are not complete
        self._late: asyncio.TimerHandle | None = self.loop.call_later(_HEADERS_TIME, self._tardy)

    def data_received(self, data: bytes) -> None:
        self._early += len(data)
        headed = self._headed
        super().data_received(data)
        if not self._begun:
            self._stop_waiting()
        elif self._headed:  # the body is not whole: each part of it may take its time
            self._stop_waiting()
            self._late = self.loop.call_later(_BODY_TIME, self._tardy)
        elif self._early > HEADERS:
            self._refuse(Refused(431, "headers_too_large", f"headers may have {HEADERS} bytes"))
        elif self._late is None or headed:
            self._late = self.loop.call_later(_HEADERS_TIME, self._tardy)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope[PRESENCE] = self._presence  # type: ignore[literal-required]
        self._begun, self._headed = True, False

    def on_headers_complete(self) -> None:
        self._headed, self._early = True, 0
        self._corked.hold()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._begun = False
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        self._presence.leave()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)
        self._presence.task = task

    def _stop_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _tardy(self) -> None:
        if self._early == 0 and not self._begun:  # opened ahead, and never used
            self._stop_waiting()
            self.transport.close()
        elif self._headed:
            self._refuse(Refused(408, "timeout", "the body stalled"))
        else:
            self._refuse(Refused(408, "timeout", f"headers must have come within {_HEADERS_TIME:.0f} s"))

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, in the form of every other refusal."""
        self._refuse(Refused(400, "invalid_http", "the request is not valid HTTP"))

    def _refuse(self, refused: Refused) -> None:
        self._stop_waiting()
        if self.transport.is_closing():
            return
        body = answer(refused, "openai")
        head = (
            "HTTP/1.1 {} Refused\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.format(refused.status, len(body)).encode() + body)
        self.transport.close()
        self._presence.leave()


async def serve(gateway: Gateway, listener: socket.socket, drain: float, look: Look) -> None:
    """Answer on `listener` until SIGINT or SIGTERM, which is raised again at the end; `look` brings new routes.

    Requests that are under way then get `drain` seconds.
    """
    config = uvicorn.Config(
        gateway,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEPT_ALIVE,
        timeout_graceful_shutdown=max(1, round(drain)),
    )
    following = asyncio.ensure_future(_follow(gateway, look))
    try:
        await uvicorn.Server(config).serve([listener])
    finally:
        following.cancel()
        gateway.close()


async def _follow(gateway: Gateway, look: Look) -> None:
    while True:
        await asyncio.sleep(_LOOK)
        routes = await asyncio.to_thread(look)
        if routes is not None:
            gateway.follow(gateway.rules, routes)
