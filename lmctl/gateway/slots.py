"""What the application asks before it asks an engine: a slot of a profile that runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from lmctl.gateway.demand import Standing
from lmctl.gateway.keeper import Counts


class Slots(Protocol):
    """Slots of profiles, as `keeper.Keeper` has them. Who has entered, at once or after waiting, leaves once."""

    @property
    def counts(self) -> Mapping[str, Counts]: ...

    def states(self) -> Mapping[str, Standing]: ...

    def enter(self, name: str) -> bool: ...  # whether a slot was free, of an engine that is believed to run

    # until there is one; raises Refused 429 or 503. Cancelled: nobody waits any more
    async def wait(self, name: str) -> None: ...

    def leave(self, name: str) -> None: ...

    def lost(self, name: str) -> None: ...  # nothing listens where its engine should: who comes next waits for it
