"""Talks to the gateway that runs, so that a request waits while its engine is replaced instead of failing."""

from __future__ import annotations

import json
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lmctl import local_sockets

_CONNECT = 2.0  # seconds
_MORE = 5.0  # seconds for the answer beyond the time that was given for draining


class GatewayDesk:
    """The gateway of the state folder `folder`, if one runs."""

    def __init__(self, folder: Path) -> None:
        self._path = local_sockets.path(folder, "g")

    @contextmanager
    def drained(self, profiles: Collection[str], seconds: float) -> Iterator[None]:
        """See `host.Desk`."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            if profiles:
                with suppress(OSError):  # no gateway runs, or it ended: nobody is to be waited for
                    self._ask(client, profiles, seconds)
            yield

    def caught_up(self) -> None:
        """See `host.Desk`."""
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            self._say(client, b'{"follow": true}\n', _MORE)

    def _ask(self, client: socket.socket, profiles: Collection[str], seconds: float) -> None:
        told = json.dumps({"drain": sorted(profiles), "seconds": seconds}).encode() + b"\n"
        self._say(client, told, seconds + _MORE)

    def _say(self, client: socket.socket, told: bytes, patience: float) -> None:
        if not local_sockets.trusted(self._path):
            return
        client.settimeout(_CONNECT)
        client.connect(str(self._path))
        client.sendall(told)
        client.settimeout(patience)
        client.recv(1024)
