"""A stand-in engine: /health and /v1/models over HTTP, and a way to misbehave.

python server.py PORT [--model ID] [--mode MODE] [--delay SECONDS]

PORT 0 takes a free one. What it listens on is the first line it prints.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODES = ("ok", "crash", "crash_after", "ignore_term", "fork_grandchild", "spew", "wrong_model", "slow_load", "hang")
_SPEW = b"\x1b[2J\0\xff\xc3 no end of line " * 64


class _Handler(BaseHTTPRequestHandler):
    model, ready_at, hangs = "m", 0.0, False

    def do_GET(self) -> None:
        if self.hangs:
            time.sleep(60)
        if time.monotonic() < self.ready_at:
            self._answer(503, {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}})
        elif self.path == "/v1/models":
            self._answer(200, {"object": "list", "data": [{"id": self.model, "object": "model"}]})
        else:
            self._answer(200 if self.path == "/health" else 404, {"status": "ok"})

    def _answer(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _stubborn_child() -> None:
    """Leave a child in our process group that ignores SIGTERM and outlives us."""
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()


def _spew() -> None:
    while True:
        os.write(1, _SPEW)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--model", default="m")
    parser.add_argument("--mode", choices=MODES, default="ok")
    parser.add_argument("--delay", type=float, default=0.0)
    given = parser.parse_args()
    if given.mode == "crash":
        sys.exit(3)
    if given.mode == "ignore_term":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if given.mode == "fork_grandchild":
        _stubborn_child()
    if given.mode == "crash_after":
        threading.Timer(given.delay, os._exit, [3]).start()
    if given.mode == "slow_load":
        _Handler.ready_at = time.monotonic() + given.delay
    _Handler.hangs = given.mode == "hang"
    _Handler.model = "another-model" if given.mode == "wrong_model" else given.model
    server = ThreadingHTTPServer(("127.0.0.1", given.port), _Handler)
    print(f"listening on {server.server_port}", flush=True)
    if given.mode == "spew":
        threading.Thread(target=_spew, daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
