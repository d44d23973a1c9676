"""How the loopback Hub answers: the API and the bytes of files, as they should be or as a fault wants them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import zlib
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from hub_files import MIB, Fault, File, Request


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any  # of hub.py: holds the Hub and its own name

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_: object) -> None:
        """The log is `Hub.requests`."""

    def do_GET(self) -> None:
        hub = self.server.hub
        headers = {name.lower(): value for name, value in self.headers.items()}
        with hub.lock:
            hub.requests.append(Request(self.server.name, self.command, self.path, headers))
        path = unquote(urlsplit(self.path).path)
        if path == "/api/agent-harnesses":
            return self.answer_json({"standardEnvVars": []})
        if path == "/api/models":
            asked = parse_qs(urlsplit(self.path).query).get("search", [""])[0]
            return self.answer_json([{"id": name, "modelId": name} for name in sorted(hub.repos) if asked in name])
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^?]+))?", path):
            return self.api(*match.groups())
        if match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.resolve(*match.groups())
        return self.refuse(404, "", "Not Found")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        self.form = parse_qs(self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode())
        self.do_GET()

    def find(self, name: str, revision: str | None, where: str, path: str | None) -> tuple[str, dict[str, File], Fault]:
        """Return commit, files and fault of a request; an empty commit when the refusal has been sent."""
        repo = self.server.hub.repos.get(name)
        with self.server.hub.lock:
            faults = repo.faults if repo and self.server.name == "hub" else []
            fault = next((one for one in faults if one.meets(self.command, where, path)), Fault())
        if self.odd(fault):
            return "", {}, fault
        if repo is None or not repo.files:
            self.refuse(404, "RepoNotFound", "Repository not found")
            return "", {}, fault
        commit = repo.refs.get(revision or "main", revision or "")
        if commit not in repo.files:
            self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return "", {}, fault
        return commit, repo.files[commit], fault

    def odd(self, fault: Fault) -> bool:
        """Send what replaces a whole answer; True when it did."""
        if fault.raw is not None:
            self.wfile.write(fault.raw)
            self.close_connection = True
        elif fault.redirect is not None:
            self.start(302, {"Location": fault.redirect.format(path=self.path), "Content-Length": "0"}, fault)
        elif fault.status is not None or (fault.body is not None and fault.encoding is None):
            body = fault.body or b""
            self.start(fault.status or 200, {"Content-Length": str(len(body))}, fault)
            self.send(body)
        else:
            return False
        return True

    def api(self, name: str, kind: str | None, revision: str | None) -> None:
        commit, files, fault = self.find(name, revision and revision.split("/", 1)[0], "api", None)
        if not commit:
            return None
        if kind == "tree":
            entries = [self.tree_entry(file) for file in files.values()]
            return self.answer_json(entries, fault)
        if kind == "paths-info":
            return self.answer_json(
                [self.tree_entry(files[path]) for path in self.form.get("paths", []) if path in files]
            )
        siblings = [self.sibling(file) for file in files.values()]
        info = {"_id": "0", "id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "downloads": 0}
        return self.answer_json({**info, "siblings": siblings}, fault)

    @staticmethod
    def tree_entry(file: File) -> dict[str, Any]:
        lfs = {"lfs": {"oid": file.sha256, "size": file.size, "pointerSize": 130}} if file.lfs else {}
        return {"type": "file", "oid": file.blob, "size": file.size, "path": file.path, **lfs}

    @staticmethod
    def sibling(file: File) -> dict[str, Any]:
        lfs = {"lfs": {"sha256": file.sha256, "size": file.size, "pointerSize": 130}} if file.lfs else {}
        return {"rfilename": file.path, "size": file.size, "blobId": file.blob, **lfs}

    def resolve(self, name: str, revision: str, path: str) -> None:
        commit, files, fault = self.find(name, revision, "file", path)
        if not commit:
            return None
        file = files.get(path)
        if file is None:
            return self.refuse(404, "EntryNotFound", "Entry not found")
        headers = {"X-Repo-Commit": commit, "ETag": f'"{file.etag}"', "Accept-Ranges": "bytes"}
        if file.lfs:
            headers |= {"X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
        start, end, status = self.range(file.size, fault)
        if status == 416:
            self.start(416, {**headers, "Content-Range": f"bytes */{file.size}", "Content-Length": "0"}, fault)
            return None
        if status == 206 and fault.ranges == "wrong":  # another part of the same length, and it says so
            shift = 7 if end + 7 <= file.size else -7
            start, end = start + shift, end + shift
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{file.size}"
        return self.body(file, start, end, status, headers, fault)

    def range(self, size: int, fault: Fault) -> tuple[int, int, int]:
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if not match or fault.ranges == "ignore":
            return 0, size, 200
        start, end = int(match[1]), min(int(match[2]) + 1 if match[2] else size, size)
        return (start, end, 206) if start < end and fault.ranges != "refuse" else (0, 0, 416)

    def body(self, file: File, start: int, end: int, status: int, headers: dict[str, str], fault: Fault) -> None:
        pieces: Iterator[bytes | memoryview] = file.read(start, end)
        if fault.encoding in ("gzip", "bomb"):
            plain = b"".join(pieces) if fault.encoding == "gzip" else b"\0" * (64 * MIB)
            packed = zlib.compressobj(wbits=31)
            data = packed.compress(plain) + packed.flush()
            pieces, headers = iter([data]), {**headers, "Content-Encoding": "gzip", "Content-Length": str(len(data))}
        elif fault.encoding == "chunked":
            headers["Transfer-Encoding"] = "chunked"
        elif fault.encoding in ("none", "endless"):
            headers["Connection"] = "close"
        else:
            headers["Content-Length"] = str(end - start + (100 if fault.encoding == "long" else 0))
        self.start(status, headers, fault)
        if self.command == "HEAD":
            return None
        plain_path = isinstance(file.content, Path) and fault == Fault() and self.server.hub.rate is None
        if plain_path:
            return self.sendfile(file.content, start, end)
        self.pieces(pieces, fault, end - start)
        if fault.encoding in ("none", "endless", "long"):
            self.close_connection = True
        return None

    def start(self, status: int, headers: Mapping[str, str], fault: Fault | None = None) -> None:
        merged: dict[str, str | None] = {**headers, **(fault.headers if fault else {})}
        self.send_response_only(status)
        for name, value in merged.items():
            if value is not None:
                self.send_header(name, value)
        self.end_headers()

    def pieces(self, pieces: Iterator[bytes | memoryview], fault: Fault, size: int) -> None:
        sent, rate, chunked = 0, fault.rate or self.server.hub.rate, fault.encoding == "chunked"
        stop = min(limit for limit in (fault.cut, fault.stall, 1 << 62) if limit is not None)
        step = max(1, int(rate / 50)) if rate else MIB
        if fault.encoding == "endless":
            pieces = (b"\0" * MIB for _ in iter(int, 1))
        for large in pieces:
            view = memoryview(large)
            for offset in range(0, len(view), step):
                piece = view[offset : offset + step][: stop - sent]
                if fault.flip and sent + len(piece) == size:
                    piece = memoryview(bytes(piece[:-1]) + bytes([piece[-1] ^ 1]))
                self.send(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked and len(piece) else piece)
                sent += len(piece)
                if sent >= stop:
                    return self.end(fault)
                if rate and self.server.hub.closing.wait(step / rate):
                    return None
        return self.send(b"0\r\n\r\n") if chunked else None

    def end(self, fault: Fault) -> None:
        if fault.stall is not None:
            self.server.hub.closing.wait()
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def sendfile(self, path: Path, start: int, end: int) -> None:
        self.wfile.flush()
        with path.open("rb") as file:
            while start < end:
                start += os.sendfile(self.connection.fileno(), file.fileno(), start, end - start)

    def send(self, data: bytes | memoryview) -> None:
        if self.command != "HEAD":
            self.connection.sendall(data)

    def answer_json(self, data: Any, fault: Fault | None = None) -> None:
        body = json.dumps(data).encode()
        self.start(200, {"Content-Type": "application/json", "Content-Length": str(len(body))}, fault)
        self.send(body)

    def refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        headers = {
            "X-Error-Message": message,
            "Content-Length": str(len(body)),
            **({"X-Error-Code": code} if code else {}),
        }
        self.start(status, headers)
        self.send(body)
