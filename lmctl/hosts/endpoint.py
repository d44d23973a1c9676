"""Which Hub is asked, with which token, through which proxy."""

from __future__ import annotations

import ipaddress
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from lmctl.errors import LmctlError, escape
from lmctl.paths import Folders, read_regular
from lmctl.record import NOTHING, record
from lmctl.spec import Machine

DEFAULT = "https://huggingface.co"
_PORTS = {"http": 80, "https": 443}
_TRUE = {"1", "ON", "YES", "TRUE"}  # what huggingface_hub takes for true

Origin = tuple[str, str, int]  # scheme, host, port


@record
class Endpoint:
    """The Hub's address and what may be sent there: the token goes to this origin alone."""

    url: str = DEFAULT
    token: str | None = None
    offline: bool = False  # connections to loopback alone
    environ: Mapping[str, str] = NOTHING  # for the proxies

    def __repr__(self) -> str:
        return f"Endpoint({self.url!r})"  # neither the token nor the environment is ever shown

    @classmethod
    def of(cls, environ: Mapping[str, str], folders: Folders, machine: Machine, offline: bool = False) -> Endpoint:
        """Read address and token as huggingface_hub does; machine.toml wins over the environment.

        Raises E-MACHINE for an address that is not https (or loopback), E-AUTH for a token that cannot be one.
        """
        url = (machine.endpoint or environ.get("HF_ENDPOINT") or DEFAULT).rstrip("/")
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise LmctlError("E-MACHINE", f"{escape(url)} is no Hub address", fix=f"use one such as {DEFAULT}")
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            raise LmctlError("E-MACHINE", f"the Hub address {escape(url)} is not encrypted", fix="use https")
        quiet = offline or environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE
        return cls(url, _token(environ, folders, machine), quiet, environ)

    @property
    def origin(self) -> Origin:
        return origin(self.url)

    @property
    def host(self) -> str:
        return self.origin[1]

    def reachable(self) -> None:
        """Raise E-OFFLINE when this run may not ask the Hub."""
        if self.offline and not is_loopback(self.host):
            raise LmctlError(
                "E-OFFLINE", f"{self.host} is needed, and this run is offline", fix="run without --offline"
            )

    def resolve(self, repo: str, commit: str, path: str) -> str:
        """Return the address of a file's bytes."""
        return f"{self.url}/{quote(repo)}/resolve/{quote(commit, safe='')}/{quote(path)}"

    def proxy(self, url: str) -> str | None:
        """Return the proxy of the environment for `url`; loopback never has one."""
        scheme, host, port = origin(url)
        lower = {name.lower(): value for name, value in self.environ.items() if value}
        direct = [entry.strip().lstrip(".").lower() for entry in lower.get("no_proxy", "").split(",") if entry.strip()]
        if is_loopback(host) or any(
            entry in ("*", host, f"{host}:{port}") or host.endswith(f".{entry}") for entry in direct
        ):
            return None
        found = lower.get(f"{scheme}_proxy") or lower.get("all_proxy")
        return found if not found or "://" in found else f"http://{found}"


def origin(url: str) -> Origin:
    """Return scheme, host and port of `url`."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(parts.scheme, 0)


def is_loopback(host: str) -> bool:
    """Return whether `host` is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def is_internal(host: str) -> bool:
    """Return whether `host` is an address that only this machine or its network answers."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host == "localhost"


def _token(environ: Mapping[str, str], folders: Folders, machine: Machine) -> str | None:
    """Return the token, None when there is none; its text is never part of a message."""
    path = token_file(environ, folders, machine)
    source, token = (str(path), _content(path) or "") if path else ("HF_TOKEN", environ["HF_TOKEN"])
    token = token.strip()
    if token and not re.fullmatch(r"[!-~]{1,1024}", token):
        raise LmctlError(
            "E-AUTH", f"the token of {escape(source)} holds a line break or other odd characters", fix="write it anew"
        )
    return token or None


def token_file(environ: Mapping[str, str], folders: Folders, machine: Machine) -> Path | None:
    """Return the file that the token is read from, None where HF_TOKEN holds it."""
    if environ.get("HF_TOKEN", "").strip():
        return None
    return machine.token_file or Path(environ.get("HF_TOKEN_PATH") or folders.hf_home / "token")


def _content(path: Path) -> str | None:
    try:
        return read_regular(path, 4096).decode("ascii", "replace") if stat.S_ISREG(path.stat().st_mode) else None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LmctlError("E-PERM", f"{escape(str(path))} may not be read", fix="check its permissions") from error
