"""Small questions that end-to-end tests ask of a running server and of a command that ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import psutil

from lmctl import launch
from lmctl.spec import program_id

HELLO = '[profiles.hello]\npath = "hello.gguf"\nstart = "manual"\n'
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def ask(port: int, prompt: str) -> str:
    """Return what the model on `port` answers to one chat message."""
    body = json.dumps({"messages": [{"role": "user", "content": prompt}], "max_tokens": 32}).encode()
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    with _OPENER.open(request, timeout=120) as answer:
        return str(json.load(answer)["choices"][0]["message"]["content"])


def listening(port: int) -> str | None:
    """Return the address on which somebody listens at `port`, None when nobody does."""
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            return str(connection.laddr.ip)
    return None


def listeners(process: psutil.Process) -> list[Any]:
    """Return the addresses that a process listens on, over IPv4 and IPv6; none of one that is gone."""
    try:
        return [one for one in process.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    except psutil.Error:
        return []


def until(condition: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Return the first true value of `condition`; fail when there is none in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("it did not happen in time")


def exhaust(machine: Any, name: str) -> None:
    """Wait until a program crashed, then note as many starts of it as there may be: it saves the pauses between."""
    path = str(machine.state() / "starts" / program_id(name))
    until(lambda: launch.count(launch.read_starts(path), launch.clock()) >= 2)
    launch.update(path, lambda records: [*records, *records[-1:] * launch.LIMIT])


# A shell's terminal: the command leads a session of its own whose terminal is standard input.
_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""


def on_terminal(machine: Any, *words: str) -> tuple[subprocess.Popen[bytes], int]:
    """Start lmctl on a terminal of its own; return the process and the terminal's other side."""
    ours, its = os.openpty()
    argv = [sys.executable, "-c", _TERMINAL, sys.executable, "-m", "lmctl", *words]
    process = subprocess.Popen(argv, cwd=machine.folder, env=machine.env(), stdin=its, stdout=its, stderr=its)
    os.close(its)
    return process, ours


# lmctl that waits behind one of its functions for a file, after it made another one
_PAUSED = """
import importlib, sys, time
from pathlib import Path
from lmctl import cli
place, at, go, *words = sys.argv[1:]
module, _, name = place.rpartition(".")
module = importlib.import_module(module)
real = getattr(module, name)
def paused(*given, **named):
    found = real(*given, **named)
    Path(at).touch()
    while not Path(go).exists():
        time.sleep(0.01)
    return found
setattr(module, name, paused)
sys.exit(cli.main(words))
"""


@contextmanager
def paused(machine: Any, place: str, *words: str) -> Iterator[Callable[[], SimpleNamespace]]:
    """Start lmctl and wait until it has called the function at `place`; what this yields lets it go on to its end."""
    at, go = machine.home / "paused", machine.home / "go-on"
    argv = [sys.executable, "-c", _PAUSED, place, str(at), str(go), *words]
    streams: Any = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(argv, cwd=machine.folder, env=machine.env(), **streams) as process:

        def ended() -> SimpleNamespace:
            go.touch()
            out, err = process.communicate(timeout=120)
            return SimpleNamespace(code=process.returncode, out=out, err=err)

        try:
            until(lambda: at.exists() or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            yield ended
        finally:
            process.kill()


def daemons(machine: Any) -> list[int]:
    """Return the pids of every supervisord of this home."""
    found = []
    for process in machine.processes():
        try:
            if "supervisor.supervisord" in process.cmdline():
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def profile(name: str, **keys: Any) -> str:
    """Return the TOML of a profile; its keys' values are those of JSON."""
    return "\n".join([f"[profiles.{name}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])


def outcomes(data: dict[str, Any]) -> dict[str, str]:
    """Return by address how each change of an `apply --json` ended."""
    addresses = {change["id"]: change["address"] for change in data["changes"]}
    return {addresses.get(each["id"], each["id"]): each["state"] for each in data["outcomes"]}


def error(ran: Any) -> str:
    """Return the one line on stderr."""
    (line,) = ran.err.splitlines()
    assert line.startswith("error[")
    return str(line)


# root without the right to pass over permissions, which would hide what may not be done
_DROPPED = "-dac_override,-dac_read_search"
HUMBLE = ["setpriv", f"--inh-caps={_DROPPED}", f"--bounding-set={_DROPPED}"] if os.geteuid() == 0 else []


def humbly(machine: Any, *words: str) -> SimpleNamespace:
    """Run lmctl to its end as somebody to whom permissions apply."""
    argv = [*HUMBLE, sys.executable, "-m", "lmctl", *words]
    done = subprocess.run(argv, cwd=machine.folder, env=machine.env(), capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr
    return SimpleNamespace(code=done.returncode, out=done.stdout, err=done.stderr)
