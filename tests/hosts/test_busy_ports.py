"""Ports at which somebody listens are told from those that are free."""

from __future__ import annotations

import socket

from fakes.ports import free_range

from lmctl.hosts import sockets


def test_ports_are_busy_at_whatever_address_somebody_listens() -> None:
    first, last = free_range(4)
    ports = range(first, last + 1)
    assert sockets.busy(ports) == frozenset()
    with socket.create_server(("127.0.0.1", first)), socket.create_server(("0.0.0.0", last)):
        assert sockets.busy(ports) == {first, last}
    assert sockets.busy(range(0)) == frozenset()
