"""The keys that clients of the gateway must show: read from a file that its owner alone can read, kept as digests."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lmctl.errors import LmctlError, escape
from lmctl.paths import read_regular

_LIMIT = 1 << 20  # bytes of the file
_SHORTEST = 16  # characters of a key: what is shorter can be guessed


def read(path: Path) -> frozenset[bytes]:
    """Return the sha256 digests of the keys in a file, one per line, `#` begins a comment.

    Raises E-PERM where others may read it, E-FILE, E-SECRET for a key that is too short; a key is never shown.
    """
    text = read_regular(path, _LIMIT).decode("utf-8", "replace")
    if path.stat().st_mode & 0o077:
        raise LmctlError("E-PERM", f"{escape(str(path))} can be read by others", fix=f"chmod 600 {escape(str(path))}")
    lines = [line.strip() for line in text.splitlines()]
    keys = [line for line in lines if line and not line.startswith("#")]
    if not keys:
        raise LmctlError("E-SECRET", f"{escape(str(path))} holds no key", fix="write one per line")
    if any(len(key) < _SHORTEST for key in keys):
        what = f"{escape(str(path))} holds a key of less than {_SHORTEST} characters"
        raise LmctlError("E-SECRET", what, fix="make one: openssl rand -hex 32")
    return frozenset(hashlib.sha256(key.encode()).digest() for key in keys)
