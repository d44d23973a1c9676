"""The gateway's server: uvicorn on addresses that come and go, and routes that follow edits."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable

import uvicorn

from lmctl.errors import LmctlError, escape
from lmctl.gateway.app import Gateway
from lmctl.gateway.client_connection import Connection
from lmctl.gateway.resident import Resident
from lmctl.gateway.state import State
from lmctl.usage.recorder import Recorder

_KEPT_ALIVE = 75  # seconds for which an idle connection is kept: longer than clients' pools keep theirs
_LOOK = 1.0  # seconds between two looks at whether what is declared changed
_BACKLOG = 2048

Address = tuple[str, int]
Look = Callable[[], State | None]  # None: as before; may block, may not raise


class Doors(uvicorn.Server):
    """uvicorn's server on addresses that come and go while it runs: connections to one that closes go on."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._open: dict[Address, asyncio.Server] = {}
        self.shut: dict[Address, str] = {}  # addresses that cannot be listened on, and why

    async def follow(self, addresses: frozenset[Address]) -> None:
        """Listen on these addresses and on no others; what cannot be opened is in `shut`, and tried again."""
        gone, self.shut = self._open.keys() - addresses, {}
        for address in sorted(addresses - self._open.keys()):
            try:
                await self.listen(address, listener(*address))
            except LmctlError as error:
                self.shut[address] = str(error)
        for address in () if self.shut else gone:  # where one cannot be opened, what it may take the place of stays
            server = self._open.pop(address)
            server.close()
            self.servers.remove(server)

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
    asked: list[asyncio.Future[None]] = []
    while True:
        await doors.follow(frozenset(state.addresses))
        told = "; ".join(doors.shut.values())
        if told not in ("", said):
            say(told)
        said = told
        for waiting in asked:
            if not waiting.done():
                waiting.set_result(None)
        asked = await resident.pause(_LOOK)
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
