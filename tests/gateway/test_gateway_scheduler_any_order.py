"""Requests, disconnects, starts, crashes, edits and people in any order: what the scheduler promises at any time."""

from __future__ import annotations

from collections import Counter

from desk import SOLO, Desk
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lmctl.gateway.demand import Admit, Policy, Refuse, Start, Stop
from lmctl.record import replace

NAMES = ("a", "b", "c", "d", "e")
names = st.sampled_from(NAMES)
KINDS = st.sampled_from(["on-demand", "on-demand", "on-demand", "always", "manual"])
SIZES = {"a": 4, "b": 2, "c": 1, "d": 3, "e": 2}


class Machine(RuleBasedStateMachine):
    """Five profiles on a machine of numbers; `there` is what really runs, starting ones included."""

    def __init__(self):
        super().__init__()
        policies = {name: replace(SOLO, slots=2, queue=3) for name in NAMES}
        self.desk = Watched(policies, memory=6, **SIZES)

    # requests

    @rule(name=names)
    def ask(self, name):
        self.desk.ask(name)

    @rule(name=names, count=st.integers(2, 8))
    def crowd(self, name, count):
        for _ in range(count):
            self.desk.ask(name)

    @precondition(lambda self: self.desk.using.total())
    @rule(data=st.data())
    def leave(self, data):
        self.desk.leave(data.draw(st.sampled_from(sorted(self.desk.using.elements()))))

    @precondition(lambda self: self.desk.waits)
    @rule(data=st.data())
    def disconnect(self, data):
        ticket = data.draw(st.sampled_from(sorted(self.desk.waits)))
        self.desk.give_up(self.desk.waits[ticket], ticket)

    # programs

    @precondition(lambda self: self.desk.starts)
    @rule(data=st.data(), well=st.booleans())
    def start_ends(self, data, well):
        name = data.draw(st.sampled_from(self.desk.starts))
        self.desk.up(name) if well else self.desk.fails(name)

    @precondition(lambda self: self.desk.stops)
    @rule(data=st.data(), well=st.sampled_from([True, True, False]))
    def stop_ends(self, data, well):
        name = data.draw(st.sampled_from(self.desk.stops))
        self.desk.down(name) if well else self.desk.stays(name)

    @precondition(lambda self: self.desk.running)
    @rule(data=st.data(), noticed=st.booleans())
    def crash(self, data, noticed):
        name = data.draw(st.sampled_from(sorted(self.desk.running)))
        if name not in self.desk.stops:
            del self.desk.running[name]
            if noticed:
                self.desk.scheduler.lost(name, self.desk.now)
                self.desk.heed()

    @rule(name=names, state=st.sampled_from(["loading", "ready"]))
    def person_starts(self, name, state):
        """`lmctl start` makes room for itself: it stops rivals."""
        if name not in self.desk.starts and name not in self.desk.stops:
            for rival in self.desk.policies.get(name, SOLO).rivals & self.desk.running.keys():
                if rival not in self.desk.stops:
                    del self.desk.running[rival]
            if not self.desk.policies.get(name, SOLO).rivals & {*self.desk.running, *self.desk.starts}:
                self.desk.running[name] = state
                self.desk.meddled = True
                self.desk.look()
                self.desk.heed()

    @precondition(lambda self: "loading" in self.desk.running.values())
    @rule()
    def loading_ends(self):
        self.desk.running = dict.fromkeys(self.desk.running, "ready")

    # people

    @rule(name=names, kind=KINDS, slots=st.integers(1, 3), queue=st.integers(0, 3), ttl=st.integers(1, 50))
    def edit(self, name, kind, slots, queue, ttl):
        old = self.desk.policies.get(name, SOLO)
        rivals = frozenset(other for other, its in self.desk.policies.items() if name in its.rivals)
        policy = Policy(kind, ttl, slots, queue, rivals, old.load_timeout)
        self.desk.meddled = self.desk.meddled or kind != old.kind
        self.desk.follow(**{name: policy})

    @rule(one=names, other=names)
    def exclude(self, one, other):
        there = {*self.desk.running, *self.desk.starts}
        if one != other and {one, other} <= self.desk.policies.keys() and not {one, other} <= there:
            for name, rival in ((one, other), (other, one)):
                old = self.desk.policies[name]
                self.desk.policies[name] = replace(old, rivals=old.rivals | {rival})
            self.desk.follow()

    @rule(name=names)
    def remove(self, name):
        if self.desk.policies.pop(name, None):
            for other, its in self.desk.policies.items():
                self.desk.policies[other] = replace(its, rivals=its.rivals - {name})
            self.desk.follow()

    @rule(memory=st.sampled_from([3, 6, 9, None]))
    def memory(self, memory):
        self.desk.memory, self.desk.meddled = memory, True
        self.desk.follow()

    @rule(name=names, seconds=st.integers(1, 30))
    def drain(self, name, seconds):
        self.desk.scheduler.drain(name, self.desk.now + seconds, self.desk.now)
        self.desk.heed()

    @rule(name=names)
    def resume(self, name):
        self.desk.scheduler.resume(name, self.desk.now)
        self.desk.heed()

    @rule(seconds=st.integers(1, 90))
    def time(self, seconds):
        self.desk.after(seconds)

    # what is promised

    @invariant()
    def counts_agree(self):
        standing = self.desk.scheduler.states()
        for name, one in standing.items():
            assert one.in_flight == self.desk.using[name]
            assert one.waiting == sum(held == name for held in self.desk.waits.values())

    @invariant()
    def nobody_waits_beside_a_free_slot(self):
        for name, one in self.desk.scheduler.states().items():
            if one.state == "ready" and one.waiting:
                assert one.in_flight >= self.desk.policies[name].slots

    @invariant()
    def nobody_waits_for_ever(self):
        self.desk.note()
        for ticket, name in self.desk.waits.items():
            if self.desk.scheduler.states()[name].state != "ready":
                since = max(self.desk.came[ticket], self.desk.last_open[name])
                assert self.desk.now <= since + self.desk.policies[name].load_timeout

    def teardown(self):
        """From here on all goes well: everybody is served or refused, and everything goes to sleep."""
        desk = self.desk
        for name in NAMES:
            desk.scheduler.resume(name, desk.now)
            desk.heed()
        for _ in range(2000):
            for name in [*desk.starts]:
                desk.up(name)
            for name in [*desk.stops]:
                desk.down(name)
            for name in [*desk.using.elements()]:
                desk.leave(name)
            if not (desk.waits or desk.starts or desk.stops or desk.using.total()):
                break
            desk.after(1)
        assert not desk.waits, "somebody waits for ever"
        desk.after(200)
        for name in [*desk.stops]:
            desk.down(name)
        awake = {name for name, one in desk.scheduler.states().items() if one.state in ("ready", "draining")}
        assert not {name for name in awake if desk.policies[name].kind == "on-demand"}
        assert all(name in desk.policies or not desk.using[name] for name in NAMES)


class Watched(Desk):
    """A desk at which every effect is held to what may be done at that moment."""

    def __init__(self, *given, **named):
        self.using = Counter()  # requests in flight, by profile
        self.waits = {}  # ticket -> profile, in order of arrival
        self.came = {}  # ticket -> when
        self.last_open = Counter()  # when each profile was last seen ready
        self.meddled = False  # a person started or edited something: memory and rivals are theirs to mind
        super().__init__(*given, **named)

    def ask(self, name):
        if self.scheduler.enter(name):
            self.entered(name)
            assert not any(held == name for held in self.waits.values()), "it overtook somebody"
            return 0
        ticket = self.scheduler.wait(name, self.now)
        self.waits[ticket], self.came[ticket] = name, self.now
        self.heed()
        return ticket

    def entered(self, name):
        self.using[name] += 1
        assert self.using[name] <= self.policies[name].slots
        assert self.scheduler.states()[name].state == "ready"

    def leave(self, name):
        self.using[name] -= 1
        super().leave(name)

    def give_up(self, name, ticket):
        del self.waits[ticket]
        super().give_up(name, ticket)

    def stays(self, name):
        """A stop failed."""
        self.stops.remove(name)
        self.scheduler.stopped(name, self.now, done=False)
        self.heed()

    def follow(self, **policies):
        self.policies.update(policies)
        super().follow()

    def heed(self):
        self.note()
        super().heed()
        self.note()

    def note(self):
        for name, one in self.scheduler.states().items():
            if one.state == "ready":
                self.last_open[name] = self.now

    def do(self, effect):
        if isinstance(effect, Start):
            self.starts_well(effect.name)
        if isinstance(effect, Stop):
            policy = self.policies[effect.name]
            assert policy.kind == "on-demand", "pinned ones are never stopped"
            assert not self.using[effect.name], "no stop while in flight"
            assert effect.name not in self.stops
        if isinstance(effect, Admit | Refuse):
            name = self.waits.pop(effect.ticket)  # KeyError: it was ended before
            if isinstance(effect, Admit):
                assert effect.ticket < min((t for t, held in self.waits.items() if held == name), default=1 << 60)
                self.using[name] += 1
                assert self.using[name] <= self.policies[name].slots
        super().do(effect)

    def starts_well(self, name):
        assert name not in self.starts, "one start at a time"
        assert self.policies[name].kind == "on-demand"
        known = {n for n, one in self.scheduler.states().items() if one.state != "asleep" and n != name}
        assert not self.policies[name].rivals & known, "members of a group never run together"
        if not self.meddled:
            there = {*self.running, *self.starts, *self.stops}
            assert not self.policies[name].rivals & (there - {name})
            assert self.fits(frozenset({*known, name})) is not False, "what runs fits"


TestAnyOrder = Machine.TestCase
TestAnyOrder.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
