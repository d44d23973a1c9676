"""A supervisord on a unix socket that answers as it is told: garbage, faults, or nothing."""

from __future__ import annotations

import socketserver
import threading
import xmlrpc.client
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

Answer = Callable[[str, tuple[Any, ...]], Any]  # the value, a Fault, or bytes and an int (status) sent as they are


class _Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    answer: Answer
    asked: list[str]
    talks: list[int]
    closing: threading.Event

    def handle_error(self, *_: object) -> None:
        """Say nothing: whoever asked has gone."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        params, method = xmlrpc.client.loads(body)
        self.server.talks.append(len(params[0]) if method == "system.multicall" else 1)
        if method == "system.multicall":
            answer: Any = [self._one(call["methodName"], tuple(call["params"])) for call in params[0]]
            raw = next((value for value in answer if isinstance(value, bytes | int) and value is not True), None)
            answer = [
                {"faultCode": a.faultCode, "faultString": a.faultString} if isinstance(a, xmlrpc.client.Fault) else a
                for a in answer
            ]
            answer = raw if isinstance(raw, bytes) or (isinstance(raw, int) and raw >= 400) else answer
        else:
            answer = self._one(str(method), params)
        if isinstance(answer, bytes):
            status, content = 200, answer
        elif isinstance(answer, int) and not isinstance(answer, bool) and answer >= 400:
            status, content = answer, b""
        else:
            reply = answer if isinstance(answer, xmlrpc.client.Fault) else (answer,)
            status, content = 200, xmlrpc.client.dumps(reply, methodresponse=True, allow_none=True).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _one(self, method: str, params: tuple[Any, ...]) -> Any:
        name = method.removeprefix("supervisor.")
        self.server.asked.append(name)
        answer = self.server.answer(name, params)
        if answer is None:  # hang until the test is over
            self.server.closing.wait(60)
            return False
        return answer

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass


class FakeSupervisord:
    """Serves on `path` while the context is open; `asked` are the methods in order, `talks` how many came at a time."""

    def __init__(self, path: Path, answer: Answer) -> None:
        self._server = _Server(str(path), _Handler)
        self._server.answer, self._server.closing = answer, threading.Event()
        self._server.asked, self._server.talks = [], []
        self.asked, self.talks = self._server.asked, self._server.talks

    def __enter__(self) -> FakeSupervisord:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.closing.set()
        self._server.shutdown()
        self._server.server_close()
