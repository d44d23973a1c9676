"""Lines to the Hub: proxies, certificates, redirects, and answers that drip."""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from downloads import TOKEN

from lmctl.errors import LmctlError
from lmctl.hosts.answers import Passing, broken
from lmctl.hosts.endpoint import Endpoint
from lmctl.hosts.hub import HuggingFace
from lmctl.hosts.redirects import Line

FILES = {"model-Q4_K_M.gguf": b"GGUF" * 1000, "config.json": b"{}", "sub/tokenizer.json": b"[1]"}


def test_F51_a_proxy_is_used_for_the_hub_and_never_for_loopback(hub, home):
    dead = {"https_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "no_proxy": ".inner.example"}
    hub.add("o/n", FILES)
    assert HuggingFace(Endpoint(hub.url, environ=dead)).list("o/n", "main").commit
    endpoint = Endpoint("https://hub.example", environ=dead)
    assert endpoint.proxy("https://hub.example/x") == "http://127.0.0.1:9"
    assert endpoint.proxy("https://a.inner.example/x") is None
    assert endpoint.proxy("http://127.0.0.1:5/x") is None


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate that nobody signed, for 127.0.0.1."""
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    made += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"]
    subprocess.run(made, cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "cert.pem"


def test_F47_a_certificate_that_is_not_trusted_is_refused_before_anything_is_sent(certificate, waits):
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # the client hangs up
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    endpoint = Endpoint(f"https://127.0.0.1:{server.server_address[1]}", TOKEN)
    try:
        face = HuggingFace(endpoint, stop=waits)
        for ask in (lambda: face.list("o/n", "main"), lambda: face.read("o/n", "0" * 40, "x", 0, 1)):
            with pytest.raises(LmctlError, match="is not trusted") as error:
                ask()
            assert error.value.code == "E-NETWORK"
        trusting = ssl.create_default_context(cafile=str(certificate))
        with pytest.raises(Passing):  # trusted, the request goes through: this server answers nothing
            Line(endpoint, 60.0, trusting).get(f"{endpoint.url}/x", {})
        assert seen == ["/x"]
    finally:
        server.shutdown()
        server.server_close()


def test_F47_an_expired_certificate_points_at_the_clock():
    error = ssl.SSLCertVerificationError(1, "certificate verify failed: certificate has expired")
    error.verify_code, error.verify_message = 10, "certificate has expired"
    try:
        try:
            raise error
        except ssl.SSLError as cause:
            raise RuntimeError("wrapped") from cause
    except RuntimeError as wrapped:
        said = broken(wrapped, "hub.example")
    assert "has expired, or the clock is wrong" in str(said)
    assert isinstance(said, LmctlError)


PLACES = ["https://h:99999/x", "https://[evil/x", "https://h:x/", "https://" + "a" * 70 + ".example/x", "https:///x"]


@pytest.mark.parametrize("location", PLACES, ids=[f"F43-{place[:20]}" for place in PLACES])
def test_a_redirect_to_no_address_is_the_hubs_fault(hub, face, location):
    commit = hub.add("o/n", FILES)
    hub.fault("o/n", redirect=location.replace("{", "{{"))
    with pytest.raises(LmctlError) as error:
        face.read("o/n", commit, "config.json", 0, 2)
    assert error.value.code in ("E-HUB", "E-NETWORK")


class Drip:
    """A server that accepts, and then sends one byte of an answer at a time, without end."""

    def __init__(self, first: bytes, byte: bytes) -> None:
        self._first, self._byte = first, byte
        self._line = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._line.getsockname()[1]}"
        self._over = threading.Event()

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._over.set()
        self._line.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=[self._line.accept()[0]], daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        with line, contextlib.suppress(OSError):
            line.recv(65536)
            line.sendall(self._first)
            while not self._over.wait(0.02):
                line.sendall(self._byte)


HEAD = b"HTTP/1.1 200 OK\r\n"
DRIPS = [
    pytest.param(HEAD + b"Content-Length: 1000000\r\n\r\n[", b" ", id="body"),
    pytest.param(HEAD + b"X-Long: ", b"x", id="headers"),
    pytest.param(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", id="chunks"),
]


ASKS = {"list": lambda face: face.list("o/n", "main"), "read": lambda face: face.read("o/n", "0" * 40, "x", 0, 1000)}


@pytest.mark.parametrize("ask", ASKS)
@pytest.mark.parametrize(("first", "byte"), DRIPS)
def test_F46_an_answer_that_drips_ends_in_time(first, byte, ask):
    hubs = f'X-Repo-Commit: {"0" * 40}\r\nETag: "{"a" * 40}"\r\n'.encode()
    with Drip(first.replace(HEAD, HEAD + hubs), byte) as server:
        face = HuggingFace(Endpoint(server.url), total=0.4)
        with pytest.raises(LmctlError, match=r"does not answer within 0\.4 s") as error:
            ASKS[ask](face)
    assert error.value.code == "E-NETWORK"


def test_listings_side_by_side_do_not_end_each_other(hub, waits):
    for index in range(8):
        hub.add(f"o/n{index}", FILES)
        hub.fault(f"o/n{index}", where="api", rate=20_000.0)
    face = HuggingFace(Endpoint(hub.url), stop=waits)
    with ThreadPoolExecutor(8) as pool:
        listed = list(pool.map(lambda index: face.list(f"o/n{index}", "main").repo, range(8)))
    assert listed == [f"o/n{index}" for index in range(8)]
    assert waits.seconds == [], "none was tried again"


@pytest.mark.parametrize("ask", ASKS)
def test_F20_an_answer_that_drips_ends_when_asked_to_stop(ask):
    stop = threading.Event()
    with Drip(HEAD + b"X-Long: ", b"x") as server:
        face = HuggingFace(Endpoint(server.url), stop=stop)
        timer = threading.Timer(0.2, stop.set)
        timer.start()
        with pytest.raises(LmctlError, match="is not finished — run it again"):
            ASKS[ask](face)
        timer.join()
        with pytest.raises(LmctlError, match="is not finished — run it again"):
            ASKS[ask](face)


def test_F51_a_proxys_password_is_sent_to_the_proxy_and_the_token_is_not():
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.settimeout(60)

        def serve() -> None:
            line, _ = proxy.accept()
            with line:
                seen.append(line.recv(65536))
                line.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = f"http://user:p%40ss@127.0.0.1:{proxy.getsockname()[1]}"
        line = Line(Endpoint("https://hub.example", TOKEN, environ={"https_proxy": address}), 60.0)
        with pytest.raises(Passing) as error:
            line.get("https://hub.example/x", {})
        thread.join()
    head = seen[0].decode().lower()
    assert head.startswith("connect hub.example:443 ")
    assert f"proxy-authorization: basic {base64.b64encode(b'user:p@ss').decode().lower()}" in head
    assert TOKEN not in head
    assert "ss@" not in str(error.value.error)
