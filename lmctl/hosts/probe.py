"""Asks a program over HTTP whether it serves, and whether it is the program that it should be."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading
from collections.abc import Callable

from lmctl.errors import escape
from lmctl.hosts import sockets
from lmctl.spec import Health, Probe
from lmctl.trace import asking

TIMEOUT = 3.0  # seconds for one request, from connecting to the last byte
_BODY_LIMIT = 1 << 20
_LOADING = 503


def probe(listen: str, how: Probe, root: int | None, describe: Callable[[int], str], key: str = "") -> Health:
    """Return the health of the program that should listen on `listen` ("127.0.0.1:8081").

    It is healthy when the socket belongs to the process `root` or a descendant (not asked when None), `how.health`
    answers 200 and the model list holds `how.expect`. Nothing is sent to anybody else's socket. `describe` names who
    listens on a port; `key` is shown to an engine that demands one.
    """
    host, port = _split(listen)
    if root is not None:
        ours = sockets.belongs(host, port, root)
        if ours is None:
            return Health("down", f"nothing listens on {listen}")
        if not ours:
            return Health("wrong", f"port {port} is held by {describe(port)}")
    health = _unless_200(_get(host, port, how.health, key), how.health)
    if health is None and how.models is not None and how.expect is not None:
        health = _identity(_get(host, port, how.models, key), how.models, how.expect)
    return health or Health("healthy")


def page(listen: str, path: str, root: int | None) -> str | None:
    """Return what the program on `listen` answers to GET `path`, None where that is no 200; asks as `probe` does."""
    host, port = _split(listen)
    if root is not None and not sockets.belongs(host, port, root):
        return None
    answer = _get(host, port, path)
    return answer[1].decode("utf-8", "replace") if isinstance(answer, tuple) and answer[0] == 200 else None


def _split(listen: str) -> tuple[str, int]:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    # what listens everywhere is asked on the loopback address
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host), int(port)  # noqa: S104


def _identity(answer: tuple[int, bytes] | Health, path: str, expect: str) -> Health | None:
    if problem := _unless_200(answer, path):
        return problem
    assert isinstance(answer, tuple)
    try:
        models = [model["id"] for model in json.loads(answer[1])["data"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return Health("wrong", f"{path} is no list of models")
    if expect in models or (expect.startswith("/") and os.path.realpath(expect) in models):
        return None
    shown = ", ".join(escape(str(model), 60) for model in models[:3]) or "nothing"
    return Health("wrong", f"it serves {shown} instead of {escape(expect, 60)}")


def _unless_200(answer: tuple[int, bytes] | Health, path: str) -> Health | None:
    if isinstance(answer, Health):
        return answer
    if answer[0] == _LOADING:
        return Health("loading", "the model is being loaded")
    return None if answer[0] == 200 else Health("down", f"{path} answers {answer[0]}")


def _get(host: str, port: int, path: str, key: str = "") -> tuple[int, bytes] | Health:
    """Return status and body, or why there is none. Neither proxies nor redirects are followed."""
    connection = http.client.HTTPConnection(host, port, timeout=TIMEOUT)
    late = threading.Event()
    try:
        connection.connect()
        timer = _deadline(connection.sock, late)
        try:
            with asking(f"GET http://{host}:{port}{path}") as ended:
                shown = {"Authorization": f"Bearer {key}"} if key else {}
                connection.request("GET", path, headers={"Connection": "close", **shown})
                response = connection.getresponse()
                status, body = response.status, response.read(_BODY_LIMIT)
                ended(status)
        finally:
            timer.cancel()
    except ConnectionRefusedError:
        return Health("down", f"nothing listens on {host}:{port}")
    except (http.client.HTTPException, OSError, ValueError) as error:
        if isinstance(error, TimeoutError):
            late.set()
        if not late.is_set():
            return Health("down", f"{path} answers with no HTTP ({escape(type(error).__name__)})")
    finally:
        connection.close()
    return Health("down", f"{path} does not answer within {TIMEOUT:g} s") if late.is_set() else (status, body)


def _deadline(sock: socket.socket, late: threading.Event) -> threading.Timer:
    """Cut the connection after the whole time, because a byte now and then would keep it open for ever."""

    def cut() -> None:
        late.set()
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(TIMEOUT, cut)
    timer.daemon = True
    timer.start()
    return timer
