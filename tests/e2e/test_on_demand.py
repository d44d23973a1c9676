"""Models that requests start: the keeper at work on real programs, in a loop of the test's own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from e2e_tools import ask, exhaust, profile, until

from lmctl.acting import session
from lmctl.command import Options
from lmctl.compose import make_context
from lmctl.gateway.keeper import Keeper
from lmctl.gateway.programs import SessionPrograms
from lmctl.gateway.refused import Refused
from lmctl.spec import program_id

Test = Callable[["Gate"], Coroutine[Any, Any, None]]


class Gate:
    """What the gateway does for a request, without HTTP in front."""

    def __init__(self, machine, keeper, programs):
        self.machine, self.keeper, self.programs = machine, keeper, programs
        self.ports = {p.name: p.port for p in programs.session.declaration.profiles}

    async def request(self, name):
        """Return the model's answer to one chat message."""
        async with self.slot(name):
            return await asyncio.to_thread(ask, self.ports[name], "hi")

    @asynccontextmanager
    async def slot(self, name) -> AsyncIterator[None]:
        if not self.keeper.enter(name):
            await self.keeper.wait(name)
        try:
            yield
        finally:
            self.keeper.leave(name)

    async def refused(self, name):
        with pytest.raises(Refused) as caught:
            await self.request(name)
        return caught.value

    async def until(self, name, state):
        async with asyncio.timeout(120):
            while self.keeper.states()[name].state != state:
                await asyncio.sleep(0.02)

    def process(self, name):
        return self.programs.session.host.supervisor.observe().processes[program_id(name)]


def kept(machine, test: Test) -> None:
    """Run `test` with a keeper of the machine's declaration."""
    context = make_context(Options(machine.folder), machine.env(), "never")

    async def whole() -> None:
        programs = SessionPrograms(session(context))
        keeper = Keeper(programs)
        keeper.follow(*programs.rules())
        try:
            async with asyncio.timeout(400):
                await test(Gate(machine, keeper, programs))
        finally:
            await keeper.close()
            programs.close()

    asyncio.run(whole())


def declare(machine, port, more="", **keys):
    """Two on-demand profiles with words of their own, applied."""
    for name in ("one", "two"):
        machine.hello(f"I am {name}.", f"{name}.gguf")
    keys = {"start": "on-demand", **keys}
    machine.declare("".join(profile(n, path=f"{n}.gguf", port=port(), **keys) for n in ("one", "two")) + more)
    machine.run("apply")


def generations(machine):
    return [row["id"] for row in machine.run("history", "--json").data["generations"]]


def memory_for_one(machine):
    """Let this machine's owner keep so much memory that one of the tiny models fits, and not two."""
    context = make_context(Options(machine.folder), machine.env(), "never")
    config = machine.home / ".config/lmctl"
    config.mkdir(parents=True, exist_ok=True)
    (config / "machine.toml").write_text(f"[memory]\nreserve = {context.hardware().ram - 1_500_000}\n")


def test_requests_side_by_side_start_each_model_once_and_nothing_is_recorded(machine, port):
    declare(machine, port)
    before = generations(machine)

    async def test(gate):
        assert {one.state for one in gate.keeper.states().values()} == {"asleep"}
        names = ["one", "two"] * 4
        answers = await asyncio.gather(*(gate.request(name) for name in names))
        assert answers == [f"I am {name}." for name in names]
        assert {name: counts.starts for name, counts in gate.keeper.counts.items()} == {"one": 1, "two": 1}
        assert [gate.process(name).starts for name in ("one", "two")] == [1, 1]

    kept(machine, test)
    assert generations(machine) == before
    assert machine.profiles()["one"]["state"] == "healthy", "what runs goes on without the gateway"
    assert machine.run("plan", "--detailed-exitcode", code=0)


def test_a_model_that_idles_is_stopped_and_a_request_wakes_it_again(machine, port):
    declare(machine, port, ttl="1s")

    async def test(gate):
        assert await gate.request("one") == "I am one."
        await gate.until("one", "asleep")
        assert gate.process("one").state == "STOPPED"
        assert await gate.request("one") == "I am one."
        assert (gate.keeper.counts["one"].starts, gate.keeper.counts["one"].ttl_stops) == (2, 1)

    kept(machine, test)


def test_what_does_not_fit_beside_another_takes_its_place(machine, port):
    declare(machine, port)
    memory_for_one(machine)

    async def test(gate):
        await gate.request("one")
        assert await gate.request("two") == "I am two."
        assert {name: one.state for name, one in gate.keeper.states().items()} == {"one": "asleep", "two": "ready"}
        answers = await asyncio.gather(*(gate.request(name) for name in ("one", "two", "one", "two")))
        assert answers == ["I am one.", "I am two."] * 2
        assert gate.keeper.counts["one"].evictions >= 1

    kept(machine, test)


def test_members_of_an_exclusive_group_change_places_and_requests_in_flight_end_first(machine, port):
    declare(machine, port, '[groups.pair]\nmembers = ["one", "two"]\n')

    async def test(gate):
        async with gate.slot("one"):
            other = asyncio.ensure_future(gate.request("two"))
            await gate.until("one", "draining")
            assert await asyncio.to_thread(ask, gate.ports["one"], "hi") == "I am one."
        assert await other == "I am two."
        assert gate.process("one").state == "STOPPED"

    kept(machine, test)


def test_F83_an_engine_that_is_killed_runs_again_for_the_next_request(machine, port):
    declare(machine, port)

    async def test(gate):
        async with gate.slot("one"):
            killed = gate.process("one").pid
            os.kill(killed, signal.SIGKILL)
            with contextlib.suppress(OSError):
                await asyncio.to_thread(ask, gate.ports["one"], "hi")
            gate.keeper.lost("one")
        assert await gate.request("one") == "I am one."
        assert gate.process("one").pid != killed

    kept(machine, test)


def test_F75_an_engine_that_fails_is_told_with_its_last_words_and_tried_again_later(machine, port):
    config = machine.home / ".config/lmctl"
    config.mkdir(parents=True)
    (config / "machine.toml").write_text('[allow]\nteam = ["command"]\n')
    words = ["sh", "-c", "echo no room for the model >&2; exit 1"]
    machine.declare(profile("one", backend="command", command=words, port=port(), start="on-demand"))
    machine.run("apply")

    async def test(gate):
        waiting = [asyncio.ensure_future(gate.refused("one")) for _ in range(3)]
        await asyncio.to_thread(exhaust, machine, "one")
        for told in await asyncio.gather(*waiting):
            assert (told.status, told.code) == (503, "start_failed")
            assert "no room for the model" in told.message and "`lmctl logs one`" in told.message
        again = await gate.refused("one")
        assert "no room for the model" in again.message and dict(again.headers)["Retry-After"] == "1"
        assert gate.keeper.counts["one"].failures == 1

    kept(machine, test)


def test_what_a_person_stopped_is_started_by_a_person_alone(machine, port):
    declare(machine, port)

    async def test(gate):
        await gate.request("one")
        await asyncio.to_thread(machine.run, "stop", "one")
        gate.keeper.lost("one")
        told = await gate.refused("one")
        assert (told.code, "`lmctl start one`" in told.message) == ("model_held", True)
        await asyncio.to_thread(machine.run, "start", "one")
        gate.keeper.lost("one")
        await gate.until("one", "ready")
        assert await gate.request("one") == "I am one."

    kept(machine, test)


@pytest.mark.parametrize("start", ["always", "manual"])
def test_a_request_neither_starts_nor_stops_what_is_not_on_demand(machine, port, start):
    machine.hello()
    machine.declare(
        profile("fixed", path="hello.gguf", port=port(), start=start)
        + profile("free", path="hello.gguf", port=port(), start="on-demand")
        + '[groups.pair]\nmembers = ["fixed", "free"]\n'
    )
    machine.run("apply")
    machine.run("stop", "fixed")

    async def test(gate):
        told = await gate.refused("fixed")
        assert (told.code, "`lmctl start fixed`" in told.message) == ("model_not_running", True)
        await asyncio.to_thread(machine.run, "start", "fixed")
        told = await gate.refused("free")
        assert (told.code, "fixed runs in the place of free" in told.message) == ("rival_runs", True)
        assert await gate.request("fixed") == "Hello from here."

    kept(machine, test)


def test_weights_that_are_not_here_are_not_fetched_for_a_request(machine, port):
    declare(machine, port)
    machine.folder.joinpath("one.gguf").unlink()

    async def test(gate):
        told = await gate.refused("one")
        assert (told.code, "`lmctl apply one`" in told.message) == ("start_failed", True)
        assert await gate.request("two") == "I am two."

    kept(machine, test)


def test_a_gateway_that_is_gone_leaves_what_it_started_and_the_next_one_finds_it(machine, port):
    declare(machine, port, ttl="2s")

    async def first(gate):
        await gate.request("one")

    async def second(gate):
        await gate.until("one", "ready")
        await gate.until("one", "asleep")
        assert (gate.keeper.counts["one"].starts, gate.keeper.counts["one"].ttl_stops) == (0, 1)

    kept(machine, first)
    until(lambda: machine.profiles()["one"]["state"] == "healthy")
    kept(machine, second)
