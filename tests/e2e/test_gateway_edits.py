"""What is under way stays under way: engines are replaced, ports move, profiles go, and nobody's request is lost."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from e2e_tools import listening, profile, until
from fakes.llama_server import install, set_mode

SAID: dict[str, Any] = {"model": "one", "messages": [{"role": "user", "content": "Hello"}]}


class Asking(threading.Thread):
    """One request in a thread of its own; `body` grows as the answer comes."""

    def __init__(self, port: int, **more: Any) -> None:
        super().__init__(daemon=True)
        self.port, self.said, self.status, self.body = port, {**SAID, **more}, 0, b""
        self.start()

    def run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        connection.request("POST", "/v1/chat/completions", json.dumps(self.said), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        self.status = answer.status
        while part := answer.read1(4096):
            self.body += part
        connection.close()

    def ended(self) -> bytes:
        self.join(120)
        assert not self.is_alive()
        return self.body


class Fronted:
    """A gateway before stand-in engines; `long` streams go on until `finish`."""

    def __init__(self, machine: Any, port: int, program: Any) -> None:
        self.machine, self.port, self._program = machine, port, program

    def finish(self) -> None:
        set_mode(self._program, None)

    def flows(self, stream: Asking) -> bool:
        """Whether more of a stream comes."""
        before = len(stream.body)
        return bool(until(lambda: len(stream.body) > before + 200))

    def gateway(self) -> int:
        (row,) = self.machine.run("status", "--json").data["services"]
        return int(row["pid"])

    def declare(self, **keys: Any) -> None:
        self.machine.declare(profile("one", path="hello.gguf", **{"parallel": 4, **keys}) + EXTRA)


EXTRA = profile("two", path="hello.gguf", start="manual")


@pytest.fixture
def fronted(machine: Any) -> Iterator[Fronted]:
    folder = machine.home / "bin"
    folder.mkdir()
    program = install(folder)
    set_mode(program, "long_stream")
    machine.environ["PATH"] = f"{folder}:{machine.env()['PATH']}"
    machine.hello()
    found = Fronted(machine, machine.gateway(), program)
    found.declare()
    machine.run("apply")
    yield found
    found.finish()


def pid(fronted: Fronted, name: str = "one") -> int:
    return int(fronted.machine.profiles()[name]["pid"])


def test_F30_F31_an_engine_is_replaced_once_its_streams_ended_and_who_asks_meanwhile_waits_for_it(fronted):
    stream = Asking(fronted.port, stream=True)
    assert fronted.flows(stream)
    before = pid(fronted)
    fronted.declare(ctx=2048)
    with fronted.machine.start("apply") as applying:
        late = Asking(fronted.port)
        assert fronted.flows(stream) and pid(fronted) == before
        fronted.finish()
        assert stream.ended().endswith(b"data: [DONE]\n\n")
        out, err = applying.communicate(timeout=120)
    assert applying.returncode == 0, out + err
    late.ended()
    assert (late.status, b"Hello from one." in late.body) == (200, True)
    assert pid(fronted) != before


def test_F30_a_stream_of_a_profile_that_is_removed_has_its_time_and_is_then_told_so(fronted):
    fronted.machine.environ["LMCTL_GATEWAY__DRAIN_TIMEOUT"] = "1s"
    fronted.machine.run("apply")  # the gateway is told of it
    stream = Asking(fronted.port, stream=True)
    assert fronted.flows(stream)
    fronted.machine.declare(EXTRA)
    fronted.machine.run("apply")
    assert b'"upstream_error"' in stream.ended().rpartition(b"data: ")[2]
    after = Asking(fronted.port)
    after.ended()
    assert after.status == 404


def test_a_stream_goes_on_while_the_ports_of_gateway_and_profile_move(fronted, port: Callable[[], int]):
    first, own, new = port(), port(), port()
    del fronted.machine.environ["LMCTL_GATEWAY__PORT"]  # the file says it
    local = fronted.machine.folder / "localmodels.local.toml"
    local.write_text(f"[gateway]\nport = {first}\n")
    fronted.machine.run("apply")
    stream = Asking(first, stream=True)
    assert fronted.flows(stream)
    before = pid(fronted), fronted.gateway()
    local.write_text(f"[gateway]\nport = {new}\n")
    fronted.declare(port=own)
    fronted.machine.run("apply")
    until(lambda: listening(own) and listening(new) and not listening(first))
    assert fronted.flows(stream)
    assert (pid(fronted), fronted.gateway()) == before, "nothing restarts for it"
    other = Asking(own, model="whatever it is called")
    other.ended()
    assert (other.status, b"Hello from one." in other.body) == (200, True)
    fronted.finish()
    assert stream.ended().endswith(b"data: [DONE]\n\n")


def test_what_is_started_or_declared_anew_is_known_when_the_command_ends(fronted):
    fronted.finish()
    fronted.declare(start="on-demand")
    fronted.machine.run("apply")
    fronted.machine.run("stop", "one")
    held = Asking(fronted.port)
    held.ended()
    assert (held.status, b"model_held" in held.body) == (503, True)
    fronted.machine.run("start", "one")
    back = Asking(fronted.port)
    back.ended()
    assert back.status == 200, back.body
    file = fronted.machine.folder / "localmodels.toml"
    file.write_text(file.read_text() + profile("three", path="hello.gguf"))
    fronted.machine.run("apply")
    new = Asking(fronted.port, model="three")
    new.ended()
    assert new.status == 200, new.body


def test_F75_an_engine_that_was_killed_is_waited_for_also_where_no_request_starts_it(fronted):
    fronted.finish()
    os.kill(pid(fronted), signal.SIGKILL)
    late = Asking(fronted.port)
    late.ended()
    assert late.status == 200, late.body


def test_a_port_that_is_taken_leaves_the_gateway_where_it_is(fronted, port: Callable[[], int]):
    fronted.finish()
    first, taken = fronted.port, port()
    local = fronted.machine.folder / "localmodels.local.toml"
    del fronted.machine.environ["LMCTL_GATEWAY__PORT"]
    local.write_text(f"[gateway]\nport = {first}\n")
    fronted.machine.run("apply")
    with socket.create_server(("127.0.0.1", taken)):
        local.write_text(f"[gateway]\nport = {taken}\n")
        log = fronted.machine.state() / "logs/gateway.log"
        until(lambda: f"cannot listen on 127.0.0.1:{taken}" in log.read_text())
        still = Asking(first)
        still.ended()
        assert still.status == 200
    until(lambda: listening(taken) and not listening(first))


def test_stop_lets_what_is_under_way_end(fronted):
    stream = Asking(fronted.port, stream=True)
    assert fronted.flows(stream)
    with fronted.machine.start("stop", "one") as stopping:
        assert fronted.flows(stream)
        fronted.finish()
        stopping.communicate(timeout=120)
    assert stopping.returncode == 0
    assert stream.ended().endswith(b"data: [DONE]\n\n")
