"""One connection of a download: asks for a range, checks that the answer is that range, writes it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import urllib3
from urllib3.exceptions import HTTPError

from lmctl.errors import LmctlError, escape
from lmctl.host import Fetch
from lmctl.hosts.answers import Asked, Passing, broken, refusal
from lmctl.hosts.claims import checked_hub
from lmctl.hosts.endpoint import Endpoint, Origin, origin
from lmctl.hosts.journal import Partial
from lmctl.hosts.limits import Rate
from lmctl.hosts.redirects import Answer, Line

Span = tuple[int, int]  # [start, end) of the file


class Discard(Exception):
    """What arrived does not fit what is there: all of it must go."""


@dataclass
class Source:
    """Where one file's bytes come from; shared by its connections. `url` is where the Hub redirected to."""

    endpoint: Endpoint
    fetch: Fetch
    url: str | None = None
    ranged: bool = True  # False after a server mixed up ranges: the whole file in one answer
    tags: dict[Origin, str] = field(default_factory=dict)

    @property
    def asked(self) -> Asked:
        token = self.endpoint.token is not None
        return Asked(self.endpoint.host, self.fetch.repo, self.fetch.commit, self.fetch.file.path, token)

    @property
    def address(self) -> str:
        return self.url or self.endpoint.resolve(self.fetch.repo, self.fetch.commit, self.fetch.file.path)


class Carrier(threading.Thread):
    """Takes spans from `spans` until there are none; `failure` says why it ended before."""

    def __init__(
        self,
        source: Source,
        partial: Partial,
        spans: Callable[[], Span | None],
        line: Line,
        rate: Rate,
        halt: threading.Event,
    ) -> None:
        super().__init__(name="fetch", daemon=True)
        self._source, self._partial, self._spans = source, partial, spans
        self._rate, self._halt = rate, halt
        self.line = line
        self.failure: BaseException | None = None
        self.ended = False
        self.received = 0
        self.idle = False  # waits for the disk or the rate, not for the server
        self.since, self.before = time.monotonic(), 0  # when the window for `stalled` began, and with how many bytes
        self.start()

    def run(self) -> None:
        try:
            while not self._halt.is_set() and (span := self._spans()):
                self._carry(*span)
        except BaseException as error:
            self.failure = error
        finally:
            self.line.close()
            with self._partial.due:
                self.ended = True
                self._partial.due.notify_all()

    def stalled(self, seconds: float, trickle: int) -> bool:
        """Return whether less than `trickle` bytes per second arrived for `seconds`."""
        now = time.monotonic()
        if self.idle or now - self.since >= seconds:
            slow = not self.idle and self.received - self.before < trickle * seconds
            self.since, self.before = now, self.received
            return slow
        return False

    def _carry(self, start: int, end: int) -> None:
        size = self._partial.size
        whole = (start, end) == (0, size)
        headers = {} if whole else {"Range": f"bytes={start}-{end - 1}"}
        answer = self.line.get(self._source.address, headers, self._source.tags)
        response = answer.response
        try:
            self._check(answer, start, end)
            self._receive(response, start, end)
        except (HTTPError, OSError) as error:
            problem = broken(error, origin(answer.url)[1])
            raise problem from error
        finally:
            # an answer that was read to its end gives its connection back; any other is of no use any more
            if response.length_remaining == 0:
                response.drain_conn()
            else:
                response.close()

    def _check(self, answer: Answer, start: int, end: int) -> None:
        """Raise unless the answer's body is [start, end) of the wanted file."""
        response, source, size = answer.response, self._source, self._partial.size
        if origin(answer.url) != source.endpoint.origin and response.status in (401, 403, 404, 410):
            source.url = None  # an address for one download, and its time is over
            raise Passing(LmctlError("E-NETWORK", f"{origin(answer.url)[1]} ended the download", fix="run it again"))
        if response.status == 416:
            raise Discard(f"it has no bytes {start}-{end - 1}")
        if response.status >= 400:
            raise refusal(response.status, response.headers, source.asked, time.time())
        if answer.hub is not None:
            self._check_hub(answer)
        tag, where = response.headers.get("ETag", ""), origin(answer.url)
        if tag.startswith('"') and source.tags.setdefault(where, tag) != tag:
            raise Discard("its content changed")
        packed = response.headers.get("Content-Encoding", "identity") != "identity"
        if packed and (source.ranged or (start, end) != (0, size)):
            raise Discard("it is packed")
        if response.status == 206:
            match = re.fullmatch(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})", response.headers.get("Content-Range", ""))
            if not match or tuple(map(int, match.groups())) != (start, end - 1, size):
                raise Discard(f"bytes {start}-{end - 1} were asked for, and others came")
        elif response.status != 200:
            raise LmctlError("E-HUB", f"{where[1]} answered {response.status}", fix="check the Hub's address and proxy")
        elif (start, end) != (0, size):
            raise Discard("it serves no ranges")
        if origin(answer.url) != source.endpoint.origin:
            source.url = answer.url

    def _check_hub(self, answer: Answer) -> None:
        """Raise E-UPSTREAM when the Hub has another file under this commit than the lock."""
        file = self._source.fetch.file
        etag = checked_hub(answer.hub, self._source.asked)
        size = (answer.hub or {}).get("X-Linked-Size", str(file.size))
        if etag == file.etag and size == str(file.size):
            return
        if self._partial.written:
            raise Discard("its content changed")
        what = f"{escape(file.path)} of {escape(self._source.fetch.repo)} is not the file that was locked any more"
        raise LmctlError("E-UPSTREAM", what, fix="upstream changed; run `lmctl lock --upgrade`")

    def _receive(self, response: urllib3.BaseHTTPResponse, start: int, end: int) -> None:
        position = start
        while position < end and not self._halt.is_set():
            piece = response.read1(self._rate.chunk, decode_content=not self._source.ranged)
            if not piece:
                break
            self.received += len(piece)
            if position + len(piece) > end:
                self._partial.discard()  # who does not know the file's end sent something else from its beginning
                what = f"{self._source.endpoint.host} sends more than the {end - start} bytes that were asked for"
                raise LmctlError("E-HUB", what, fix="run `lmctl lock --check`, or check the proxy")
            self.idle = True
            self._partial.write(position, piece, self._halt)
            self._rate.take(len(piece), self._halt)
            self.idle = False
            position += len(piece)
        if position < end:
            what = f"{self._source.endpoint.host} ended after {position - start} of {end - start} bytes"
            raise Passing(LmctlError("E-NETWORK", what, fix="run it again: it goes on where it stopped"))
