"""Numbers and texts as macOS's kernel would give them."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from lmctl.hosts import sysctl


class Kernel:
    """Answers as the C function does: 0 and the bytes of what it knows, -1 for the rest."""

    def __init__(self, known: Mapping[str, bytes]) -> None:
        self.known = known

    def sysctlbyname(self, name: bytes, value: Any, length: Any, new: None, new_length: int) -> int:
        answer = self.known.get(name.decode())
        size = ctypes.cast(length, ctypes.POINTER(ctypes.c_size_t)).contents
        if answer is None or len(answer) > size.value:
            return -1
        ctypes.memmove(value, answer, len(answer))
        size.value = len(answer)
        return 0


KERNEL = Kernel({
    "hw.memsize": (48 << 30).to_bytes(8, "little"),
    "hw.physicalcpu": (12).to_bytes(4, "little"),
    "kern.bootsessionuuid": b"1F0C-22\0",
})  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"), [("hw.memsize", 48 << 30), ("hw.physicalcpu", 12), ("hw.perflevel0.physicalcpu", None)]
)
def test_numbers_of_either_width(name: str, value: int | None) -> None:
    assert sysctl.number(name, KERNEL) == value


def test_texts_end_where_c_ends_them() -> None:
    assert sysctl.text("kern.bootsessionuuid", KERNEL) == "1F0C-22"
    assert sysctl.text("kern.nothing", KERNEL) is None


@pytest.mark.skipif(sys.platform == "darwin", reason="sysctlbyname is there")
def test_a_system_without_it_knows_nothing() -> None:
    assert (sysctl.number("hw.memsize"), sysctl.text("kern.bootsessionuuid")) == (None, None)
