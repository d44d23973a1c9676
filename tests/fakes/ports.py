"""Ports of loopback that nobody else is given: between the choice of a free one and its use, another would take it.

Each process claims blocks of ports by listening on their first one for as long as it lives. They lie below those that
the kernel gives to connections and to whoever asks for any port, and below lmctl's own `engine_ports`.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator

_FIRST, _LAST, _BLOCK = 12_000, 28_000, 100
_claims: list[socket.socket] = []


def _free() -> Iterator[int]:
    """Yield every port once that nobody listens on."""
    blocks = (_LAST - _FIRST) // _BLOCK
    for index in range(blocks):
        block = _FIRST + (os.getpid() + index) % blocks * _BLOCK
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", block))
            claim.listen()
        except OSError:  # another process of the tests has it
            claim.close()
            continue
        _claims.append(claim)
        yield from filter(_unused, range(block + 1, block + _BLOCK))


def _unused(port: int) -> bool:
    with socket.socket() as probe, contextlib.suppress(OSError):
        probe.bind(("127.0.0.1", port))
        return True
    return False


_ports = _free()


def free_port() -> int:
    """Return a loopback port that nobody listens on, and that no other test gets."""
    return next(_ports)


def free_range(count: int) -> tuple[int, int]:
    """Return the first and the last of `count` such ports in a row."""
    row = [free_port()]
    while len(row) < count:
        port = free_port()
        row = [*row, port] if port == row[-1] + 1 else [port]
    return row[0], row[-1]
