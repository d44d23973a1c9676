"""What the application asks before it asks an engine: a slot of a profile that runs."""

from __future__ import annotations

from typing import Protocol


class Slots(Protocol):
    """Slots of profiles. Who has entered, at once or after waiting, leaves exactly once."""

    def enter(self, profile: str) -> bool: ...  # whether a slot was free, of an engine that is believed to run

    # until there is one; raises Refused 429 or 503. Cancelled: nobody waits any more
    async def wait(self, profile: str) -> None: ...

    def leave(self, profile: str) -> None: ...

    def lost(self, profile: str) -> None: ...  # nothing listens where its engine should: who comes next waits for it


class Unbounded:
    """A slot for everybody, of engines that somebody else starts."""

    def enter(self, profile: str) -> bool:
        return True

    async def wait(self, profile: str) -> None:
        """There is nothing to wait for."""

    def leave(self, profile: str) -> None:
        """Nothing is counted."""

    def lost(self, profile: str) -> None:
        """Nothing is started."""
