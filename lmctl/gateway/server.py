"""The gateway's server: uvicorn in front, with limits on what comes before a request, and routes that follow edits."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from lmctl.gateway.app import Gateway
from lmctl.gateway.refused import Refused, answer
from lmctl.gateway.routing import Routes

HEADERS = 64 << 10  # bytes of a request's first line and headers
_HEADERS_TIME = 10.0  # seconds in which they must have come
_KEPT_ALIVE = 75  # seconds for which an idle connection is kept: longer than clients' pools keep theirs
_LOOK = 1.0  # seconds between two looks at whether the routes changed

Look = Callable[[], Routes | None]  # None: as before; may block, may not raise


class Connection(HttpToolsProtocol):
    """One client's connection. uvicorn bounds neither the size of headers nor the time that they may take."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._early = 0
        self._late: asyncio.TimerHandle | None = self._wait()

    def data_received(self, data: bytes) -> None:
        self._early += len(data)
        super().data_received(data)
        if self._late is not None and self._early > HEADERS:
            self._refuse(Refused(431, "headers_too_large", f"headers may have {HEADERS} bytes"))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if self._late is None:
            self._early, self._late = 0, self._wait()

    def on_headers_complete(self) -> None:
        self._done_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._done_waiting()
        super().connection_lost(exc)

    def _wait(self) -> asyncio.TimerHandle:
        return self.loop.call_later(_HEADERS_TIME, self._tardy)

    def _done_waiting(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _tardy(self) -> None:
        if self._early == 0:  # opened ahead, and never used
            self._done_waiting()
            self.transport.close()
        else:
            self._refuse(Refused(408, "timeout", f"headers must have come within {_HEADERS_TIME:.0f} s"))

    def _refuse(self, refused: Refused) -> None:
        self._done_waiting()
        body = answer(refused, "openai")
        head = (
            "HTTP/1.1 {} Refused\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.format(refused.status, len(body)).encode() + body)
        self.transport.close()


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
            gateway.routes = routes
