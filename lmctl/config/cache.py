"""The resolved Declaration of the last run, kept while every byte that it was made of stays the same."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from lmctl import __version__
from lmctl.config import codec
from lmctl.config.find import Request, included, own_files
from lmctl.config.reach import reach
from lmctl.errors import LmctlError, Place
from lmctl.paths import Folders, make_private, read_own, read_regular, write_atomic
from lmctl.record import NOTHING, replace
from lmctl.secret import LOOKS_SECRET, hidden
from lmctl.spec import Declaration, Hardware

_SHAPE = 4  # of an entry
_LIMIT = 64 << 20  # bytes of an entry
_INPUT_LIMIT = 1 << 20


def key(file: Path, request: Request, folders: Folders, environ: Mapping[str, str], hardware: Hardware) -> str:
    """Return the fingerprint of all that decides beside the bytes of files; it shows no value of the environment.

    `machine.toml` lies in one of the three folders, what is trusted in another, and `~` means the third: what they say
    is nothing elsewhere.
    """
    named = sorted((name, value) for name, value in environ.items() if name.startswith("LMCTL_") and "__" in name)
    where = (str(file), str(folders.config), str(folders.state), str(folders.home))
    said = (__version__, _SHAPE, where, request.sets, request.empty, named, hardware)
    return sha256(repr(said).encode("utf-8", "surrogatepass")).hexdigest()


def entry(folders: Folders, file: Path) -> Path:
    """Return where the Declaration of `file` is kept: one entry each, so the folder does not grow."""
    return folders.cache / "config" / f"{sha256(os.fsencode(file)).hexdigest()[:32]}.json"


def load(path: Path, wanted: str, file: Path) -> Declaration | None:
    """Return the kept Declaration, or None when there is none that still holds."""
    try:
        kept = json.loads(read_own(path, _LIMIT))
        contents = _unchanged(kept, file) if kept["key"] == wanted else None
        if contents is None:
            return None
        return replace(codec.declaration(kept["declaration"]), sources=own_files(file, kept["listing"], contents))
    except (OSError, LmctlError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None  # unreadable, foreign or of another shape: it is made anew


def save(path: Path, wanted: str, inputs: Mapping[str, Any], declaration: Declaration) -> None:
    """Keep a Declaration without secrets; a cache that cannot be written is no failure."""
    if any(hidden(dict(profile.changed)) != dict(profile.changed) for profile in declaration.profiles):
        return
    kept = {"key": wanted, **inputs, "declaration": codec.encode(replace(declaration, sources=NOTHING))}
    with contextlib.suppress(OSError, LmctlError, UnicodeEncodeError):
        make_private(path.parent)
        text = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
        if LOOKS_SECRET.search(text) is None:
            write_atomic(path, text.encode())


def _unchanged(kept: Mapping[str, Any], file: Path) -> dict[str, bytes] | None:
    """Return the content of every file that was read, None when anything is another one."""
    contents: dict[str, bytes] = {}
    for name, digest in kept["hashes"].items():
        if digest is None:
            if os.path.lexists(name):
                return None
            continue
        contents[name] = read_regular(Path(name), _INPUT_LIMIT)
        if sha256(contents[name]).hexdigest() != digest:
            return None
    root = str(file.parent)
    if any(reach(path, root) != leads for path, leads in kept["leads"].items()):
        return None
    listing: list[str] = kept["listing"]
    return contents if list(included(file.parent, kept["patterns"], Place(file.name))) == listing else None
