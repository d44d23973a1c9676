"""Other commands have the gateway hold requests back, for as long as they are there themselves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lmctl import local_sockets
from lmctl.gateway.control import Control
from lmctl.hosts.desk import GatewayDesk


class Kept:
    """What a keeper would be told; draining takes as long as `busy` says."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.busy = asyncio.Event()
        self.busy.set()

    async def drain(self, name: str, seconds: float) -> None:
        self.told.append(f"drain {name} {seconds:g}")
        await self.busy.wait()

    async def follow(self) -> None:
        self.told.append("follow")
        await self.busy.wait()

    def resume(self, name: str) -> None:
        self.told.append(f"resume {name}")


@pytest.fixture
def folder(home) -> Path:
    path = home / "s"
    path.mkdir(mode=0o700)
    return path


def controlled(folder: Path, work: Callable[[Kept, GatewayDesk], Awaitable[None]]) -> list[str]:
    async def main() -> list[str]:
        kept = Kept()
        control = Control(folder, kept, kept.follow)
        await control.open()
        try:
            await work(kept, GatewayDesk(folder))
            await until(lambda: sum("resume" in one for one in kept.told) == sum("drain" in one for one in kept.told))
        finally:
            control.close()
        return kept.told

    return asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


def test_F30_requests_are_held_back_as_long_as_an_engine_is_replaced(folder):
    async def work(kept: Kept, desk: GatewayDesk) -> None:
        def replace() -> None:
            with desk.drained(["code", "chat"], 30):
                kept.told.append("replaced")

        await asyncio.to_thread(replace)

    assert controlled(folder, work) == [
        "drain chat 30",
        "drain code 30",
        "replaced",
        "resume chat",
        "resume code",
    ]


def test_F30_nothing_is_replaced_while_something_is_under_way(folder):
    async def work(kept: Kept, desk: GatewayDesk) -> None:
        kept.busy.clear()

        def replace() -> None:
            with desk.drained(["chat"], 30):
                kept.told.append("replaced")

        replacing = asyncio.ensure_future(asyncio.to_thread(replace))
        await until(lambda: kept.told == ["drain chat 30"])
        kept.told.append("ended")
        kept.busy.set()
        await replacing

    assert controlled(folder, work) == ["drain chat 30", "ended", "replaced", "resume chat"]


@pytest.mark.parametrize("busy", [True, False])
def test_a_command_that_is_killed_holds_nobody_back(folder, busy):
    async def work(kept: Kept, desk: GatewayDesk) -> None:
        if busy:
            kept.busy.clear()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(local_sockets.path(folder, "g")))
            client.sendall(b'{"drain": ["chat"], "seconds": 30}\n')
            await until(lambda: bool(kept.told))

    assert controlled(folder, work) == ["drain chat 30", "resume chat"]


def test_a_profile_that_two_commands_hold_back_is_let_go_by_the_last(folder):
    async def work(kept: Kept, desk: GatewayDesk) -> None:
        def twice() -> None:
            with desk.drained(["chat"], 30):
                with desk.drained(["chat"], 30):
                    pass
                kept.told.append("one left")

        await asyncio.to_thread(twice)
        await until(lambda: "resume chat" in kept.told)
        kept.told.append("resume too")

    told = controlled(folder, work)
    assert told.index("one left") < told.index("resume chat")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\n",
        b"[]\n",
        b'{"drain": "chat", "seconds": 1}\n',
        b'{"drain": [1], "seconds": 1}\n',
        b'{"drain": ["chat"], "seconds": 1e99}\n',
        b'{"drain": ["chat"]}\n',
        b"x" * (1 << 17),
        b"[" * 60000 + b"\n",
    ],
)
def test_what_no_lmctl_says_does_nothing(folder, line):
    async def work(kept: Kept, desk: GatewayDesk) -> None:
        reader, writer = await asyncio.open_unix_connection(str(local_sockets.path(folder, "g")))
        writer.write(line)
        writer.write_eof()
        async with asyncio.timeout(30):
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
        writer.close()

    assert controlled(folder, work) == []


def test_a_command_waits_until_edits_are_followed(folder):
    async def work(kept: Kept, desk: GatewayDesk) -> None:
        kept.busy.clear()
        waiting = asyncio.ensure_future(asyncio.to_thread(desk.caught_up))
        await until(lambda: kept.told == ["follow"])
        assert not waiting.done()
        kept.busy.set()
        await waiting

    assert controlled(folder, work) == ["follow"]


def test_only_the_owner_gets_there(folder):
    async def work(kept: Kept, desk: GatewayDesk) -> None:
        mode = local_sockets.path(folder, "g").stat().st_mode
        assert stat.S_ISSOCK(mode) and stat.S_IMODE(mode) == 0o600

    controlled(folder, work)
    assert os.listdir(folder) == []


def test_where_no_gateway_runs_nobody_is_waited_for(folder):
    with GatewayDesk(folder).drained(["chat"], 30):
        pass
    GatewayDesk(folder).caught_up()
    local_sockets.path(folder, "g").touch()
    with GatewayDesk(folder).drained(["chat"], 30):
        pass


def test_a_socket_in_a_folder_of_others_is_nobodys(folder):
    folder.chmod(0o755)

    async def main() -> None:
        control = Control(folder, Kept(), Kept().follow)
        await control.open()
        assert os.listdir(folder) == []
        control.close()

    asyncio.run(main())
