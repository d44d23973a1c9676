"""Who listens on a TCP port of this machine."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Iterable, Iterator

from lmctl.hosts import pids

_LISTEN = b"0A"  # the kernel's numbers of states
_BEFORE = (b"st", b"03")  # the headline, and half-open connections: older kernels show them among the listeners
_ANY = (ipaddress.ip_address("0.0.0.0"), ipaddress.ip_address("::"))  # noqa: S104 compared, not bound
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def listening(port: int, table: str) -> dict[int, Address]:
    """Return the listening sockets of a port, by inode, from a table of the kernel ("tcp", "tcp6"). Linux alone."""
    found = {}
    for line in _listeners(f"/proc/net/{table}"):
        address, _, number = line[1].partition(b":")
        if int(number, 16) == port:
            found[int(line[9])] = _address(address.decode())
    return found


def _listeners(path: str) -> Iterator[list[bytes]]:
    """Yield the fields of each listening socket.

    The kernel tells of these first, and then searches a table of connections that takes it milliseconds to walk: so
    little is read at a time, and no more after the first connection.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # no IPv6 here
        return
    try:
        rest = b""
        while chunk := os.read(descriptor, 256):
            *lines, rest = (rest + chunk).split(b"\n")
            for fields in map(bytes.split, lines):
                if fields[3] == _LISTEN:
                    yield fields
                elif fields[3] not in _BEFORE:
                    return
    finally:
        os.close(descriptor)


def _address(text: str) -> Address:
    """Return an address from the kernel's hexadecimal: 32-bit words in the machine's own byte order."""
    words = [int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8)]
    address = ipaddress.ip_address(b"".join(words))
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def in_the_way(port: int) -> list[int]:
    """Return the sockets that answer on the loopback addresses: what listens on another address alone does not."""
    sockets = listening(port, "tcp") | listening(port, "tcp6")
    return [inode for inode, address in sockets.items() if address in _ANY or address.is_loopback]


def answering(host: str, port: int) -> list[int]:
    """Return the sockets that a connection to `host` may reach: those bound to exactly that address come first."""
    own = ipaddress.ip_address(host)
    sockets: dict[int, Address] = {}
    for table in ("tcp", "tcp6") if own.version == 4 else ("tcp6",):
        sockets |= listening(port, table)
        if found := [inode for inode, bound in sockets.items() if bound == own]:
            return found
    return next((found for any_ in _ANY if (found := [i for i, bound in sockets.items() if bound == any_])), [])


def held_by(pid: int, inodes: Iterable[int]) -> set[int]:
    """Return those sockets that a process has open."""
    links = {f"socket:[{inode}]": inode for inode in inodes}
    found = set()
    try:
        with os.scandir(f"/proc/{pid}/fd") as entries:
            for entry in entries:
                try:
                    found.add(links.get(os.readlink(entry.path), 0))  # noqa: PTH115 no object for each of many
                except OSError:  # closed in the meantime
                    continue
    except OSError:
        pass
    return found - {0}


def belongs(host: str, port: int, root: int) -> bool | None:
    """Return whether what answers at `host` and `port` is `root` or a descendant; None when nothing listens."""
    if not pids.LINUX:
        return _belongs_psutil(port, root)
    wanted = set(answering(host, port))
    if not wanted:
        return None
    missing = wanted - held_by(root, wanted)
    if missing:  # seldom: an engine whose workers listen
        for pid in pids.tree(root):
            missing -= held_by(pid, missing)
    return not missing


def owner(port: int) -> tuple[bool, int | None]:
    """Return whether something on the loopback addresses listens on a port, and its pid where it can be known."""
    if not pids.LINUX:
        return _owner_psutil(port)
    inodes = in_the_way(port)
    if not inodes:
        return False, None
    return True, next((found.pid for found in pids.every() if held_by(found.pid, inodes)), None)


def busy(ports: range) -> frozenset[int]:
    """Return those of some ports at which something listens, at whatever address."""
    if not pids.LINUX:
        return frozenset(filter(_accepts, ports))
    lines = (line for table in ("tcp", "tcp6") for line in _listeners(f"/proc/net/{table}"))
    return frozenset(int(line[1].partition(b":")[2], 16) for line in lines).intersection(ports)


def _belongs_psutil(port: int, root: int) -> bool | None:
    if any(_listens(pid, port) for pid in pids.tree(root)):
        return True
    return False if _accepts(port) else None


def _owner_psutil(port: int) -> tuple[bool, int | None]:
    if not _accepts(port):
        return False, None
    return True, next((found.pid for found in pids.every() if _listens(found.pid, port)), None)


def _listens(pid: int, port: int) -> bool:
    library = pids.psutil()
    try:
        sockets = library.Process(pid).net_connections(kind="tcp")
    except (library.Error, OSError):  # another user's
        return False
    return any(item.status == library.CONN_LISTEN and item.laddr.port == port for item in sockets)


def _accepts(port: int) -> bool:
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.settimeout(1.0)
                probe.connect((host, port))
        except OSError:
            continue
        return True
    return False
