"""What macOS's kernel answers by name, without the cost of a process."""

from __future__ import annotations

import ctypes
from typing import Any


def number(name: str, library: Any = None) -> int | None:
    """Return a number that sysctl knows, None where it does not; on Linux there is none."""
    answer = _asked(name, 8, library)
    return None if answer is None else int.from_bytes(answer.ljust(8, b"\0")[:8], "little")


def text(name: str, library: Any = None) -> str | None:
    """Return a text that sysctl knows, None where it does not."""
    answer = _asked(name, 256, library)
    return None if answer is None else answer.split(b"\0")[0].decode("ascii", "replace")


def _asked(name: str, size: int, library: Any) -> bytes | None:
    ask = getattr(ctypes.CDLL(None) if library is None else library, "sysctlbyname", None)
    value, length = ctypes.create_string_buffer(size), ctypes.c_size_t(size)
    if ask is None or ask(name.encode(), value, ctypes.byref(length), None, 0) != 0:
        return None
    return value.raw[: length.value]
