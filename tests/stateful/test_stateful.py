"""Edits, faults and commands in any order: after each step what is promised holds, and one apply heals everything.

`pytest -n 0 tests/stateful --hypothesis-profile=long` tries many more orders, others in every run.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from fakes.hub import Hub
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from kinds import why_not
from stateful import faults
from stateful.witness import Witness
from stateful.world import CONTEXTS, LOCAL, NAMES, WEIGHTS, Entry, Way, World, to_its_end

_LONG = settings.get_current_profile_name() == "long"
_SETTINGS = settings(
    max_examples=400 if _LONG else 4,
    stateful_step_count=25 if _LONG else 20,
    derandomize=not _LONG,
    database=None,
    deadline=None,
    phases=[Phase.generate],  # an example takes seconds, and its story tells enough: to make it smaller takes hours
    suppress_health_check=list(HealthCheck),
)

names, contexts, weights = st.sampled_from(NAMES), st.sampled_from(CONTEXTS), st.sampled_from(sorted(WEIGHTS))
moments = st.floats(0.02, 2.0).map(faults.killed_after)


def ways() -> st.SearchStrategy[Way]:
    """Return how an apply may be run: to its end, killed at a moment, struck at a system call, on a full disk."""
    found: list[st.SearchStrategy[Way]] = [st.just(to_its_end), st.just(to_its_end), moments]
    if why_not("strace") is None:
        strikes = [(strike, call) for strike, calls in faults.AT.items() for call in calls]
        found.append(st.builds(lambda at, n: faults.struck(*at, n), st.sampled_from(strikes), st.integers(1, 40)))
    if faults.mounting() is None:
        found.append(st.integers(0, 24).map(faults.on_full_disk))
    return st.one_of(found)


class Anything(RuleBasedStateMachine):
    """What people, machines and the Hub may do to a declaration, in any order."""

    def __init__(self) -> None:
        super().__init__()
        folder = Path(tempfile.mkdtemp(prefix="st"))
        self.world = World(folder, Hub())
        self.witness = Witness(self.world)
        self.mounted = False

    @initialize()
    def begin(self) -> None:
        """Two profiles run: one of a local file, one of the Hub."""
        self.world.home.mkdir()
        if faults.mounting() is None:
            faults.mount(self.world.home)
            self.mounted = True
        self.world.furnish()
        self.world.declare(ada=Entry("one", self.world.free_port(), 512))
        self.world.declare(**self.world.declared, bob=Entry("keep", self.world.free_port(), 512))
        self.witness.run("apply")

    # edits of the declaration

    @rule(data=st.data(), ctx=contexts)
    def edit(self, data: st.DataObject, ctx: int) -> None:
        self.world.change(self.one(data), ctx=ctx)

    @rule(data=st.data(), remark=st.sampled_from(["tuned for code", "do not touch"]))
    def remark(self, data: st.DataObject, remark: str) -> None:
        self.world.change(self.one(data), remark=remark)

    @rule(data=st.data(), other=weights)
    def exchange_weights(self, data: st.DataObject, other: str) -> None:
        self.world.change(self.one(data), weights=other)

    @rule(name=names, asked=weights, ctx=contexts)
    def add(self, name: str, asked: str, ctx: int) -> None:
        if name not in self.world.declared:
            self.world.declare(**self.world.declared, **{name: Entry(asked, self.world.free_port(), ctx)})

    @precondition(lambda self: len(self.world.declared) > 1)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        gone = self.one(data)
        self.world.declare(**{name: entry for name, entry in self.world.declared.items() if name != gone})

    @rule(data=st.data(), to=names)
    def rename(self, data: st.DataObject, to: str) -> None:
        before = self.one(data)
        if to not in self.world.declared:
            entries = self.world.declared.items()
            self.world.declare(**{to if name == before else name: entry for name, entry in entries})

    # what happens behind lmctl's back

    @rule(asked=weights, how=st.sampled_from(["delete", "delete content", "flip", "flip unseen"]))
    def spoil(self, asked: str, how: str) -> None:
        if how == "delete content" and asked in LOCAL:
            return
        faults.spoil(self.world, asked, how)

    @rule(how=st.sampled_from(sorted(faults.EDITS)))
    def edit_conf(self, how: str) -> None:
        if faults.edit_conf(self.world, how):
            planned = self.world.machine.run("plan", "--detailed-exitcode", code=None)
            assert planned.code == 2, f"nobody told of it: {planned}"

    @rule()
    def kill_supervisord(self) -> None:
        faults.kill_supervisord(self.world)

    @rule(how=st.sampled_from([None, *sorted(faults.HUBS)]))
    def hub(self, how: str | None) -> None:
        self.world.misbehave(faults.HUBS[how] if how else None)

    # commands

    @rule(way=ways())
    def apply(self, way: Way) -> None:
        self.witness.run("apply", way=way)

    @rule(data=st.data(), word=st.sampled_from(["start", "stop"]), way=ways())
    def start_or_stop(self, data: st.DataObject, word: str, way: Way) -> None:
        self.witness.run(word, self.one(data), way=way)

    @rule(way=ways())
    def down(self, way: Way) -> None:
        self.witness.run("down", way=way)

    @rule(way=ways())
    def prune(self, way: Way) -> None:
        self.witness.run("prune", "--now", "--yes", way=way)

    @rule(back=st.integers(0, 5), way=ways())
    def rollback(self, back: int, way: Way) -> None:
        known = self.world.generations()
        if back < len(known):
            self.witness.run("rollback", str(known[-1 - back]), "--yes", way=way)

    @precondition(lambda self: not self.world.settled)
    @rule()
    def heal(self) -> None:
        self.witness.settled()

    # what holds after each step

    @invariant()
    def holds(self) -> None:
        if self.world.declared:
            self.witness.holds()

    def one(self, data: st.DataObject) -> str:
        """Draw one of the declared profiles."""
        return data.draw(st.sampled_from(sorted(self.world.declared)))

    def teardown(self) -> None:
        """End with all healed and applied; whatever comes of that, everything is gone afterwards."""
        try:
            if sys.exc_info()[0] is None and self.world.declared:
                self.witness.settled()
        finally:
            if self.mounted:
                faults.unmount(self.world.home)
            self.world.close()


def test_whatever_happens_what_is_promised_holds_and_one_apply_heals():
    run_state_machine_as_test(Anything, settings=_SETTINGS)
