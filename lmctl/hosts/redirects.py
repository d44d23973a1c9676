"""One worker's connections: redirects followed by hand, the token sent to its own origin alone, ended from outside."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from urllib.parse import unquote, urljoin

import truststore
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError

from lmctl import __version__
from lmctl.errors import LmctlError
from lmctl.hosts.answers import Passing, broken
from lmctl.hosts.claims import shown
from lmctl.hosts.endpoint import Endpoint, Origin, is_internal, is_loopback, origin
from lmctl.record import record
from lmctl.trace import asking, bare

HOPS = 5
HEADERS = 64 << 10  # bytes of headers that an answer may have
_MOVED = frozenset([301, 302, 303, 307, 308])


@record
class Answer:
    """An answer whose body waits to be read; `hub` holds the headers of the last answer of the Hub itself."""

    response: urllib3.BaseHTTPResponse
    url: str
    hub: Mapping[str, str] | None


class Line:
    """Connections of one thread. `abort` ends what is under way, from another thread."""

    def __init__(self, endpoint: Endpoint, timeout: float = 60.0, tls: ssl.SSLContext | None = None) -> None:
        self._endpoint = endpoint
        self._timeout = urllib3.Timeout(connect=min(10.0, timeout), read=timeout)
        self._tls = tls
        self._managers: dict[str | None, urllib3.PoolManager] = {}
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._aborted = False

    def get(self, url: str, headers: Mapping[str, str], tags: Mapping[Origin, str] | None = None) -> Answer:
        """Ask for `url`, following at most five redirects; `tags` are entity tags to insist on, by origin (If-Range).

        Raises Passing or LmctlError (E-NETWORK, E-HUB, E-OFFLINE). The caller reads the body and closes it.
        """
        hub = None
        for _ in range(HOPS + 1):
            response = self._ask(url, headers, tags or {})
            if origin(url) == self._endpoint.origin:
                hub = response.headers
            if response.status not in _MOVED:
                return Answer(response, url, hub)
            response.close()
            url = self._next(url, response.headers.get("Location"))
        raise LmctlError("E-HUB", f"{self._endpoint.host} redirects more than {HOPS} times", fix="check its address")

    def _ask(self, url: str, headers: Mapping[str, str], tags: Mapping[Origin, str]) -> urllib3.BaseHTTPResponse:
        _, host, _ = where = origin(url)
        if self._endpoint.offline and not is_loopback(host):
            raise LmctlError("E-OFFLINE", f"{host} is needed, and this run is offline", fix="run without --offline")
        sent = {"User-Agent": f"lmctl/{__version__}", "Accept-Encoding": "identity", **headers}
        if where == self._endpoint.origin and self._endpoint.token:
            sent["Authorization"] = f"Bearer {self._endpoint.token}"
        if "Range" in sent and where in tags:
            sent["If-Range"] = tags[where]
        try:
            with asking(f"GET {bare(url)} {sent.get('Range', '')}".rstrip()) as ended:
                response = self._manager(url).request(
                    "GET",
                    url,
                    headers=sent,
                    preload_content=False,
                    redirect=False,
                    retries=False,
                    timeout=self._timeout,
                )
                ended(response.status)
        except (HTTPError, OSError) as error:
            problem = broken(error, host)
            raise problem from error
        except ValueError as error:  # a host that no name can be
            raise LmctlError("E-HUB", f"{shown(host)} cannot be asked", fix="check the Hub's address") from error
        if sum(len(name) + len(value) for name, value in response.headers.items()) > HEADERS:
            response.close()
            raise LmctlError("E-HUB", f"{host} sends oversized headers", fix="check the Hub's address")
        return response

    def _next(self, url: str, location: str | None) -> str:
        """Return where a redirect may lead: https, or loopback when the Hub itself is there."""
        local = is_loopback(self._endpoint.host)
        with contextlib.suppress(ValueError):  # no address at all
            target = urljoin(url, location or "")
            scheme, host, _ = origin(target)
            if (scheme == "https" and (local or not is_internal(host))) or (
                scheme == "http" and local and is_loopback(host)
            ):
                return target
        what = f"{self._endpoint.host} redirects to {shown(location)}, where lmctl does not follow"
        raise LmctlError("E-HUB", what, fix="check the Hub's address and proxy")

    def _manager(self, url: str) -> urllib3.PoolManager:
        proxy = self._endpoint.proxy(url)
        if proxy not in self._managers:
            tls = self._tls or truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            made = _proxied(proxy, tls) if proxy else urllib3.PoolManager(ssl_context=tls)
            made.pool_classes_by_scheme = _pools(self._opened)
            self._managers[proxy] = made
        return self._managers[proxy]

    def _opened(self, connection: HTTPConnection) -> None:
        with self._lock:
            if connection.sock is not None:
                self._sockets.append(connection.sock)
            if self._aborted:
                raise Passing(LmctlError("E-NETWORK", "the download was stopped", fix="run it again"))

    def abort(self) -> None:
        """End every connection now: a thread that waits for bytes sees their end."""
        with self._lock:
            self._aborted = True
            for held in self._sockets:
                with contextlib.suppress(OSError):
                    # not SSLSocket.shutdown, which would take the TLS state from the thread that reads
                    socket.socket.shutdown(held, socket.SHUT_RDWR)

    def close(self) -> None:
        """Give the connections back."""
        for manager in self._managers.values():
            manager.clear()
        self._sockets.clear()


def _proxied(proxy: str, tls: ssl.SSLContext) -> urllib3.ProxyManager:
    """Return connections through a proxy; user and password of its address are sent to it alone."""
    user = urllib3.util.parse_url(proxy).auth
    headers = urllib3.make_headers(proxy_basic_auth=unquote(user)) if user else None
    return urllib3.ProxyManager(proxy, proxy_headers=headers, ssl_context=tls)


def _pools(opened: Callable[[HTTPConnection], None]) -> dict[str, type[urllib3.HTTPConnectionPool]]:
    """Return urllib3's pools with connections that report their socket as soon as it is open."""

    class Http(HTTPConnection):
        def connect(self) -> None:
            super().connect()
            opened(self)

    class Https(HTTPSConnection):
        def connect(self) -> None:
            super().connect()
            opened(self)

    class HttpPool(urllib3.HTTPConnectionPool):
        ConnectionCls = Http

    class HttpsPool(urllib3.HTTPSConnectionPool):
        ConnectionCls = Https

    return {"http": HttpPool, "https": HttpsPool}
