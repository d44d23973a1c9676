"""One run tells of everything that can be judged, and says nothing that only follows from something else."""

from __future__ import annotations

import pytest
from declarations import PRELUDE

from lmctl.errors import LmctlError

GOOD = '[profiles.good]\nmodel = "o/g"\n'
EACH = """
[profiles.a]
modle = "o/a"
[profiles.b]
model = "o/b"
path = "b.gguf"
[profiles.c]
path = "../c.gguf"
[profiles.d]
model = "o/d"
extra_args = ["--port"]
[profiles.e]
model = "o/e"
port = 8080
[gateway]
default = "nobody"
[groups.g]
members = ["a", "b", "ghost"]
"""


def codes(place, *sets, **how):
    with pytest.raises(LmctlError) as caught:
        place.load(*sets, **how)
    return [(problem.code, problem.place.line if problem.place else None) for problem in caught.value.problems]


def test_every_stage_is_told_at_once(place):
    place.write("localmodels.toml", PRELUDE + EACH)
    found = codes(place)
    assert found[0] == ("E-KEY", 5), "what is plainly wrong decides the exit code"
    assert sorted(found) == [
        ("E-CONFLICT", 8),
        ("E-CONFLICT", 16),
        ("E-FLAG", 13),
        ("E-KEY", 5),
        ("E-PATH", 10),
        ("E-REF", 18),
        ("E-REF", 20),
    ]


def test_also_of_one_profile(place):
    keys = 'model = "o/m"\npath = "../x.gguf"\nctxx = 1\nextra_args = ["--port"]\n'
    place.write("localmodels.toml", f"{PRELUDE}[profiles.x]\n{keys}")
    assert codes(place) == [("E-KEY", 6), ("E-CONFLICT", 5), ("E-PATH", 5), ("E-FLAG", 7)]


OWN = '[profiles.x]\nbackend = "command"\ncommand = ["serve"]\n'
ALONE = {  # what is wrong, in a line of its own, and what must not be said because of it
    "backend": '[profiles.x]\nbackend = "lama.cpp"\nmodel = "o/m"\ndtype = "auto"\n',
    "backend-of-all": f'{GOOD}[defaults]\nbackend = "mxl"\n[profiles.x]\npath = "x"\n',
    "weights": "[profiles.x]\nmodel = 3\n",
    "misspelt-weights": '[profiles.x]\nmodle = "o/m"\n',
    "command": '[profiles.x]\nbackend = "command"\ncommand = "serve"\n',
    "start": '[profiles.x]\nmodel = "o/m"\nport = 9000\nstart = "manul"\n[profiles.y]\nmodel = "o/y"\nport = 9000\n',
    "port-of-the-gateway": '[gateway]\nport = "9000"\n[profiles.x]\nmodel = "o/m"\nport = 8080\n',
    "name-of-a-profile": '[profiles."a b"]\nmodel = "o/m"\n[gateway]\ndefault = "good"\n',
    "no-table": '[gateway]\ndefault = "x"\n[profiles]\nx = 3\n',
    "profiles-no-table": "profiles = 3\n",
    "cloud": '[cloud.big]\nbase_url = "x"\nmodel = "m"\n[router]\ncloud = "big"\n',
    "group": '[groups.g]\nmembers = "x"\nexclusive = true\n',
    "block": f'{GOOD}[[profiles.x.when]]\nos = "linux"\nmodel = 3\n',
    "unknown-table": "[gatway]\nport = 9000\n",
}


@pytest.mark.parametrize("text", ALONE.values(), ids=ALONE)
def test_nothing_is_said_twice(place, text):
    place.write(
        "localmodels.toml", PRELUDE + text + ("" if "[profiles.good]" in text else GOOD) * ("= 3\n" not in text)
    )
    assert len(codes(place)) == 1


def test_a_profile_whose_file_is_broken_is_declared(place):
    place.write("localmodels.toml", f'{PRELUDE}include = ["p/*.toml"]\n[gateway]\ndefault = "x"\n{GOOD}ctxx = 1\n')
    place.write("p/x.toml", "model = \n")
    place.write("p/y.toml", 'path = "../../y.gguf"\n')
    assert codes(place) == [("E-TOML", 1), ("E-KEY", 8), ("E-PATH", 1)]


@pytest.mark.parametrize("text", ["[memory]\nreserve = -1\n", "[memory\n"], ids=["wrong", "broken"])
def test_a_machine_that_cannot_be_read_takes_no_trust_away(place, text):
    place.write("localmodels.toml", f'{PRELUDE}{OWN}[profiles.y]\npath = "../y"\n')
    place.machine(f'{text}[allow]\nteam = ["command"]\n')
    assert [code for code, _ in codes(place)][1:] == ["E-PATH"]


def test_a_declaration_without_its_name_is_judged(place):
    place.write("localmodels.toml", f'version = 1\n{OWN}[profiles.y]\npath = "../y"\n')
    assert codes(place) == [("E-KEY", None), ("E-PATH", 6)]


def test_overrides_that_cannot_be_read_may_change_anything(place):
    place.write("localmodels.toml", f'{PRELUDE}[profiles.y]\npath = "../y"\nctxx = 1\n')
    place.write("localmodels.local.toml", "[profiles.y\n")
    assert [code for code, _ in codes(place)] == ["E-TOML", "E-KEY"]


def test_a_secret_is_told_once_and_never_shown(place):
    secret = "sk-abcdefghijklmnopqrstuvwxyz"
    place.write("localmodels.toml", f'{PRELUDE}[profiles.y]\npath = "../y"\ntoken = "{secret}"\n')
    with pytest.raises(LmctlError) as caught:
        place.load()
    assert [problem.code for problem in caught.value.problems] == ["E-SECRET", "E-PATH"]
    assert secret not in str(caught.value)


def test_an_empty_declaration_beside_a_local_one_is_empty(place):
    place.write("localmodels.toml", "")
    place.write("localmodels.local.toml", GOOD)
    assert codes(place) == [("E-EMPTY", None)]
