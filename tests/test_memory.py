"""The verdict on everything that runs together, read from the lock."""

from __future__ import annotations

import worlds
from worlds import GIB, artifact, case, profile

from lmctl.memory import fits, memory_verdict
from lmctl.record import replace
from lmctl.resource import Scope
from lmctl.spec import Group, Lock

CODE, CHAT = artifact("code"), artifact("chat")
KV = 32 * 2 * 8 * 128 * 2 * 8192  # layers, keys and values, heads, width, bytes, tokens


def both(**chat):
    return case(profile("code"), profile("chat", **chat), artifacts=(CODE, CHAT))


def test_all_that_run_by_themselves_are_counted():
    verdict, warnings = memory_verdict(both())
    assert set(verdict.need) == {"code", "chat"}
    assert verdict.need["code"] > 4 * GIB + KV
    assert verdict.fits is True and not warnings


def test_what_is_started_by_hand_counts_once_it_runs_or_is_asked_to():
    whole = both(start="manual")
    assert set(memory_verdict(whole)[0].need) == {"code"}
    run = frozenset({"chat"})
    assert "chat" in memory_verdict(replace(whole, scope=Scope(names=run, run=run)))[0].need
    ready = case(profile("chat", start="manual"), artifacts=(CHAT,), here=(CHAT,), rows=(worlds.owned(CHAT),))
    running = worlds.applied(ready, {"chat": "RUNNING"})
    assert "chat" in memory_verdict(running)[0].need


def test_what_this_run_leaves_out_is_not_counted_unless_it_runs():
    assert set(memory_verdict(replace(both(), scope=Scope(exclude=frozenset({"chat"}))))[0].need) == {"code"}


def test_members_of_an_exclusive_group_share_their_place():
    alone, together = memory_verdict(both())[0], both()
    group = Group("g", ("code", "chat"))
    shared = memory_verdict(replace(together, declaration=replace(together.declaration, groups=(group,))))[0]
    assert shared.total == max(alone.need.values())


def test_too_much_is_a_warning_with_the_needs_the_largest_first():
    small = replace(both(), world=replace(both().world, hardware=replace(worlds.HARDWARE, ram=8 * GIB)))
    verdict, (warning,) = memory_verdict(small)
    assert verdict.fits is False
    assert warning.code == "W-MEMORY"
    assert "chat 5." in warning.what and "4.0 GiB may be used" in warning.what


def test_what_is_not_locked_is_not_guessed():
    verdict, warnings = memory_verdict(replace(both(), lock=Lock()))
    assert (dict(verdict.need), verdict.fits, warnings) == ({"code": 0, "chat": 0}, None, ())


def test_what_is_not_known_is_not_called_zero():
    small = replace(both(), lock=Lock({CODE.id: CODE}))
    small = replace(small, world=replace(small.world, hardware=replace(worlds.HARDWARE, ram=8 * GIB)))
    _, (warning,) = memory_verdict(small)
    assert "(code 5.0 GiB, chat unknown)" in warning.what


def test_it_is_told_of_any_profiles_whether_they_fit_together():
    whole = both(start="manual")
    alone = fits(whole.declaration, whole.lock, replace(worlds.HARDWARE, ram=10 * GIB))  # 4 GiB of them reserved
    assert [alone(frozenset(names)) for names in ([], ["code"], ["chat"], ["code", "chat"])] == [
        True,
        True,
        True,
        False,
    ]
    assert alone(frozenset({"code", "undeclared"})) is True


def test_it_is_not_known_whether_what_is_not_locked_fits():
    whole = both()
    answer = fits(whole.declaration, Lock({CODE.id: CODE}), worlds.HARDWARE)
    assert (answer(frozenset({"code"})), answer(frozenset({"chat"}))) == (True, None)
