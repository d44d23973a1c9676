"""More profiles than one supervisord serves at once."""

from __future__ import annotations

import pytest
from e2e_tools import error

from lmctl.host import MOST_RUNNING


@pytest.mark.parametrize("words", [["plan"], ["apply", "--dry-run"], ["apply"]], ids=" ".join)
def test_F29_more_than_are_served_at_once_are_refused_and_nothing_is_made(machine, words):
    machine.hello()
    profiles = (f'[profiles.p{n}]\npath = "hello.gguf"\nport = {20000 + n}\n' for n in range(MOST_RUNNING + 1))
    machine.declare("".join(profiles))
    assert machine.run("validate").code == 0, "they may be declared"
    assert error(machine.run(*words, code=65)).startswith("error[E-LIMIT]: localmodels.toml: 201 profiles would run")
    assert not (machine.state() / "supervisord.conf").exists()
    assert not (machine.folder / "localmodels.lock").exists()


def test_F29_those_that_start_by_hand_may_be_many_more(machine):
    machine.hello()
    profiles = (f'[profiles.p{n}]\npath = "hello.gguf"\nport = {20000 + n}\nstart = "manual"\n' for n in range(1000))
    machine.declare("".join(profiles))
    assert len(machine.run("plan", "--json").data["changes"]) >= 1
