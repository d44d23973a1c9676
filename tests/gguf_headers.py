"""Headers of GGUF files written piece by piece, and how one is read or refused."""

from __future__ import annotations

import struct
import tracemalloc

import pytest
from weights.hello import encoded, text

from lmctl.errors import LmctlError
from lmctl.gguf import Header, read_header

ARRAY, BOOL, STRING, UINT32, UINT64 = 9, 7, 8, 4, 10
GOOD = {"general.architecture": "llama", "llama.block_count": 1}
GEMMA = {"n_embd": 64, "n_layer": 7, "n_head": 4, "n_head_kv": 1, "n_ff": 128, "vocab": 400, "head_dim": 32}


class Bytes:
    """A source that remembers what was asked of it; `size` may be unknown, or a lie."""

    def __init__(self, raw: bytes, size: int | None = None) -> None:
        self.raw, self.size = raw, size
        self.asked: list[tuple[int, int]] = []

    def read(self, start: int, length: int) -> bytes:
        self.asked.append((start, length))
        return self.raw[start : start + length]


def read(raw: bytes) -> Header:
    return read_header(Bytes(raw, len(raw)), "m.gguf")


def refused(raw: bytes) -> str:
    """Return the one line with which the header is refused, known size or not, within 50 MB."""
    lines = []
    for size in (len(raw), None):
        tracemalloc.start()
        try:
            with pytest.raises(LmctlError) as caught:
                read_header(Bytes(raw, size), "m.gguf")
            assert tracemalloc.get_traced_memory()[1] < 50 << 20
        finally:
            tracemalloc.stop()
        assert caught.value.code == "E-GGUF" and caught.value.exit_code == 6
        assert all(problem.fix for problem in caught.value.problems)
        lines.append(str(caught.value))
        assert "\n" not in lines[-1] and lines[-1].isprintable() and len(lines[-1]) < 500
    return lines[0]


def raw_header(keys: list[bytes], tensors: list[bytes] = (), count: int | None = None, version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys) if count is None else count)
    raw = head + b"".join(keys) + b"".join(tensors)
    return raw + bytes(-len(raw) % 32)


def key(name: str, value: object) -> bytes:
    return text(name) + encoded(value)


def array(name: str, kind: int, count: int, data: bytes = b"") -> bytes:
    return text(name) + struct.pack("<IIQ", ARRAY, kind, count) + data


def tensor(name: str, dims: list[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)
