"""Names, addresses and paths that a configuration may hold: each check returns the text or raises LmctlError."""

from __future__ import annotations

import ipaddress
import re
from pathlib import PurePosixPath
from urllib.parse import unquote, urlsplit

from lmctl.config.values import invisible, wrong_type
from lmctl.errors import LmctlError, escape
from lmctl.portable import MOST_PATH, MOST_RELATIVE, too_long

RESERVED = frozenset(["all", "none", "auto", "local", "default", "lmctl", "gateway", "watch", "declarations"])
DEVICES = frozenset(["con", "prn", "aux", "nul", *(f"{stem}{n}" for stem in ("com", "lpt") for n in range(10))])

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_ALIAS = re.compile(r"[A-Za-z0-9._:/@+-]{1,128}")
_REPO_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}")
_HOST = re.compile(r"hf://|(?:https?://)?(?:www\.)?(?:hf\.co|huggingface\.co)/")
_ADDRESS = re.compile(
    r"(?P<repo>[^/:?#]+/[^/:?#]+)"
    r"(?:/(?P<kind>blob|resolve|raw|tree)/(?P<revision>[^/?#]+)(?:/(?P<file>[^?#]*))?)?(?::(?P<quant>[^/:?#]+))?/?"
)
_PASSWORD = re.compile(r"://[^/]*@")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
_MEANT = ("local", "default", "auto")  # names of models that mean a profile or another
_ENV_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,127}")


def name(value: object) -> object:
    """Check the name of a profile, a group or a declaration."""
    if not isinstance(value, str):
        raise wrong_type("text", value)
    shown = escape(value, 70)
    if len(value) > 63:
        raise LmctlError("E-NAME", f"name {escape(value, 20)!r} of {len(value)} characters is longer than 63")
    hidden = invisible(value)
    if hidden:
        raise LmctlError("E-NAME", f"name '{shown}' has invisible character {hidden[1]} at {hidden[0]}")
    if not _NAME.fullmatch(value):
        raise LmctlError(
            "E-NAME", f"'{shown}' is no name", fix="use letters, digits, '.', '_', '-'; a letter or digit first"
        )
    if value.lower() in RESERVED or value.lower().partition(".")[0] in DEVICES:
        raise LmctlError("E-NAME", f"'{shown}' is reserved", fix="choose another name")
    return value


def alias(value: object) -> object:
    if not isinstance(value, str):
        raise wrong_type("text", value)
    if not _ALIAS.fullmatch(value):
        raise LmctlError(
            "E-NAME", f"'{escape(value, 60)}' is no alias", fix="use letters, digits and ._:/@+-, at most 128"
        )
    if value in _MEANT:
        fix = "leave it out: [gateway] default says which profile is meant"
        raise LmctlError("E-NAME", f"alias '{value}' means something to the gateway already", fix=fix)
    return value


def repo(value: object) -> object:
    """Check `owner/name` as the Hub writes it; an address of the Hub or of another tool is told in lmctl's words."""
    if not isinstance(value, str):
        raise wrong_type("text", value)
    if not _is_repo(value):
        found = meant(value)
        said = ", ".join(f'{key} = "{escape(text)}"' for key, text in (found or {}).items())
        fix = f"write {said}" if said else "write owner/name as on the Hub"
        raise LmctlError("E-REPO", f"{_shown(value)} is no repository", fix=fix)
    return value


def _shown(value: str) -> str:
    """Return an address for people, without what may be secret in it: a password, or a token in its query."""
    if _PASSWORD.search(value):
        return "an address with a password"
    return f"'{escape(value.partition('?')[0] if is_address(value) else value, 80)}'"


def _is_repo(text: str) -> bool:
    parts = text.split("/")
    return len(parts) == 2 and not any(
        not _REPO_PART.fullmatch(part) or ".." in part or "--" in part or part.endswith((".", "-", ".git"))
        for part in parts
    )


def is_address(text: str) -> bool:
    """Return whether a text begins as an address of the Hub does."""
    return _HOST.match(text) is not None


def meant(text: str) -> dict[str, str] | None:
    """Return the keys of a profile that say what an address says, None for what is no address of a repository.

    Addresses are `https://huggingface.co/owner/name/blob/main/file`, `hf.co/owner/name:QUANT`, `owner/name:QUANT`.
    """
    host = _HOST.match(text)
    at = _ADDRESS.fullmatch(re.split("[?#]", text[host.end() :])[0] if host else text)
    if at is None or not _is_repo(at["repo"]):
        return None
    file, revision = (unquote(at[part] or "") for part in ("file", "revision"))
    keys = {"model": at["repo"], "quant": at["quant"], "file": file if at["kind"] != "tree" else ""}
    keys["revision"] = revision if revision != "main" else ""
    return {key: value for key, value in keys.items() if value}


def revision(value: object) -> object:
    """Check a branch, tag or commit; 40 hex digits are a commit and final."""
    if not isinstance(value, str):
        raise wrong_type("text", value)
    if not _REVISION.fullmatch(value) or ".." in value or "//" in value:
        raise LmctlError("E-REVISION", f"'{escape(value, 80)}' is no branch, tag or commit")
    return value


def hub_file(value: object) -> object:
    """Check the path of a file inside a repository: relative, normalised, portable; globs are allowed."""
    if not isinstance(value, str):
        raise wrong_type("text", value)
    parts = value.split("/")
    bad = not value or invisible(value) or "\\" in value or ":" in value
    if bad or any(part in {"", ".", ".."} for part in parts):
        raise LmctlError(
            "E-PATH", f"'{escape(value, 80)}' must stay inside the repository", fix="write a/relative/path"
        )
    _refuse_long(value, MOST_RELATIVE)
    return value


def _refuse_long(path: str, most: int) -> None:
    if why := too_long(path, most):
        raise LmctlError("E-PATH", f"'{escape(path, 80)}' has {why}", fix="shorten it")


def local_path(value: object) -> object:
    """Check the spelling of a path on this machine; whether it may lead there is decided per layer."""
    if not isinstance(value, str):
        raise wrong_type("text", value)
    if not value or invisible(value) or "\\" in value:
        raise LmctlError("E-PATH", f"'{escape(value, 80)}' is no portable path", fix="write it with '/', on one line")
    _refuse_long(value, MOST_PATH if value.startswith("/") else MOST_RELATIVE)
    return value


def include(value: object) -> object:
    if not isinstance(value, str):
        raise wrong_type("text", value)
    path = PurePosixPath(value)
    if not value or path.is_absolute() or ".." in path.parts or "\\" in value or invisible(value):
        raise LmctlError("E-INCLUDE", f"'{escape(value, 80)}' leads out of the declaration's folder")
    return value


def env_name(value: object) -> object:
    if not isinstance(value, str) or not _ENV_NAME.fullmatch(value):
        raise LmctlError(
            "E-ENV", f"'{escape(str(value), 60)}' is no name of a variable", fix="use capitals, digits and '_'"
        )
    return value


def url(value: object) -> object:
    """Check an https address, or http to this machine, that nobody can read in two ways."""
    if not isinstance(value, str):
        raise wrong_type("text", value)
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    secure = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    odd = "@" in parts.netloc or not value.isascii() or invisible(value) or any(c in value for c in ' ?#\\"')
    if not host or not secure or odd:
        shown = "an address with a password" if "@" in value else f"'{escape(value.partition('?')[0], 80)}'"
        fix = "write an https address without password, query and spaces, or http to 127.0.0.1"
        raise LmctlError("E-RANGE", f"{shown} is refused", fix=fix)
    return value


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address(value: object) -> object:
    """Check the address to listen on: a number, since a host name may change its meaning."""
    if not isinstance(value, str):
        raise wrong_type("text", value)
    try:
        ipaddress.ip_address(value)
    except ValueError as error:
        raise LmctlError("E-BIND", f"'{escape(value, 60)}' is no IP address", fix='write "127.0.0.1"') from error
    return value
