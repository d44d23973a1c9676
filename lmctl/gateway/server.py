"""The gateway's server: uvicorn in front, with limits on what comes before a request, and routes that follow edits."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from typing import Any

import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from lmctl.errors import LmctlError, escape
from lmctl.gateway.app import Gateway
from lmctl.gateway.refused import Refused, answer
from lmctl.gateway.resident import Resident
from lmctl.gateway.state import State
from lmctl.gateway.visit import PRESENCE, Presence
from lmctl.usage.recorder import Recorder

HEADERS = 64 << 10  # bytes of a request's first line and headers
_HEADERS_TIME = 10.0  # seconds in which they must have come
_BODY_TIME = 30.0  # seconds without one byte of a body
_KEPT_ALIVE = 75  # seconds for which an idle connection is kept: longer than clients' pools keep theirs
_LOOK = 1.0  # seconds between two looks at whether what is declared changed
_BACKLOG = 2048

Address = tuple[str, int]
Look = Callable[[], State | None]  # None: as before; may block, may not raise


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
            self._holds, self._held = False, self._held + data
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
            self._between()
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
        self._begun, self._early = False, 0
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

    def _between(self) -> None:
        """Wait for the answer, or for the next request; blank lines are none, and uvicorn stops its timer at them."""
        if self.cycle is None:
            return  # the first request is still to come
        self._stop_waiting()
        if self.cycle.response_complete and self.timeout_keep_alive_task is None:
            wait = self.timeout_keep_alive
            self.timeout_keep_alive_task = self.loop.call_later(wait, self.timeout_keep_alive_handler)

    def _tardy(self) -> None:
        self._late = None
        if not self._begun:  # opened ahead, and never used
            self.transport.close()
        elif self._headed and self.flow.read_paused:  # another request is answered first: it is not the client's fault
            self._late = self.loop.call_later(_BODY_TIME, self._tardy)
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
        if not self._answering():  # else it would be taken for that answer, or for a part of it
            body = answer(refused, "openai")
            kind = "content-type: application/json\r\nconnection: close"
            head = f"HTTP/1.1 {refused.status} Refused\r\n{kind}\r\ncontent-length: {len(body)}\r\n\r\n"
            self.transport.write(head.encode() + body)
        self.transport.close()
        self._presence.leave()

    def _answering(self) -> bool:
        """Whether something else than what is read now is answered on this connection, or this already."""
        if self.cycle is None or self.pipeline:
            return bool(self.pipeline)
        read = self._begun and self._headed
        return self.cycle.response_started if read else not self.cycle.response_complete


class Doors(uvicorn.Server):
    """uvicorn's server on addresses that come and go while it runs: connections to one that closes go on."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._open: dict[Address, asyncio.Server] = {}
        self.shut: dict[Address, str] = {}  # addresses that cannot be listened on, and why

    async def follow(self, addresses: frozenset[Address]) -> None:
        """Listen on these addresses and on no others; what cannot be opened is in `shut`, and tried again."""
        for address in self._open.keys() - addresses:
            server = self._open.pop(address)
            server.close()
            self.servers.remove(server)
        self.shut = {}
        for address in sorted(addresses - self._open.keys()):
            try:
                await self.listen(address, listener(*address))
            except LmctlError as error:
                self.shut[address] = str(error)

    async def listen(self, address: Address, open_socket: socket.socket) -> None:
        """Answer on a socket that listens already."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(self._connection, sock=open_socket, backlog=_BACKLOG)
        self._open[address] = server
        self.servers.append(server)

    def _connection(self) -> asyncio.Protocol:
        return Connection(config=self.config, server_state=self.server_state, app_state={})


def listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises E-PORT."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        what = f"the gateway cannot listen on {escape(host)}:{port}: {os.strerror(error.errno or 0)}"
        fix = "choose another `port`, or stop what listens there"
        raise LmctlError("E-PORT", what, fix=fix) from error


class _Told(logging.Filter):
    """Leaves out what uvicorn says of clients and of requests that were cut: those are told, and anybody can cause it.

    Errors of our own are left, with their traceback.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR and record.exc_info is not None


def configured(app: Gateway, drain: float) -> uvicorn.Config:
    """Return how uvicorn serves an application; at the end, requests have `drain` seconds."""
    return uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEPT_ALIVE,
        timeout_graceful_shutdown=_whole(drain),
    )


async def serve(first: State, front: socket.socket, recorder: Recorder, look: Look, say: Callable[[str], None]) -> None:
    """Answer until SIGINT or SIGTERM, which is raised again at the end; `look` brings what is declared since.

    `front` listens at the first address of `first`. Requests that are under way at the end get `drain_timeout`.
    """
    resident = Resident(first, recorder)
    logging.getLogger("uvicorn.error").addFilter(_Told())
    doors = Doors(configured(resident.app, first.drain))
    following = asyncio.ensure_future(_follow(resident, doors, first, front, look, say))
    try:
        await resident.begin(say)
        await doors.serve([])
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await resident.close()


async def _follow(
    resident: Resident, doors: Doors, first: State, front: socket.socket, look: Look, say: Callable[[str], None]
) -> None:
    while not doors.started:
        await asyncio.sleep(0.01)
    await doors.listen(first.addresses[0], front)
    state, said = first, ""
    while True:
        await doors.follow(frozenset(state.addresses))
        told = "; ".join(doors.shut.values())
        if told not in ("", said):
            say(told)
        said = told
        await asyncio.sleep(_LOOK)
        try:
            found = await asyncio.to_thread(look)
            if found is not None:
                await resident.follow(found)
        except LmctlError as error:
            say(f"everything stays as it was: {error}")
        except Exception as error:  # a bug must not end the following of edits
            asyncio.get_running_loop().call_exception_handler(
                {"message": "an edit is not followed", "exception": error}
            )
        else:
            state = found or state
            doors.config.timeout_graceful_shutdown = _whole(state.drain)


def _whole(drain: float) -> int:
    return max(1, round(drain))
