"""A token that every end-to-end test runs with, and the search for it in all that lmctl leaves."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

TOKEN = "hf_CANARY0123456789abcdefghijklmnopq"
_MARK = b"hf_CANARY"  # a part of it would be a leak as well
_PIECE = 1 << 20  # bytes read at once


def in_files(folder: Path) -> Iterator[str]:
    """Yield the regular files below `folder` that hold the token or whose name does: state, logs, databases, caches."""
    for top, _, names in os.walk(folder):
        for name in names:
            path = Path(top, name)
            if _MARK in os.fsencode(name) or (path.is_file() and not path.is_symlink() and _holds(path)):
                yield str(path)


def _holds(path: Path) -> bool:
    tail = b""
    try:
        with path.open("rb") as file:
            while piece := file.read(_PIECE):
                if _MARK in tail + piece:
                    return True
                tail = piece[-len(_MARK) :]
    except PermissionError:  # a test took the right away; root reads everything
        return False
    return False


def in_processes(processes: Iterable[psutil.Process]) -> Iterator[str]:
    """Yield the processes that carry the token in their argv, or in an environment that lmctl made."""
    for process in processes:
        try:
            argv, environ = process.cmdline(), process.environ()
            started_here = process.ppid() == os.getpid()  # lmctl itself, which is given the token
        except psutil.Error:
            continue
        said = " ".join([*argv, *([] if started_here else environ.values())])
        if _MARK in os.fsencode(said):
            yield f"{process.pid}: {argv}"


def in_texts(texts: Iterable[str]) -> Iterator[str]:
    """Yield what was printed and holds the token."""
    return (text for text in texts if _MARK.decode() in text)
