"""One connection of a client: limits on what comes before a request, who left, and what is said in which order."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from lmctl.gateway.refused import Refused, answer
from lmctl.gateway.visit import PRESENCE, Presence

HEADERS = 64 << 10  # bytes of a request's first line and headers
_HEADERS_TIME = 10.0  # seconds in which they must have come
_BODY_TIME = 30.0  # seconds without one byte of a body


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
        self._turned = False  # it offers to speak another protocol
        self._early = 0  # bytes of a first line and headers that are not complete
        self._late: asyncio.TimerHandle | None = self.loop.call_later(_HEADERS_TIME, self._tardy)

    def data_received(self, data: bytes) -> None:
        self._early += len(data)
        headed = self._headed
        self._unset_keepalive_if_required()
        try:
            self._feed(data)
        except httptools.HttpParserError:
            self._refuse(Refused(400, "invalid_http", "the request is not valid HTTP"))
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
        self._turned = bool(self.parser.should_upgrade())
        if self._turned:
            return
        self._headed, self._early = True, 0
        self._corked.hold()
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        if self._turned:
            return
        self._begun, self._early = False, 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)
        self._presence.leave()

    def _feed(self, data: bytes) -> None:
        """Parse what came. Raises HttpParserError.

        Nothing but HTTP/1 is spoken here, and who offers something else is answered in it. The parser stops at such an
        offer, before the body: it begins anew with the same headers without it.
        """
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            if self.parser.get_method() == b"CONNECT":
                raise httptools.HttpParserInvalidMethodError("there are no tunnels here") from None
            head, self._turned = self._plain(), False
            self.parser = httptools.HttpRequestParser(self)
            with suppress(AttributeError):  # as uvicorn makes it, also of an httptools that has no such setting
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self.parser.feed_data(head)
            self._feed(data[offer.args[0] :])

    def _plain(self) -> bytes:
        """Return the head of the request that was parsed, without an offer to speak another protocol."""
        parts = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        for name, value in self.headers:
            if name == b"connection":
                value = b", ".join(one for one in map(bytes.strip, value.split(b",")) if one.lower() != b"upgrade")
            if name != b"upgrade":
                parts.append(b"%b: %b" % (name, value))
        return b"\r\n".join((*parts, b"", b""))

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
