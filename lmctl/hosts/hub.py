"""The Hugging Face Hub through huggingface_hub: what a repository holds at a commit, and ranges of its files."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import httpx2
from huggingface_hub import HfApi, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from urllib3.exceptions import HTTPError

from lmctl.errors import LmctlError, escape
from lmctl.host import Listing, RemoteFile
from lmctl.hosts.answers import Asked, Patience, broken, patiently, refusal
from lmctl.hosts.claims import checked_commit, checked_etag, checked_hub, checked_name, no_hub, shown
from lmctl.hosts.deadline import Bounds, within
from lmctl.hosts.endpoint import Endpoint, origin
from lmctl.hosts.redirects import Line
from lmctl.trace import asking, bare

_LISTING = 32 << 20  # bytes that the answer to one question may have
_STRAY = 16 << 20  # bytes that are read in vain when a server ignores Range

Result = TypeVar("Result")


class HuggingFace:
    """`host.Hub`. Nothing is sent but to the endpoint (and, for bytes of files, where it redirects over https).

    `timeout` in seconds is for one wait, `total` for an answer with all tries; `stop` ends either soon.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        timeout: float = 30.0,
        backoff: float = 0.5,
        total: float = 120.0,
        stop: threading.Event | None = None,
    ) -> None:
        self._endpoint, self._timeout, self._backoff, self._total = endpoint, timeout, backoff, total
        self._stop = stop or threading.Event()
        self._line = Line(endpoint, timeout)
        # process-wide, because huggingface_hub has one client for everything, made when it is first asked for; not
        # before every listing, because that closes the client under listings that are under way
        set_client_factory(lambda: _client(endpoint, timeout))

    def list(self, repo: str, revision: str) -> Listing:
        """Return the files of `repo` at `revision`, every name, commit, size and hash checked."""
        self._endpoint.reachable()
        asked = self._asked(repo, revision)
        return self._in_time(lambda: self._list(asked), repo)

    def read(self, repo: str, commit: str, path: str, start: int, length: int) -> bytes:
        """Return bytes [start, start + length) of a file, fewer at its end."""
        self._endpoint.reachable()
        asked = self._asked(repo, commit, checked_name(path))
        return self._in_time(lambda: self._read(asked, start, length), path)

    def _in_time(self, ask: Callable[[], Result], name: str) -> Result:
        what = f"{self._endpoint.host} does not answer within {self._total:g} s"
        late = LmctlError("E-NETWORK", what, fix="check the connection, then run it again")
        left = threading.Event()

        def once() -> Result:
            if left.is_set():
                raise late  # nobody waits for another try
            return ask()

        def leave() -> None:
            left.set()
            self._line.abort()
            self._line = Line(self._endpoint, self._timeout)

        bounds = Bounds(self._total, self._stop, leave)
        return within(bounds, lambda: patiently(once, self._patience(), self._stop), name, late)

    def _asked(self, repo: str, revision: str, path: str = "") -> Asked:
        return Asked(self._endpoint.host, repo, revision, path, token=self._endpoint.token is not None)

    def _patience(self) -> Patience:
        return Patience(backoff=self._backoff)

    def _list(self, asked: Asked) -> Listing:
        api = HfApi(endpoint=self._endpoint.url, token=self._endpoint.token or False)
        try:
            info = api.model_info(asked.repo, revision=asked.revision, files_metadata=True, timeout=self._timeout)
        except HfHubHTTPError as error:
            problem = refusal(error.response.status_code, error.response.headers, asked, time.time())
            raise problem from error
        except HFValidationError as error:
            raise LmctlError("E-REPO", f"{escape(asked.repo)} is no repository", fix="write owner/name") from error
        except (httpx2.HTTPError, OSError) as error:
            problem = broken(error, asked.host)
            raise problem from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise no_hub(asked.host) from error  # an answer that is not what the Hub's client can read
        files = tuple(_file(sibling) for sibling in info.siblings or ())
        commit = checked_commit(info.sha)
        if len({file.path for file in files}) != len(files):
            raise LmctlError("E-HUB", f"{escape(asked.repo)} names a file twice", fix="check the Hub's address")
        return Listing(asked.repo, asked.revision, commit, tuple(sorted(files, key=lambda file: file.path)))

    def _read(self, asked: Asked, start: int, length: int) -> bytes:
        url = self._endpoint.resolve(asked.repo, asked.revision, asked.path)
        answer = self._line.get(url, {"Range": f"bytes={start}-{start + length - 1}"})
        response = answer.response
        try:
            if response.status == 416:
                return b""
            if response.status >= 400:
                raise refusal(response.status, response.headers, asked, time.time())
            checked_hub(answer.hub, asked)
            skip = start if response.status == 200 else 0
            ranged = response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
            if skip + length > _STRAY or (response.status == 206 and not ranged):
                raise LmctlError("E-HUB", f"{asked.host} serves no ranges", fix="check the Hub's address and proxy")
            return response.read(skip + length, decode_content=True)[skip:]
        except (HTTPError, OSError) as error:
            problem = broken(error, asked.host)
            raise problem from error
        finally:
            if response.length_remaining == 0:
                response.drain_conn()  # gives the connection back
            else:
                response.close()


def _file(sibling: Any) -> RemoteFile:
    """Return a checked file of huggingface_hub's listing."""
    path, size, lfs = checked_name(sibling.rfilename), sibling.size, sibling.lfs
    if type(size) is not int or size < 0:
        raise LmctlError("E-HUB", f"the Hub names no size of {escape(path)}: {shown(size)}", fix="try again later")
    sha256 = checked_etag(lfs.sha256) if lfs else None
    if sha256 is not None and len(sha256) != 64:
        raise LmctlError("E-HUB", f"the Hub names no sha256 of {escape(path)}: {sha256}", fix="try again later")
    return RemoteFile(path, size, sha256, checked_etag(sibling.blob_id))


class _Body(httpx2.SyncByteStream):
    """A body that ends with an error when it grows beyond what an answer of the Hub's API can need."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __iter__(self) -> Iterator[bytes]:
        total = 0
        for piece in self._inner:
            total += len(piece)
            if total > _LISTING:
                raise LmctlError("E-HUB", "the Hub's answer does not end", fix="check the Hub's address")
            yield piece

    def close(self) -> None:
        self._inner.close()


class _Guard(httpx2.BaseTransport):
    """Sends to the endpoint's API alone and follows no redirect: no other host sees a request, let alone the token."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._inner = httpx2.HTTPTransport(proxy=endpoint.proxy(endpoint.url), trust_env=True)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        url = str(request.url)
        if origin(url) != self._endpoint.origin or "/api/models/" not in url:
            # the client asks for a list of coding agents, too, at an address of its own
            raise httpx2.ConnectError("not asked")
        request.headers["Accept-Encoding"] = "identity"  # a limit on bytes is one only while nothing is unpacked
        with asking(f"{request.method} {bare(url)}") as ended:
            response = self._inner.handle_request(request)
            ended(response.status_code)
        if response.headers.get("Content-Encoding", "identity") != "identity":
            response.close()
            raise no_hub(self._endpoint.host)
        if response.has_redirect_location:
            response.close()
            target = shown(response.headers.get("Location"))
            raise LmctlError("E-MISSING", f"the repository moved to {target}", fix="name the new one")
        response.stream = _Body(response.stream)
        return response

    def close(self) -> None:
        self._inner.close()


def _client(endpoint: Endpoint, timeout: float) -> httpx2.Client:
    return httpx2.Client(transport=_Guard(endpoint), timeout=timeout, trust_env=False, follow_redirects=False)
