"""A cloud on the loopback address: it answers as OpenAI's API does, and keeps what it was asked."""

from __future__ import annotations

import json
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

USAGE = {"prompt_tokens": 21, "completion_tokens": 4, "total_tokens": 25}
SENTENCE = "Hello from afar."


class Cloud:
    """Its port, the requests that it read, and how many connections there were; use it as a context."""

    def __init__(self, certificate: Path | None = None) -> None:
        self.asked: list[dict[str, Any]] = []  # path, headers in lower case, body
        self.connections = 0
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.handle_error = lambda *_: None  # type: ignore[method-assign]  # a client that hangs up
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, certificate.with_name("key.pem"))
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.port: int = self._server.server_address[1]

    def __enter__(self) -> Cloud:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _handler(cloud: Cloud) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            cloud.connections += 1
            super().setup()

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            cloud.asked.append({"path": self.path, "headers": headers, "body": body})
            if body.get("stream"):
                self._answer("text/event-stream", b"".join(_events(body)))
            else:
                message = {"role": "assistant", "content": SENTENCE}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                answer = {"id": "c", "object": "chat.completion", "created": 0, "model": body["model"]}
                self._answer("application/json", json.dumps({**answer, "choices": [choice], "usage": USAGE}).encode())

        def _answer(self, kind: str, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing is logged."""

    return Handler


def _events(body: dict[str, Any]) -> list[bytes]:
    head = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
    parts: list[dict[str, Any]] = [
        {**head, "choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]}
        for word in SENTENCE.split(" ")
    ]
    if body.get("stream_options", {}).get("include_usage"):
        parts.append({**head, "choices": [], "usage": USAGE})
    return [*(b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts), b"data: [DONE]\n\n"]
