"""Clouds in a declaration: left out until this machine's owner allows them, and never in the way of a local model."""

from __future__ import annotations

import pytest
from declarations import LINUX, PRELUDE

from lmctl import trust
from lmctl.config import loading
from lmctl.config.find import Request
from lmctl.errors import LmctlError
from lmctl.front import Cloud, Router

HERE = '[profiles.x]\nmodel = "o/m"\nfallback = ["big"]\n'
BIG = '[cloud.big]\nbase_url = "https://api.example/v1"\nmodel = "large"\nkey_env = "BIG_KEY"\nprice_in = 1.5\n'
CLOUD = Cloud("big", "https://api.example/v1", "large", "BIG_KEY", price_in=1.5)
ALLOWED = '[allow]\nteam = ["cloud"]\n'


@pytest.fixture
def pulled(place):
    place.write("localmodels.toml", PRELUDE + HERE + BIG)
    return place


def fields(place, *sets, environ=None):
    request = Request(place.folder, sets=sets)
    return loading.resolve(request, place.folders, environ or {}, LINUX, trusting=True).gated


def trusted(place):
    trust.write(trust.path(place.folders, "team"), place.folder, fields(place))


def asked(place, *sets, **how):
    """Return the names of the clouds that may be asked, and of those that may not."""
    found = place.load(*sets, **how)
    assert [profile.name for profile in found.profiles] == ["x"], "no cloud keeps a profile from being served"
    assert [problem.code for problem in found.warnings] == ["W-TRUST"] * len(found.untrusted)
    return tuple(cloud.name for cloud in found.clouds), found.untrusted


def test_a_cloud_that_nobody_trusts_is_left_out_with_the_command_that_trusts_it(pulled):
    found = pulled.load()
    assert (found.clouds, found.untrusted) == ((), ("big",))
    assert found.profiles[0].fallback == ("big",)
    said = str(found.warnings[0])
    assert said.startswith("warning[W-TRUST]: localmodels.toml:7:1: cloud big is left out")
    assert f"lmctl trust {pulled.folder}/localmodels.toml" in said
    assert 'in machine.toml, `[allow]`, add "cloud"' in said


def test_machine_toml_allows_all_of_a_declaration(pulled):
    pulled.machine(ALLOWED)
    found = pulled.load()
    assert (found.clouds, found.untrusted, found.warnings) == ((CLOUD,), (), ())
    assert fields(pulled) == ()


def test_what_is_trusted_are_the_fields_that_decide_where_a_prompt_and_a_key_go(pulled):
    shown = {field.address: (field.shown, str(field.place)) for field in fields(pulled)}
    assert shown == {
        "cloud.big.base_url": ("base_url=https://api.example/v1", "localmodels.toml:7:1"),
        "cloud.big.model": ("model=large", "localmodels.toml:8:1"),
        "cloud.big.key_env": ("key_env=BIG_KEY", "localmodels.toml:9:1"),
    }
    trusted(pulled)
    assert pulled.load().clouds == (CLOUD,)


EDITS = {
    "price": ("price_in = 1.5", "price_in = 9", True),
    "comment": ("price_in", "# dear\nprice_in", True),
    "profile": ('model = "o/m"', 'model = "o/n"', True),
    "address": ("api.example", "api.evil.example", False),
    "model": ('"large"', '"larger"', False),
    "key": ("BIG_KEY", "HF_TOKEN", False),
    "key-gone": ('key_env = "BIG_KEY"\n', "", False),
    "key-from-a-file": ('key_env = "BIG_KEY"', 'key_file = "~/.ssh/id_ed25519"', False),
}


@pytest.mark.parametrize(("before", "after", "allowed"), EDITS.values(), ids=EDITS)
def test_an_edit_of_a_trusted_field_ends_the_trust_in_that_cloud(pulled, before, after, allowed):
    more = '[cloud.small]\nbase_url = "http://127.0.0.1:9/v1"\nmodel = "s"\n'
    pulled.write("localmodels.toml", PRELUDE + HERE + BIG + more)
    trusted(pulled)
    assert asked(pulled) == (("big", "small"), ())
    pulled.write("localmodels.toml", (PRELUDE + HERE + BIG).replace(before, after) + more)
    assert asked(pulled) == ((("big", "small"), ()) if allowed else (("small",), ("big",)))


def test_neither_environment_nor_set_sends_a_trusted_cloud_elsewhere(pulled):
    trusted(pulled)
    environ = {"LMCTL_CLOUD__BIG__BASE_URL": "https://evil.example/v1"}
    assert asked(pulled, environ=environ) == ((), ("big",))
    assert asked(pulled, "cloud.big.key_env=HF_TOKEN") == ((), ("big",))
    assert "write it into a file" in str(pulled.load("cloud.big.key_env=HF_TOKEN").warnings[0])
    assert asked(pulled, "cloud.big.price_in=2") == (("big",), ())


def test_trust_in_a_cloud_is_no_trust_in_a_profile_of_its_name(place):
    command = '[profiles.big]\nbackend = "command"\ncommand = ["x"]\n'
    place.write("localmodels.toml", PRELUDE + command + BIG)
    big = [field for field in fields(place) if field.address.startswith("cloud.")]
    trust.write(trust.path(place.folders, "team"), place.folder, big)
    with pytest.raises(LmctlError) as error:
        place.load()
    assert [problem.code for problem in error.value.problems] == ["E-TRUST"]


def test_the_local_file_says_where_the_key_is(pulled):
    text = '[cloud.big]\nkey_file = "keys/big"\n'
    pulled.machine(ALLOWED)
    pulled.write("localmodels.toml", (PRELUDE + HERE + BIG).replace('key_env = "BIG_KEY"\n', ""))
    pulled.write("localmodels.local.toml", text)
    assert pulled.load().clouds[0].key_file == pulled.folder / "keys/big"
    pulled.write("localmodels.local.toml", text.replace("keys/big", "~/keys/big"))
    assert pulled.load().clouds[0].key_file == pulled.home / "keys/big"


def test_a_variable_names_a_cloud_as_it_names_a_profile(place):
    place.machine(ALLOWED)
    named = BIG.replace("cloud.big", 'cloud."Big-One"')
    place.write("localmodels.toml", PRELUDE + HERE.replace('["big"]', '["Big-One"]') + named)
    found = place.load(environ={"LMCTL_CLOUD__BIG_ONE__MODEL": "other"})
    assert [(cloud.name, cloud.model) for cloud in found.clouds] == [("Big-One", "other")]


def test_the_cache_keeps_what_is_allowed_until_trust_changes(pulled):
    assert asked(pulled) == asked(pulled) == ((), ("big",))
    trusted(pulled)
    assert asked(pulled) == asked(pulled) == (("big",), ())
    trust.forget(pulled.folders, pulled.folder)
    assert asked(pulled) == ((), ("big",))


def test_the_router_is_as_declared(pulled):
    text = '[router]\ncloud = "big"\nmax_prompt = 4000\ntools = "local"\ntasks = { classification = "x" }\n'
    pulled.write("localmodels.toml", PRELUDE + HERE + BIG + text)
    assert pulled.load().router == Router(0.7, "big", {"classification": "x"}, 4000, "local")
    assert pulled.load().inert == ()


REFUSED = {
    "http": ('base_url = "http://api.example/v1"\nmodel = "m"', "E-RANGE"),
    "http-by-name": ('base_url = "http://localhost:1/v1"\nmodel = "m"', "E-RANGE"),
    "password": ('base_url = "https://a:b@api.example/v1"\nmodel = "m"', "E-RANGE"),
    "user": ('base_url = "https://@api.example/v1"\nmodel = "m"', "E-RANGE"),
    "query": ('base_url = "https://api.example/v1?key=x"\nmodel = "m"', "E-RANGE"),
    "fragment": ('base_url = "https://api.example/v1#x"\nmodel = "m"', "E-RANGE"),
    "two-hosts": ("base_url = 'https://api.example\\@evil.example/v1'\nmodel = \"m\"", "E-RANGE"),
    "other-letters": ('base_url = "https://ap\u0456.example/v1"\nmodel = "m"', "E-RANGE"),
    "no-address": ('model = "m"', "E-KEY"),
    "no-model": ('base_url = "https://api.example/v1"', "E-KEY"),
    "two-keys": ('base_url = "https://a.example"\nmodel = "m"\nkey_env = "A"\nkey_file = "b"', "E-CONFLICT"),
    "itself": ('base_url = "http://127.0.0.1:8080/v1"\nmodel = "m"', "E-CONFLICT"),
    "key": ('base_url = "https://a.example"\nmodel = "m"\nkey = "b"', "E-KEY"),
}


@pytest.mark.parametrize(("keys", "code"), REFUSED.values(), ids=REFUSED)
def test_a_cloud_that_is_none_is_refused_whoever_trusts_it(place, keys, code):
    place.machine(ALLOWED)
    place.write("localmodels.toml", f"{PRELUDE}{HERE}[cloud.big]\n{keys}\n")
    with pytest.raises(LmctlError) as error:
        place.load()
    assert [problem.code for problem in error.value.problems] == [code]
    assert "a:b" not in str(error.value) and "key=x" not in str(error.value)


@pytest.mark.parametrize("alias", ["cloud:big", "Cloud:BIG"])
def test_no_alias_is_called_like_a_cloud(place, alias):
    place.write("localmodels.toml", f'{PRELUDE}{HERE}aliases = ["{alias}"]\n{BIG}')
    with pytest.raises(LmctlError, match="already names") as error:
        place.load()
    assert error.value.code == "E-CONFLICT"
    place.write("localmodels.toml", f'{PRELUDE}{HERE}aliases = ["cloud:latest"]\n{BIG}')
    assert place.load().profiles[0].aliases == ("cloud:latest",)
