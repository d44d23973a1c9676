"""What a Hub claims, checked before anything is written: commits, etags, file names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from lmctl.errors import LmctlError, escape
from lmctl.hosts.answers import Asked
from lmctl.portable import MOST_RELATIVE, too_long


def checked_hub(headers: Mapping[str, str] | None, asked: Asked) -> str:
    """Return the etag that the Hub gives a file; raises E-HUB when commit or etag are not what a Hub says."""
    held = headers or {}
    if "X-Repo-Commit" not in held and "html" in held.get("Content-Type", ""):
        raise no_hub(asked.host)
    commit = checked_commit(held.get("X-Repo-Commit"))
    if commit != asked.revision:
        what = f"{asked.host} answers with commit {commit[:12]} when asked for {asked.revision[:12]}"
        raise LmctlError("E-HUB", what, fix="check the Hub's address")
    return checked_etag(held.get("X-Linked-Etag") or held.get("ETag"))


def no_hub(host: str) -> LmctlError:
    """Return the error of an address that answers something else: a login page of the network, a wrong address."""
    fix = "log in to the network, or correct the address"
    return LmctlError("E-HUB", f"{host} is not a Hugging Face endpoint", fix=fix)


def checked_commit(commit: object) -> str:
    """Return `commit` when it is 40 lowercase hex digits; raises E-HUB."""
    if isinstance(commit, str) and re.fullmatch(r"[0-9a-f]{40}", commit):
        return commit
    raise LmctlError("E-HUB", f"the Hub names a commit that is none: {shown(commit)}", fix="check the Hub's address")


def checked_etag(etag: object) -> str:
    """Return `etag` without its quotes when it is 40 or 64 lowercase hex digits; raises E-HUB."""
    match = re.fullmatch(r'"?([0-9a-f]{40}|[0-9a-f]{64})"?', etag) if isinstance(etag, str) else None
    if match and (str(etag)[0] == '"') == (str(etag)[-1] == '"'):
        return match[1]
    raise LmctlError("E-HUB", f"the Hub names an etag that is none: {shown(etag)}", fix="check the Hub's address")


def checked_name(path: object) -> str:
    """Return `path` when it stays inside its repository on every system; raises E-HUB."""
    if isinstance(path, str) and path and "\0" not in path:
        parts = path.split("/")
        plain = "\\" not in path and path == str(PurePosixPath(path)) and not path.startswith("/")
        if plain and not {".", ".."} & set(parts):
            if why := too_long(path, MOST_RELATIVE):
                raise LmctlError("E-HUB", f"the Hub names a file with {why}: {shown(path)}", fix="do not use this repo")
            return path
    raise LmctlError("E-HUB", f"the Hub names a file that leaves its folder: {shown(path)}", fix="do not use this repo")


def shown(value: object) -> str:
    """Return a foreign value, short and safe to print."""
    return "nothing" if value is None else escape(str(value)[:400], 80)
