"""Earlier plans, read back and told in a few words."""

from __future__ import annotations

import json

import pytest
import test_plan

from lmctl import past, plan
from lmctl.plan import Cause, Change
from lmctl.reconcile import make_plan


def change(verb: str, address: str, stage: str = "serve", cause: tuple[Cause, ...] = ()) -> Change:
    return Change(stage, verb, address, cause)  # type: ignore[arg-type]


@pytest.mark.parametrize("program", test_plan.PROGRAMS)
def test_a_plan_is_read_back_as_it_was_shown(program):
    made = make_plan(test_plan.world("missing", program, "kept", "always"))
    found = past.read(json.dumps(plan.to_json(made)))
    assert found is not None
    assert found.changes == made.changes
    assert plan.text(found) == "\n\n".join(plan.text(made).split("\n\n")[:-1]) + "\n\n" + _summary(made)


def _summary(made) -> str:
    return plan.text(made).split("\n\n")[-1].partition("\n")[0] + "\n"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "team", "fingerprint": "f", "changes": [1]}', "[" * 5000])
def test_what_is_no_plan_is_none(text):
    assert past.read(text) is None


def test_words_name_profiles_and_count_the_rest():
    running = (Cause("process", "stopped", "running"),)
    found = [
        change("create", "program:new"),
        change("restart", "program:code", cause=(Cause("ctx", 1, 2),)),
        change("restart", "program:chat", cause=running),
        change("update", "supervisord:files"),
        change("delete", "program:old"),
        change("create", "weights:a", "fetch"),
        change("create", "weights:b", "fetch"),
        change("delete", "content:/x", "prune"),
    ]
    words = "add new; change supervisord:files; restart code; start chat; remove old; weights of 2 models; prune 1 file"
    assert past.words(found) == words
    assert past.words([change("create", f"program:{n}") for n in range(6)]) == "add 0, 1, 2, 3 and 2 more"


def test_a_generation_that_only_locked_says_so():
    assert past.words([change("create", "artifact:a", stage="lock")]) == "lock 1 model"
