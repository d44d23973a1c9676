"""What a run ends that an earlier one began."""

from __future__ import annotations

import pytest
import worlds
from worlds import artifact, case, owned, profile

from lmctl import recording
from lmctl.ledger import Memory
from lmctl.record import replace
from lmctl.resource import Case, Scope

CODE = artifact("code")
EVERY, CHAT = frozenset({"code", "chat"}), frozenset({"chat"})


def rolled_back(touched: frozenset[str], scope: Scope) -> Case:
    """Return a case in which a rollback that touched some profiles holds."""
    memory = Memory((owned(CODE),), {}, {}, {}, rolled_back=touched, in_force=1)
    declared = (profile("code"), profile("chat", weights=worlds.wanted("code")))
    seen = case(*declared, artifacts=(CODE,), here=(CODE,), rows=(owned(CODE),), memory=memory)
    return replace(seen, scope=scope)


@pytest.mark.parametrize("touched", [frozenset(), frozenset({"code"}), EVERY], ids=["none", "one", "all"])
@pytest.mark.parametrize(
    ("scope", "ends"),
    [
        (Scope(), {"none", "one", "all"}),
        (Scope(names=CHAT), {"none", "all"}),
        (Scope(names=CHAT, run=CHAT), {"all"}),
        (Scope(exclude=CHAT), {"none", "one", "all"}),
        (Scope(only="prune"), set()),
    ],
    ids=["apply", "apply-chat", "start-chat", "apply-without-chat", "prune"],
)
def test_a_rollback_ends_by_an_apply_or_by_starting_what_it_touched(touched, scope, ends):
    name = {0: "none", 1: "one", 2: "all"}[len(touched)]
    assert recording.nothing(rolled_back(touched, scope)) == (name not in ends)
