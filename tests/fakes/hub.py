"""A Hugging Face Hub on loopback: real headers, ranges, and every way of misbehaving, chosen per repository or file.

In a test (fixture `hub` of tests/hosts/conftest.py, or `with Hub() as hub`):

    commit = hub.add("owner/name", {"model-Q4_K_M.gguf": b"GGUF…", "config.json": b"{}"})   # revision "main"
    hub.add("owner/big", {"model.gguf": Pattern(2 << 30)})                                  # needs no memory
    hub.fault("owner/name", "model-Q4_K_M.gguf", cut=1000, times=1)                         # see Fault
    monkeypatch.setenv("HF_ENDPOINT", hub.url)      # http://127.0.0.1:<port>, with or without HF_TOKEN
    assert hub.requests[0].headers["authorization"] # everything that was asked, lower-case header names
    hub.elsewhere                                    # a second origin (another port) that serves the same files

As a process (benchmarks, other programs): `python tests/fakes/hub.py --dir DIR` serves DIR/<owner>/<name>/<file> and
prints its address as the first line; `--rate BYTES` slows every body.

Files of 1 MiB or more and *.gguf, *.safetensors, *.bin count as LFS (etag = sha256); all else is a git blob (sha1).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import socket
import sys
import threading
import time
from collections.abc import Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from hub_answers import Handler
from hub_files import MIB, Fault, File, Pattern, Repo, Request

__all__ = ["MIB", "Fault", "File", "Hub", "Pattern", "Request"]


class Hub:
    """Two threaded servers on free loopback ports; closed by `close` or as a context."""

    def __init__(self, rate: float | None = None) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.rate = rate
        self.lock = threading.Lock()
        self.closing = threading.Event()
        self._servers = [_Server(("127.0.0.1", 0), self, name) for name in ("hub", "elsewhere")]
        self.url, self.elsewhere = (f"http://127.0.0.1:{server.server_address[1]}" for server in self._servers)
        for server in self._servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def add(self, repo: str, files: Mapping[str, bytes | Pattern | Path], revision: str = "main") -> str:
        """Add a commit with exactly `files` to `repo`, point `revision` at it, and return it."""
        held = {path: File(path, content) for path, content in files.items()}
        names = json.dumps([repo, sorted((path, file.sha256) for path, file in held.items())])
        commit = hashlib.sha1(names.encode()).hexdigest()
        entry = self.repos.setdefault(repo, Repo())
        entry.files[commit], entry.refs[revision] = held, commit
        return commit

    def file(self, repo: str, path: str, revision: str = "main") -> File:
        return self.repos[repo].files[self.repos[repo].refs[revision]][path]

    def fault(self, repo: str, path: str | None = None, **fields: Any) -> Fault:
        """Make `path` (or all) of `repo` misbehave; the first fault that meets a request answers it."""
        fault = Fault(path=path, **fields)
        self.repos.setdefault(repo, Repo()).faults.append(fault)
        return fault

    def heal(self) -> None:
        for repo in self.repos.values():
            repo.faults.clear()

    def hang_up(self) -> None:
        """End every answer that is under way."""
        for server in self._servers:
            server.hang_up()

    def asked(self, part: str = "", method: str | None = None) -> list[Request]:
        return [one for one in self.requests if part in one.path and method in (None, one.method)]

    def close(self) -> None:
        self.closing.set()
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def __enter__(self) -> Hub:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], hub: Hub, name: str) -> None:
        self.hub, self.name, self.open = hub, name, set[socket.socket]()
        super().__init__(address, Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        self.open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self.open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        self.hang_up()

    def hang_up(self) -> None:
        for held in list(self.open):
            with contextlib.suppress(OSError):
                held.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


def main() -> None:
    """Serve a folder until standard input closes or a signal ends the process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", type=Path, required=True)
    parser.add_argument("--rate", type=float)
    options = parser.parse_args()
    with Hub(rate=options.rate) as hub:
        for folder in sorted(path for path in options.dir.glob("*/*") if path.is_dir()):
            found = {str(path.relative_to(folder)): path for path in sorted(folder.rglob("*")) if path.is_file()}
            hub.add(f"{folder.parent.name}/{folder.name}", found)
        print(hub.url, flush=True)
        while True:
            time.sleep(3600)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
