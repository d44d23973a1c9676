"""The report of a defect: what a maintainer needs of an exception that nobody foresaw, without names and secrets."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from lmctl import __version__
from lmctl.errors import LmctlError
from lmctl.paths import Folders, make_private, read_regular, write_atomic
from lmctl.redact import Redactor, tokens
from lmctl.spec import Json

_GLOB = "crash-*.json"
_KEPT = 10  # reports
_LIMIT = 1 << 20  # bytes of one


def write(environ: Mapping[str, str], command: str, error: BaseException) -> Path | None:
    """Write the report of `error` into the state folder; return its path, None where nothing can be written there."""
    home = environ.get("HOME", "")
    if not home.startswith("/"):
        return None
    folders = Folders.of(environ, Path(home))
    report: dict[str, Json] = {
        "schema": "crash/1",
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "lmctl": __version__,
        "python": sys.version,
        "system": [os.uname().sysname, os.uname().release, os.uname().machine],
        "command": command,
        "traceback": [*_lines(error)],
    }
    name = f"crash-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.json"
    path = folders.state / name
    try:
        make_private(folders.state)
        redactor = Redactor(environ, folders.home, tokens(environ, folders))
        write_atomic(path, json.dumps(redactor.plain(report), indent=1).encode() + b"\n")
        for old in reports(folders)[_KEPT:]:
            old.unlink(missing_ok=True)
    except (LmctlError, OSError):
        return None
    return path


def reports(folders: Folders) -> list[Path]:
    """Return the reports, the latest first; none of a folder that may not be looked into."""
    with contextlib.suppress(PermissionError):
        return sorted(folders.state.glob(_GLOB), reverse=True)
    return []


def read(path: Path) -> Json:
    """Return what a report holds, None where it cannot be read."""
    try:
        content: Json = json.loads(read_regular(path, _LIMIT))
    except (LmctlError, ValueError, RecursionError):
        return None
    return content


def _lines(error: BaseException) -> list[str]:
    """Return the traceback, a line each, causes included; no value of any variable is in it but in messages."""
    text = "".join(traceback.format_exception(error, limit=50))
    return text.splitlines()[-500:]
