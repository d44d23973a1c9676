"""What a refusal or a broken connection means to a person, and whether another try may mend it."""

from __future__ import annotations

import http.client
import random
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from lmctl.errors import LmctlError, escape
from lmctl.record import record

RETRIED = frozenset([408, 429, 500, 502, 503, 504])
_EXPIRED = 10  # OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED
_NOT_YET = 9
_LONGEST = 1e9  # seconds: what a server may ask to wait stays a date that can be shown

Result = TypeVar("Result")


@record
class Asked:
    """What was asked of the Hub, for the message; `token` is whether one was sent."""

    host: str
    repo: str
    revision: str
    path: str = ""
    token: bool = False


class Passing(Exception):
    """A failure that may go away: the error to end with, and the seconds that the server asks to wait."""

    def __init__(self, error: LmctlError, after: float | None = None) -> None:
        super().__init__(error)
        self.error, self.after = error, after


@dataclass
class Patience:
    """How long one piece of work is tried: `tries` failures in a row and `wait` seconds of waiting in all."""

    tries: int = 5
    wait: float = 60.0
    backoff: float = 0.5  # seconds before the second try, doubled each time, up to 8
    failures: int = field(default=0, init=False)
    waited: float = field(default=0.0, init=False)

    def pause(self, passing: Passing) -> float:
        """Count a failure and return the seconds to wait; raises its error when patience is at its end."""
        self.failures += 1
        seconds = min(8.0, self.backoff * 2.0 ** (self.failures - 1)) * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)
        if passing.after is not None:
            seconds = passing.after
        if self.failures >= self.tries or self.waited + seconds > self.wait:
            raise passing.error
        self.waited += seconds
        return seconds

    def progress(self) -> None:
        """Forget earlier failures: the work went on in between."""
        self.failures = 0


def patiently(act: Callable[[], Result], patience: Patience, stop: threading.Event) -> Result:
    """Return what `act` returns, trying again on Passing; raises LmctlError."""
    while True:
        try:
            return act()
        except Passing as passing:
            if stop.wait(patience.pause(passing)):
                raise passing.error from passing


def refusal(status: int, headers: Mapping[str, str], asked: Asked, now: float) -> LmctlError | Passing:
    """Return what an HTTP status of 400 or more means; `headers` ignore case, `now` is seconds since the epoch."""
    code = headers.get("X-Error-Code", "")
    error = _known(code, asked) or _by_status(status, asked)
    if error is not None:
        return error
    after = retry_after(headers, now) if status in (429, 503) else None
    if status == 429:
        until = f" until {datetime.fromtimestamp(now + after):%H:%M}" if after is not None else ""
        fix = "wait, then run it again" if asked.token else "wait, or log in with `hf auth login`"
        return Passing(LmctlError("E-RATE", f"{asked.host} limits the rate of requests{until}", fix=fix), after)
    said = headers.get("X-Error-Message", "")
    what = f"{asked.host} answered {status}" + (f": {escape(said)}" if said else "")
    error = LmctlError("E-HUB", what, fix="try again later" if status >= 500 else "check the Hub's address")
    return Passing(error, after) if status in RETRIED else error


def _known(code: str, asked: Asked) -> LmctlError | None:
    repo, revision, path = escape(asked.repo), escape(asked.revision), escape(asked.path)
    if code == "GatedRepo":
        fix = f"ask for access at https://{asked.host}/{repo}"
        fix += ", then run it again" if asked.token else ", then log in with `hf auth login`"
        return LmctlError("E-GATED", f"{repo} is gated: its owner must let you in", fix=fix)
    if code == "RevisionNotFound":
        return LmctlError("E-MISSING", f"{repo} has no revision {revision}", fix="correct `revision`")
    if code == "EntryNotFound":
        return LmctlError(
            "E-MISSING", f"{repo} has no file {path} at {revision[:12]}", fix="run `lmctl lock --upgrade`"
        )
    if code == "RepoNotFound":
        more = "" if asked.token else ", or log in with `hf auth login` if it is private"
        return LmctlError("E-MISSING", f"{repo} does not exist on {asked.host}", fix=f"correct its name{more}")
    return None


def _by_status(status: int, asked: Asked) -> LmctlError | None:
    repo, login = escape(asked.repo), "log in with `hf auth login`, or set HF_TOKEN"
    if status == 401 and asked.token:
        return LmctlError("E-AUTH", f"{asked.host} does not accept the token", fix=login)
    if status == 401:
        return LmctlError("E-AUTH", f"{repo} needs a token, or does not exist", fix=f"check its name, then {login}")
    if status == 403:
        return LmctlError("E-AUTH", f"the token may not read {repo}", fix="use a token with read access to it")
    if status == 404:
        fix = "check name, revision and the Hub's address"
        return LmctlError("E-MISSING", f"{asked.host} has nothing for {repo} {escape(asked.path)}".rstrip(), fix=fix)
    if status in (410, 451):
        why = "was removed" if status == 410 else "is withheld for legal reasons"
        return LmctlError("E-MISSING", f"{repo} {why} ({status})", fix="choose another repository")
    return None


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that `Retry-After` or the Hub's `ratelimit` asks for, None when neither can be read."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}", value):
        return float(value)
    if match := re.search(r";\s*r\s*=\s*0\s*;\s*t\s*=\s*(\d{1,6})", headers.get("ratelimit", "")):
        return float(match[1])
    try:
        date = parsedate_to_datetime(value)
        date = date if date.tzinfo else date.replace(tzinfo=UTC)
        return min(max(0.0, date.timestamp() - now), _LONGEST)
    except (ValueError, OverflowError):
        return None


def broken(error: BaseException, host: str) -> LmctlError | Passing:
    """Return what an exception of urllib3 or httpx2 means: its causes tell, whatever the library wrapped them in."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate(cause, host)
        if isinstance(cause, http.client.LineTooLong) or "more than 100 headers" in str(cause):
            return LmctlError("E-HUB", f"{host} sends oversized headers", fix="check the Hub's address")
    for cause in causes:
        if isinstance(cause, socket.gaierror):
            fix = "check the connection to the internet"
            return Passing(LmctlError("E-NETWORK", f"the name {host} cannot be resolved", fix=fix))
        if isinstance(cause, ConnectionRefusedError):
            return Passing(LmctlError("E-NETWORK", f"{host} refuses connections", fix="check address and proxy"))
        if isinstance(cause, ssl.SSLError):
            return Passing(LmctlError("E-NETWORK", f"{host} does not speak TLS as it should", fix="check the proxy"))
    why = "does not answer in time" if any("imeout" in type(c).__name__ for c in causes) else "broke the connection"
    return Passing(LmctlError("E-NETWORK", f"{host} {why}", fix="check the connection, then run it again"))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and everything it was raised from or made of, each once."""
    waiting: list[object] = [error]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]


def _certificate(error: ssl.SSLCertVerificationError, host: str) -> LmctlError:
    if error.verify_code in (_EXPIRED, _NOT_YET):
        why, fix = "has expired, or the clock is wrong", "check date and time of this machine"
    else:
        why, fix = f"is not trusted ({escape(error.verify_message or '')})", "check proxy and SSL_CERT_FILE"
    return LmctlError("E-NETWORK", f"the certificate of {host} {why}", fix=fix)
