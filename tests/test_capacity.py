"""How many profiles one supervisord serves: those that run count, not those that are declared."""

from __future__ import annotations

from functools import cache

import pytest
from worlds import applied, artifact, case, owned, profile

from lmctl import capacity
from lmctl.errors import LmctlError
from lmctl.host import MOST_RUNNING
from lmctl.record import replace
from lmctl.resource import Case, Scope
from lmctl.spec import Group, Lock, program_id

CODE = artifact("code")
ALL = [f"p{n}" for n in range(MOST_RUNNING + 1)]


def declared(*names: str, start: str = "manual", **how: object) -> Case:
    """Return a machine on which nothing runs and `names` are declared; all share their weights."""
    profiles = (profile(name, weights=CODE_WANTED, port=20000 + n, start=start) for n, name in enumerate(names))
    return case(*profiles, artifacts=(CODE,), here=(CODE,), rows=(owned(CODE),), **how)


CODE_WANTED = profile("code").weights


@cache
def full(start: str = "manual") -> Case:
    """Return a machine on which all run that may, and one more is declared."""
    return applied(declared(*ALL, start=start), dict.fromkeys(ALL[:-1], "RUNNING"))


def asked(whole: Case, *names: str) -> Case:
    """Return what `start` is about."""
    return replace(whole, scope=Scope(names=frozenset(names), run=frozenset(names), prune=False))


def refused(whole: Case) -> LmctlError:
    with pytest.raises(LmctlError) as caught:
        capacity.refuse(whole)
    assert (caught.value.code, caught.value.exit_code) == ("E-LIMIT", 65)
    assert "localmodels.toml: 201 profiles would run at once" in str(caught.value)
    return caught.value


def test_F29_two_hundred_are_served_and_one_more_is_refused():
    capacity.refuse(declared(*ALL[:-1], start="always"))
    assert 'declare `start = "manual"`' in str(refused(declared(*ALL, start="always")))


def test_F29_what_is_not_locked_yet_counts_as_well():
    refused(replace(declared(*ALL, start="always"), lock=Lock({})))


def test_F29_any_number_may_be_declared():
    capacity.refuse(declared(*(f"p{n}" for n in range(2000))))


def test_F29_a_profile_beyond_the_last_that_may_run_is_not_started_by_hand_either():
    whole = full()
    capacity.refuse(whole)
    assert "lmctl stop NAME" in str(refused(asked(whole, ALL[-1])))


def test_F29_one_that_runs_may_be_started_again():
    capacity.refuse(replace(asked(full(), ALL[0]), scope=Scope(run=frozenset(ALL[:1]), again=frozenset(ALL[:1]))))


def test_F29_one_that_makes_way_does_not_count():
    whole = full()
    one = replace(whole.declaration, groups=(Group("one", (ALL[0], ALL[-1])),))
    capacity.refuse(replace(asked(whole, ALL[-1]), declaration=one))


def test_F29_one_that_this_run_removes_does_not_count_and_one_that_it_leaves_does():
    whole = full(start="always")
    gone = replace(whole, declaration=replace(whole.declaration, profiles=whole.declaration.profiles[1:]))
    capacity.refuse(gone)
    refused(replace(gone, scope=Scope(names=frozenset(ALL[-1:]))))


def test_F29_one_that_was_stopped_does_not_count():
    whole = full(start="always")
    daemon = replace(whole.world.daemon, held=frozenset([program_id(ALL[-1])]))
    capacity.refuse(replace(whole, world=replace(whole.world, daemon=daemon)))


def test_F29_what_runs_too_many_already_is_not_refused_what_starts_nothing():
    whole = applied(declared(*ALL, start="always"), dict.fromkeys(ALL, "RUNNING"))
    capacity.refuse(whole)
    capacity.refuse(replace(full(start="always"), scope=Scope(only="prune")))
