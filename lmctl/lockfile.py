"""localmodels.lock: read it, write it in its one form, and keep a parsed copy for quick plans."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import get_args

from lmctl import __version__
from lmctl.errors import LmctlError, escape
from lmctl.paths import make_private, read_regular, write_atomic
from lmctl.spec import Artifact, Json, Lock, LockedFile, Role

COMMITTED, LOCAL = "localmodels.lock", "localmodels.local.lock"
UNDECLARED = "undeclared.lock"  # in the state folder: what runs undeclared is no business of the declaration's

_LIMIT = 8 << 20  # bytes; some 8,000 artifacts
_HEADER = "# Written by `lmctl lock`. Do not edit.\nversion = 1\n"
_ORDER = {role: number for number, role in enumerate(get_args(Role))}
_BARE = re.compile(r"[A-Za-z0-9_-]+")


def read(path: Path) -> Lock:
    """Return the lock at `path`, an empty one when there is no such file.

    Raises E-LOCK, E-LOCK-NEWER and E-HASH with file and line, E-FILE, E-PERM and E-LIMIT for the file itself.
    """
    content = _content(path)
    return Lock() if content is None else _parse(content, path)


def read_cached(path: Path, cache: Path) -> Lock:
    """Return what `read` returns; the parsed form is kept in the folder `cache` for as long as the bytes stay."""
    content = _content(path)
    if content is None:
        return Lock()
    key = hashlib.sha256(f"{__version__}\n".encode() + content).hexdigest()
    copy = cache / f"lock-{hashlib.sha256(os.fsencode(path)).hexdigest()[:12]}.json"
    known = _cached(copy, key)
    if known is not None:
        return known
    lock = _parse(content, path)
    try:
        make_private(cache)
        write_atomic(copy, json.dumps({"key": key, "artifacts": _plain(lock)}).encode())
    except (LmctlError, OSError):
        return lock  # a cache that cannot be written makes the next run slower, nothing else
    return lock


def write(path: Path, lock: Lock, mode: int = 0o644) -> bool:
    """Make `path` hold `lock`; return whether its bytes changed. An empty lock creates no file.

    Raises E-SPACE, E-PERM and E-IO; the old file is then untouched.
    """
    content, before = render(lock).encode(), _content(path)
    if content == before or (before is None and not lock.artifacts):
        return False
    write_atomic(path, content, mode)
    return True


def render(lock: Lock) -> str:
    """Return the one text form of `lock`: equal locks give equal bytes on every machine."""
    return "\n".join([_HEADER, *(_artifact(lock.artifacts[name]) for name in sorted(lock.artifacts))])


def merged(committed: Lock, local: Lock) -> Lock:
    """Return both locks as one; what the committed one holds wins."""
    return Lock({**local.artifacts, **committed.artifacts})


def in_order(files: tuple[LockedFile, ...]) -> tuple[LockedFile, ...]:
    """Return files as a lock lists them: by role, weights first, then by path."""
    return tuple(sorted(files, key=lambda file: (_ORDER[file.role], file.path)))


def _content(path: Path) -> bytes | None:
    return read_regular(path, _LIMIT) if os.path.lexists(path) else None


def _parse(content: bytes, path: Path) -> Lock:
    from lmctl.lock_reader import parse  # tomllib and the checks: not needed while the parsed copy is good

    return parse(content, path.name)


def _artifact(artifact: Artifact) -> str:
    lines = ["[[artifact]]", _line("id", artifact.id), _line("format", artifact.format)]
    if artifact.commit is not None:
        lines.append(_line("commit", artifact.commit))
    if artifact.shape:
        lines.append(_line("shape", dict(artifact.shape)))
    for file in in_order(artifact.files):
        lines += ["[[artifact.file]]", _line("path", file.path), _line("role", file.role)]
        lines += [_line("size", file.size), _line("sha256", file.sha256)]
        if file.blob is not None:
            lines.append(_line("blob", file.blob))
    return "\n".join(lines) + "\n"


def _line(key: str, value: Json) -> str:
    return f"{key:<8} = {_value(value)}"


def _value(value: Json) -> str:
    match value:
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            return _text(value)
        case list():
            return f"[{', '.join(_value(item) for item in value)}]"
        case dict():
            # plain keys first: what names the architecture stands before the dotted details
            keys = sorted(value, key=lambda key: (_BARE.fullmatch(key) is None, key))
            return f"{{ {', '.join(f'{_key(key)} = {_value(value[key])}' for key in keys)} }}"
        case None:
            raise TypeError("TOML knows no null")


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _text(text: str) -> str:
    """Return a TOML basic string; what a reviewer could not see is written as an escape."""
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(_escaped(ord(c)) if ord(c) > 0x7E and escape(c) != c else c for c in quoted)


def _escaped(code: int) -> str:
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _plain(lock: Lock) -> Json:
    return [
        [a.id, a.format, a.commit, dict(a.shape), [[f.path, f.role, f.size, f.sha256, f.blob] for f in a.files]]
        for a in lock.artifacts.values()
    ]


def _cached(copy: Path, key: str) -> Lock | None:
    """Return the parsed copy, None when there is none for these bytes or it is damaged."""
    try:
        stored = json.loads(read_regular(copy, 4 * _LIMIT))
        return _lock(stored["artifacts"]) if stored["key"] == key else None
    except (LmctlError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _lock(rows: list[tuple[str, ...]]) -> Lock:
    artifacts: Mapping[str, Artifact] = {
        name: Artifact(name, form, commit, shape, tuple(LockedFile(*file) for file in files))  # type: ignore[arg-type]
        for name, form, commit, shape, files in rows
    }
    return Lock(artifacts)
