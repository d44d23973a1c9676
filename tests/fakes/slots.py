"""Slots without a limit, of engines that somebody else starts: for tests of what comes after."""

from __future__ import annotations

from collections.abc import Mapping

from lmctl.gateway.demand import Standing
from lmctl.gateway.keeper import Counts


class Unbounded:
    """A slot for everybody, of engines that somebody else starts."""

    def __init__(self) -> None:
        self.counts: Mapping[str, Counts] = {}

    def states(self) -> Mapping[str, Standing]:
        """Nothing is known of them."""
        return {}

    def enter(self, name: str) -> bool:
        """Let everybody in."""
        return True

    async def wait(self, name: str) -> None:
        """There is nothing to wait for."""

    def leave(self, name: str) -> None:
        """Nothing is counted."""

    def lost(self, name: str) -> None:
        """Nothing is started."""
