"""Which model starts, stops and makes way, and which request is let through."""

from __future__ import annotations

import pytest
from desk import SOLO, Desk

from lmctl.gateway.demand import Policy
from lmctl.record import replace


def pair(**keys):
    return {"a": replace(SOLO, **keys), "b": replace(SOLO, **keys)}


def rivals():
    return {"a": replace(SOLO, rivals=frozenset({"b"})), "b": replace(SOLO, rivals=frozenset({"a"}))}


# starting


def test_the_first_request_starts_a_sleeping_model_once_however_many_wait():
    desk = Desk({"a": replace(SOLO, slots=2)})
    tickets = [desk.ask("a") for _ in range(4)]
    assert (desk.starts, [desk.code(t) for t in tickets]) == (["a"], ["waits"] * 4)
    desk.up("a")
    assert [desk.code(t) for t in tickets] == ["admitted", "admitted", "waits", "waits"]


def test_requests_beyond_slots_and_queue_are_refused_at_once():
    desk = Desk({"a": replace(SOLO, slots=1, queue=2)})
    tickets = [desk.ask("a") for _ in range(4)]
    assert [desk.code(t) for t in tickets] == ["waits", "waits", "waits", "queue_full"]
    why = desk.ended[tickets[3]]
    assert why is not None and (why.status, why.retry) == (429, 1.0)


def test_a_slot_that_is_given_back_goes_to_whoever_waits_longest():
    desk = Desk({"a": SOLO})
    first, second, third = (desk.ask("a") for _ in range(3))
    desk.up("a")
    desk.leave("a")
    assert [desk.code(t) for t in (first, second, third)] == ["admitted", "admitted", "waits"]


def test_nobody_overtakes_who_waits():
    desk = Desk({"a": SOLO})
    desk.serve("a")
    assert desk.ask("a") == 0, "free: no ticket"
    waiting = desk.ask("a")
    desk.leave("a")
    assert desk.code(waiting) == "admitted"
    assert desk.code(desk.ask("a")) == "waits"


def test_who_gives_up_is_not_let_through():
    desk = Desk({"a": SOLO})
    gone, stays = desk.ask("a"), desk.ask("a")
    desk.give_up("a", gone)
    desk.up("a")
    assert [desk.code(t) for t in (gone, stays)] == ["waits", "admitted"]


def test_waiting_for_a_start_ends_at_load_timeout_and_the_start_goes_on():
    desk = Desk({"a": SOLO})
    early = desk.ask("a")
    desk.after(20)
    late = desk.ask("a")
    desk.after(40)
    why = desk.ended[early]
    assert why is not None and (why.status, why.code) == (503, "model_loading_timeout")
    desk.up("a")
    assert desk.code(late) == "admitted"


def test_waiting_for_a_slot_of_a_model_that_runs_has_no_such_end():
    desk = Desk({"a": SOLO})
    desk.serve("a")
    desk.ask("a")
    waiting = desk.ask("a")
    desk.after(1000)
    assert desk.code(waiting) == "waits"


# failing


def test_a_failed_start_tells_everybody_who_waits_and_is_tried_again_after_a_pause_that_grows():
    desk = Desk({"a": SOLO})
    pauses = []
    for _ in range(8):
        tickets = [desk.ask("a"), desk.ask("a")]
        assert desk.starts == ["a"]
        desk.fails("a")
        assert [desk.code(t) for t in tickets] == ["start_failed"] * 2
        refused = desk.ended[desk.ask("a")]
        assert refused is not None and (refused.message, desk.starts) == ("no weights", [])
        pauses.append(refused.retry)
        desk.after(refused.retry)
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_success_ends_the_pauses():
    desk = Desk({"a": SOLO})
    for _ in range(3):
        desk.ask("a")
        desk.fails("a")
        desk.after(60)
    desk.serve("a")
    desk.running.clear()
    desk.scheduler.lost("a", desk.now)
    desk.heed()
    desk.ask("a")
    desk.fails("a")
    refused = desk.ended[desk.ask("a")]
    assert refused is not None and refused.retry == 1


def test_a_person_who_starts_it_ends_the_pause():
    desk = Desk({"a": SOLO})
    desk.ask("a")
    desk.fails("a")
    desk.running["a"] = "ready"
    desk.scheduler.observed(desk.running, desk.now, desk.now)
    assert desk.ask("a") == 0


# idling


def test_a_model_that_idles_is_stopped_ttl_after_its_last_use():
    desk = Desk({"a": SOLO})
    desk.serve("a")
    desk.after(99)
    assert desk.ask("a") == 0
    desk.after(500)
    assert desk.stops == [], "in use"
    desk.leave("a")
    desk.after(99)
    assert desk.stops == []
    desk.after(1)
    assert (desk.stops, desk.causes) == (["a"], {"a": "ttl"})


def test_the_ttl_of_one_that_was_found_running_counts_from_then():
    desk = Desk({"a": SOLO})
    desk.running["a"] = "ready"
    desk.after(20)  # it looks now and then
    assert desk.state("a") == "ready"
    desk.after(84)
    assert desk.stops == []
    desk.after(20)
    assert desk.stops == ["a"]


def test_who_comes_while_it_stops_starts_it_again_afterwards():
    desk = Desk({"a": SOLO})
    desk.serve("a")
    desk.after(100)
    ticket = desk.ask("a")
    assert (desk.stops, desk.starts) == (["a"], [])
    desk.down("a")
    desk.up("a")
    assert desk.code(ticket) == "admitted"


@pytest.mark.parametrize("kind", ["always", "manual"])
def test_what_is_not_on_demand_is_neither_started_nor_stopped(kind):
    desk = Desk({"a": replace(SOLO, kind=kind)})
    ticket = desk.ask("a")
    why = desk.ended[ticket]
    assert why is not None and why.code == "model_not_running" and "`lmctl start a`" in why.message
    desk.running["a"] = "ready"
    desk.after(20)
    assert desk.code(desk.ask("a")) == "admitted"
    desk.leave("a")
    desk.after(100_000)
    assert (desk.starts, desk.stops) == ([], [])


def test_one_that_somebody_just_started_is_looked_at_and_waited_for():
    desk = Desk({"a": replace(SOLO, kind="manual")})
    desk.after(10)
    desk.running["a"] = "loading"
    ticket = desk.ask("a")
    assert desk.code(ticket) == "waits"
    desk.after(10)
    desk.running["a"] = "ready"
    desk.after(2)
    assert desk.code(ticket) == "admitted"


def test_what_never_ends_to_load_is_waited_for_until_load_timeout():
    desk = Desk({"a": replace(SOLO, kind="always")})
    desk.running["a"] = "loading"
    desk.follow()
    ticket = desk.ask("a")
    desk.after(60)
    assert desk.code(ticket) == "model_loading_timeout"


# memory


def test_the_least_recently_used_makes_way():
    desk = Desk(dict.fromkeys("abc", SOLO), memory=2)
    desk.serve("a")
    desk.after(1)
    desk.serve("b")
    ticket = desk.ask("c")
    assert (desk.stops, desk.causes, desk.starts) == (["a"], {"a": "room"}, [])
    desk.down("a")
    desk.up("c")
    assert desk.code(ticket) == "admitted"


def test_no_more_is_stopped_than_has_to_be():
    desk = Desk(dict.fromkeys("abc", SOLO), memory=10, a=2, b=8, c=8)
    desk.serve("a")
    desk.after(1)
    desk.serve("b")
    desk.ask("c")
    assert desk.stops == ["b"], "a is older, and of no use"


def test_an_idle_one_makes_way_before_a_busy_one():
    desk = Desk(dict.fromkeys("abc", SOLO), memory=2)
    desk.serve("a")
    desk.ask("a")
    desk.after(1)
    desk.serve("b")
    desk.ask("c")
    assert desk.stops == ["b"]


def test_a_busy_one_drains_first_and_comes_back_in_its_turn():
    desk = Desk(pair(slots=2), memory=1)
    desk.serve("a")
    assert desk.ask("a") == 0
    first = desk.ask("b")
    assert (desk.stops, desk.state("a")) == ([], "draining")
    second = desk.ask("a")
    assert desk.code(second) == "waits", "it admits no new ones"
    desk.leave("a")
    desk.down("a")
    desk.up("b")
    assert desk.code(first) == "admitted" and desk.state("b") == "draining"
    desk.leave("b")
    desk.down("b")
    desk.up("a")
    assert desk.code(second) == "admitted"


def test_older_requests_are_served_before_their_model_makes_way():
    desk = Desk(pair(), memory=1)
    a1, a2, b1, a3 = desk.ask("a"), desk.ask("a"), desk.ask("b"), desk.ask("a")
    desk.up("a")
    desk.leave("a")
    assert [desk.code(t) for t in (a1, a2, b1, a3)] == ["admitted", "admitted", "waits", "waits"]
    desk.leave("a")
    assert (desk.stops, desk.code(a3)) == (["a"], "waits")


def test_a_model_goes_on_when_nobody_waits_for_its_memory_any_more():
    desk = Desk(pair(slots=2), memory=1)
    desk.serve("a")
    desk.ask("a")
    b, a = desk.ask("b"), desk.ask("a")
    desk.give_up("b", b)
    assert (desk.state("a"), desk.code(a)) == ("ready", "admitted")


def test_what_comes_later_does_not_take_the_memory_that_somebody_waits_for():
    desk = Desk(dict.fromkeys("abc", SOLO), memory=3, a=2, b=3, c=1)
    desk.serve("a")
    desk.ask("a")  # busy
    b, c = desk.ask("b"), desk.ask("c")
    assert desk.starts == [], "c would fit beside a, and b would wait for both"
    desk.leave("a")
    desk.down("a")
    assert desk.starts == ["b"]
    desk.up("b")
    assert (desk.code(b), desk.code(c)) == ("admitted", "waits")


def test_what_fits_beside_those_before_it_does_not_wait_for_them():
    desk = Desk(dict.fromkeys("abc", SOLO), memory=4, a=3, b=3, c=1)
    desk.serve("a")
    desk.ask("a")
    desk.ask("b")
    desk.ask("c")
    assert desk.starts == ["c"]


def test_what_never_fits_is_refused_at_once():
    desk = Desk({"a": SOLO, "p": replace(SOLO, kind="always")}, memory=4, a=3, p=2)
    desk.running["p"] = "ready"
    desk.follow()
    why = desk.ended[desk.ask("a")]
    assert why is not None and why.code == "no_memory" and "beside p" in why.message
    assert (desk.starts, desk.stops) == ([], [])


def test_it_is_looked_whether_what_is_in_the_way_still_runs():
    desk = Desk({"a": SOLO, "p": replace(SOLO, kind="manual")}, memory=4, a=3, p=2)
    desk.running["p"] = "ready"
    desk.follow()
    desk.after(5)
    desk.running.clear()
    desk.ask("a")
    assert desk.starts == ["a"]


def test_what_is_not_known_to_fit_does():
    desk = Desk(pair())
    desk.serve("a")
    desk.serve("b")
    assert desk.stops == []


def test_one_that_is_asked_all_the_time_starves_nobody():
    desk = Desk(pair(queue=100), memory=1)
    desk.serve("a")
    desk.ask("a")
    b = desk.ask("b")
    for _ in range(50):
        desk.ask("a")
        desk.after(0.1)
    desk.leave("a")
    desk.down("a")
    desk.up("b")
    assert desk.code(b) == "admitted"


# rivals


def test_a_rival_makes_way_once_it_has_answered():
    desk = Desk(rivals())
    desk.serve("a")
    desk.ask("a")
    b = desk.ask("b")
    assert (desk.state("a"), desk.starts) == ("draining", [])
    desk.leave("a")
    assert (desk.stops, desk.starts) == (["a"], [])
    desk.down("a")
    assert desk.starts == ["b"]
    desk.up("b")
    assert desk.code(b) == "admitted"


def test_a_rival_that_is_being_started_is_served_first():
    desk = Desk(rivals())
    a, b = desk.ask("a"), desk.ask("b")
    assert desk.starts == ["a"]
    desk.up("a")
    assert desk.code(a) == "admitted"
    desk.leave("a")
    desk.down("a")
    desk.up("b")
    assert desk.code(b) == "admitted"


@pytest.mark.parametrize("kind", ["always", "manual"])
def test_a_rival_that_no_request_stops_is_named(kind):
    policies = rivals()
    desk = Desk({**policies, "b": replace(policies["b"], kind=kind)})
    desk.running["b"] = "ready"
    desk.follow()
    why = desk.ended[desk.ask("a")]
    assert why is not None and why.code == "rival_runs" and "b runs in the place of a" in why.message
    assert desk.stops == []


def test_a_rival_that_could_not_be_stopped_is_left_alone_for_a_while_and_told_again():
    desk = Desk(rivals())
    desk.serve("a")
    desk.ask("b")
    desk.stops.clear()
    desk.scheduler.stopped("a", desk.now, done=False)
    desk.heed()
    desk.after(4)
    assert desk.stops == []
    desk.after(1)
    assert desk.stops == ["a"]


# what others do


def test_one_that_is_lost_is_started_again_for_who_waits():
    desk = Desk({"a": SOLO})
    desk.serve("a")
    desk.ask("a")
    desk.running.clear()
    desk.scheduler.lost("a", desk.now)
    desk.heed()
    ticket = desk.ask("a")
    desk.leave("a")
    desk.up("a")
    assert desk.code(ticket) == "admitted"


def test_one_that_is_gone_is_noticed_without_being_asked():
    desk = Desk({"a": SOLO})
    desk.serve("a")
    desk.running.clear()
    desk.after(16)
    assert desk.state("a") == "asleep"


def test_a_look_that_began_before_a_start_ended_does_not_undo_it():
    desk = Desk({"a": SOLO})
    desk.ask("a")
    began = desk.now
    desk.after(1)
    desk.up("a")
    desk.scheduler.observed({}, began, desk.now)
    assert desk.state("a") == "ready"


def test_a_look_that_fails_leaves_what_is_known():
    desk = Desk({"a": replace(SOLO, kind="always")})
    desk.running["a"] = "ready"
    desk.follow()
    desk.scheduler.unseen(desk.now)
    desk.heed()
    assert desk.ask("a") == 0


def test_F30_a_profile_that_is_drained_by_name_admits_nobody_and_tells_when_nothing_is_in_flight():
    desk = Desk({"a": SOLO})
    desk.serve("a")
    desk.ask("a")
    desk.scheduler.drain("a", desk.now + 30, desk.now)
    desk.heed()
    ticket = desk.ask("a")
    assert (desk.drained, desk.code(ticket), desk.state("a")) == ([], "waits", "draining")
    desk.leave("a")
    assert (desk.drained, desk.stops) == (["a"], []), "somebody else decides what becomes of it"
    desk.after(5)
    desk.scheduler.resume("a", desk.now)
    desk.heed()
    assert desk.code(ticket) == "admitted"


def test_F30_a_drain_ends_at_its_deadline():
    desk = Desk({"a": SOLO})
    desk.serve("a")
    desk.ask("a")
    desk.scheduler.drain("a", desk.now + 30, desk.now)
    desk.heed()
    desk.after(29)
    assert desk.drained == []
    desk.after(1)
    assert desk.drained == ["a"]


def test_after_a_drain_it_is_seen_what_runs():
    desk = Desk({"a": SOLO})
    desk.serve("a")
    desk.scheduler.drain("a", desk.now + 30, desk.now)
    desk.heed()
    desk.running["a"] = "loading"  # somebody restarts it
    desk.scheduler.resume("a", desk.now)
    desk.heed()
    ticket = desk.ask("a")
    assert (desk.code(ticket), desk.starts) == ("waits", [])
    desk.running["a"] = "ready"
    desk.after(2)
    assert desk.code(ticket) == "admitted"


def test_who_waits_for_a_profile_that_is_removed_is_refused_and_who_is_served_stays():
    desk = Desk({"a": SOLO})
    desk.serve("a")
    desk.ask("a")
    ticket = desk.ask("a")
    del desk.policies["a"]
    desk.follow()
    assert desk.code(ticket) == "model_not_running"
    assert desk.stops == [], "apply stops it"
    desk.leave("a")
    assert desk.scheduler.states() == {}
    assert desk.code(desk.ask("a")) == "model_not_running"


def test_more_slots_let_more_through_at_once():
    desk = Desk({"a": SOLO})
    desk.serve("a")
    desk.ask("a")
    ticket = desk.ask("a")
    desk.follow(a=replace(SOLO, slots=2))
    assert desk.code(ticket) == "admitted"


def test_one_that_became_pinned_is_not_stopped_for_others():
    desk = Desk(pair(), memory=1)
    desk.serve("a")
    desk.ask("a")
    b = desk.ask("b")
    desk.follow(a=replace(SOLO, kind="always"))
    desk.leave("a")
    assert (desk.stops, desk.code(b), desk.state("a")) == ([], "no_memory", "ready")


def test_nothing_is_due_where_nothing_is_on_demand():
    desk = Desk({"a": Policy("always")})
    assert desk.scheduler.due() == float("inf")
