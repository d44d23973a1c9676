"""Edits, faults and commands in any order: after each step what is promised holds, and one apply heals everything.

`pytest -n 0 tests/stateful --hypothesis-profile=long` tries many more orders, others in every run.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fakes.hub import Hub
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from kinds import why_not
from stateful import faults
from stateful.witness import Witness
from stateful.world import CONTEXTS, NAMES, WEIGHTS, Entry, Way, World, to_its_end

_LONG = settings.get_current_profile_name() == "long"
_SETTINGS = settings(
    max_examples=400 if _LONG else 5,
    stateful_step_count=25 if _LONG else 20,
    derandomize=not _LONG,
    database=None,
    deadline=None,
    phases=[Phase.generate],  # an example takes seconds, and its story tells enough: to make it smaller takes hours
    suppress_health_check=list(HealthCheck),
)

Draw = Callable[[st.SearchStrategy[Any]], Any]


def ways() -> st.SearchStrategy[Way]:
    """Return how lmctl may be run: to its end, killed at a moment, struck at a system call, on a full disk."""
    found: list[st.SearchStrategy[Way]] = [st.just(to_its_end)] * 3  # what is there more than once is drawn more often
    found += [st.integers(1, 90).map(lambda n: faults.killed_after(n / 60))] * 2
    if why_not("strace") is None:
        places = [(strike, *place) for strike, calls in faults.AT.items() for place in calls.items()]
        found.append(st.builds(_struck, st.sampled_from(places), st.floats(0, 1)))
    if faults.mounting() is None:
        found.append(st.integers(0, 24).map(faults.on_full_disk))
    return st.one_of(found)


def _struck(place: tuple[str, str, int], at: float) -> Way:
    strike, call, times = place
    return faults.struck(strike, call, 1 + round(at * (times - 1)))


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

    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """Do one thing of all. A rule for each would leave most of them out: hypothesis lets few into one example."""
        edits = [self.remark, self.tune, self.tune, self.exchange_weights, self.add, self.remove, self.rename]
        meddling = [self.spoil, self.edit_conf, self.lose_declaration, self.kill_supervisord, self.change_the_hub]
        commands = [self.start_or_stop, self.rollback, self.prune, self.down, self.heal_and_apply, self.watch]
        data.draw(st.sampled_from([*edits, *meddling, *[self.apply] * 6, *commands]))(data.draw)

    # commands, most of them run in any way

    def apply(self, draw: Draw) -> None:
        flags = draw(st.sampled_from([(), ("--prune", "--yes"), ("--no-prune",)]))
        self.witness.run("apply", *flags, way=draw(ways()))

    def start_or_stop(self, draw: Draw) -> None:
        self.witness.run(draw(st.sampled_from(["start", "stop"])), self.one(draw), way=draw(ways()))

    def rollback(self, draw: Draw) -> None:
        back, known = draw(st.integers(0, 4)), self.world.generations()
        way = draw(ways())
        if back < len(known):
            self.witness.run("rollback", str(known[-1 - back]), "--yes", way=way)

    def prune(self, draw: Draw) -> None:
        self.witness.run("prune", "--now", "--yes", way=draw(ways()))

    def down(self, draw: Draw) -> None:
        self.witness.run("down", way=draw(ways()))

    def watch(self, _: Draw) -> None:
        self.witness.run("watch", way=faults.watched)

    def heal_and_apply(self, _: Draw) -> None:
        self.witness.settled()

    # edits of the declaration

    def tune(self, draw: Draw) -> None:
        self.world.change(self.one(draw), ctx=draw(st.sampled_from(CONTEXTS)))

    def remark(self, draw: Draw) -> None:
        self.world.change(self.one(draw), remark=draw(st.sampled_from(["tuned for code", "do not touch"])))

    def exchange_weights(self, draw: Draw) -> None:
        self.world.change(self.one(draw), weights=draw(st.sampled_from(sorted(WEIGHTS))))

    def add(self, draw: Draw) -> None:
        name, asked = draw(st.sampled_from(NAMES)), draw(st.sampled_from(sorted(WEIGHTS)))
        if name not in self.world.declared:
            self.world.declare(**self.world.declared, **{name: Entry(asked, self.world.free_port(), 512)})

    def remove(self, draw: Draw) -> None:
        gone = self.one(draw)
        if len(self.world.declared) > 1:
            self.world.declare(**{name: entry for name, entry in self.world.declared.items() if name != gone})

    def rename(self, draw: Draw) -> None:
        before, to = self.one(draw), draw(st.sampled_from(NAMES))
        if to not in self.world.declared:
            entries = self.world.declared.items()
            self.world.declare(**{to if name == before else name: entry for name, entry in entries})

    # what happens behind lmctl's back

    def spoil(self, draw: Draw) -> None:
        asked, how = draw(st.sampled_from(sorted(WEIGHTS))), draw(st.sampled_from(faults.SPOILS))
        faults.spoil(self.world, asked, how)

    def edit_conf(self, draw: Draw) -> None:
        if faults.edit_conf(self.world, draw(st.sampled_from(sorted(faults.EDITS)))) and not self.world.unread:
            planned = self.world.machine.run("plan", "--detailed-exitcode", code=None)
            assert planned.code == 2, f"nobody told of it: {planned}"

    def lose_declaration(self, draw: Draw) -> None:
        faults.lose_declaration(self.world, draw(st.sampled_from(["gone", "empty", "half written"])))

    def kill_supervisord(self, _: Draw) -> None:
        faults.kill_supervisord(self.world)

    def change_the_hub(self, draw: Draw) -> None:
        how = draw(st.sampled_from([None, *sorted(faults.HUBS)]))
        self.world.misbehave(faults.HUBS[how] if how else None)

    # what holds after each step

    @invariant()
    def holds(self) -> None:
        if self.world.declared:
            self.witness.holds()

    def one(self, draw: Draw) -> str:
        """Draw one of the declared profiles."""
        return str(draw(st.sampled_from(sorted(self.world.declared))))

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
