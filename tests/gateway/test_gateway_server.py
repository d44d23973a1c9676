"""The server's addresses and routes follow what is declared."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from lmctl.gateway import server


def test_edits_are_followed_also_after_a_look_at_them_failed_unexpectedly(monkeypatch):
    """A bug is reported, and ends nothing: the next edit is seen."""
    monkeypatch.setattr(server, "_LOOK", 0.01)
    state: Any = SimpleNamespace(addresses=(("127.0.0.1", 1),), drain=9.0)
    looks: list[Any] = [RuntimeError("a bug"), state]
    reported: list[str] = []

    def look() -> Any:
        found = looks.pop(0) if looks else None
        if isinstance(found, Exception):
            raise found
        return found

    async def nothing(*_: object) -> None:
        """Listen nowhere."""

    async def main() -> None:
        followed = asyncio.Event()

        async def follow(found: Any) -> None:
            assert found is state
            followed.set()

        asyncio.get_running_loop().set_exception_handler(lambda _, told: reported.append(str(told["exception"])))
        doors: Any = SimpleNamespace(started=True, listen=nothing, follow=nothing, shut={}, config=SimpleNamespace())

        async def pause(seconds: float) -> list[Any]:
            await asyncio.sleep(seconds)
            return []

        resident: Any = SimpleNamespace(follow=follow, pause=pause)
        front: Any = None
        following = asyncio.ensure_future(server._follow(resident, doors, state, front, look, reported.append))
        await asyncio.wait_for(followed.wait(), 10)
        following.cancel()

    asyncio.run(main())
    assert reported == ["a bug"]
