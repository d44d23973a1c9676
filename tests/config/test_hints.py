"""What a refusal says to type instead, for the mistakes that people make first."""

from __future__ import annotations

import pytest
from declarations import PRELUDE

from lmctl.config import names
from lmctl.errors import LmctlError

INCLUDING = f'{PRELUDE}include = ["profiles/*.toml"]\n'


def refusal(load, *sets: str, **how: object) -> str:
    """Return the one line of a refusal without its code."""
    with pytest.raises(LmctlError) as caught:
        load(*sets, **how)
    (problem,) = caught.value.problems
    return str(problem).partition(": ")[2]


@pytest.mark.parametrize("header", ["[profiles.t]", "[t]"])
def test_a_profile_s_own_file_has_no_header(place, header):
    place.write("localmodels.toml", INCLUDING)
    place.write("profiles/t.toml", f'{header}\nmodel = "o/m"\n')
    said = refusal(place.load)
    assert said.startswith("profiles/t.toml:1:")
    assert said.endswith("in a file of its own a profile's keys stand at top level — leave the table's header out")


@pytest.mark.parametrize("keys", ["version = 1", "name = 'x'", "[defaults]\nctx = 512", "[prune]\nauto = true"])
def test_what_belongs_to_the_declaration_is_sent_there(place, keys):
    place.write("localmodels.toml", INCLUDING)
    place.write("profiles/t.toml", f'model = "o/m"\n{keys}\n')
    assert refusal(place.load).endswith("this key belongs in localmodels.toml — move it there")


@pytest.mark.parametrize(
    ("file", "relative"), [("localmodels.toml", "models/w.gguf"), ("profiles/t.toml", "../models/w.gguf")]
)
def test_an_absolute_path_inside_the_folder_is_told_in_its_relative_form(place, file, relative):
    text = f'path = "{place.folder}/models/w.gguf"\n'
    place.write("localmodels.toml", INCLUDING)
    place.write(file, f"{INCLUDING}[profiles.t]\n{text}" if file == "localmodels.toml" else text)
    assert refusal(place.load).endswith(f' must be relative — write "{relative}"')


def test_a_path_outside_of_the_folder_goes_by_its_own_name(place):
    place.write("localmodels.toml", f'{PRELUDE}[profiles.code]\npath = "models/w.gguf"\n')
    place.write("localmodels.local.toml", '[profiles.mine]\npath = "../w.gguf"\n')
    ids = [profile.weights.id for profile in place.load().profiles]
    assert ids == ["path=models/w.gguf", f"path={place.folder.parent}/w.gguf"]


def test_a_path_in_the_home_that_is_the_folder_s_is_told_in_its_relative_form(place):
    place.home = place.folder.parent
    place.folders = place.folders.of({}, place.home)
    place.write("localmodels.toml", f'{PRELUDE}[profiles.t]\npath = "~/{place.folder.name}/w.gguf"\n')
    assert refusal(place.load).endswith('must be relative — write "w.gguf"')


@pytest.mark.parametrize(
    ("name", "fix"),
    [("cdoe", "did you mean `code`?"), ("other", "correct the name, or add `model` or `path`")],
)
class TestAnOverrideOfAProfileThatNothingDeclares:
    @pytest.fixture(autouse=True)
    def _declared(self, place):
        place.write("localmodels.toml", f'{PRELUDE}[defaults]\nparallel = 2\n[profiles.code]\nmodel = "o/m"\n')

    def test_on_the_command_line(self, place, name, fix):
        said = refusal(place.load, f"profiles.{name}.ctx=4096")
        assert said == f"--set profiles.{name}.ctx: there is no profile '{name}' — {fix}"

    def test_in_the_environment(self, place, name, fix):
        variable = f"LMCTL_PROFILES__{name.upper()}__CTX"
        said = refusal(place.load, environ={variable: "4096"})
        assert said == f"{variable}: there is no profile '{name}' — {fix}"

    def test_in_the_local_file(self, place, name, fix):
        place.write("localmodels.local.toml", f"[profiles.{name}]\nctx = 4096\n")
        assert refusal(place.load) == f"localmodels.local.toml:1:1: there is no profile '{name}' — {fix}"


def test_a_profile_of_the_local_file_alone_is_none(place):
    place.write("localmodels.toml", f'{PRELUDE}[profiles.code]\nmodel = "o/m"\n')
    place.write("localmodels.local.toml", '[profiles.mine]\nmodel = "o/mine"\n')
    assert [profile.name for profile in place.load("profiles.mine.ctx=512").profiles] == ["code", "mine"]


def test_an_override_of_a_profile_whose_file_is_broken_is_no_second_mistake(place):
    place.write("localmodels.toml", INCLUDING)
    place.write("profiles/code.toml", "model = \n")
    assert refusal(place.load, "profiles.code.ctx=4096").startswith("profiles/code.toml:1:")


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--no-warmpu", "(near is --no-warmup) "),
        ("--ctxsize", "(near is --ctx-size, declared as `ctx`) "),
        ("--nothing-like-it", "flags and needs"),
    ],
)
def test_a_mistyped_flag_of_the_engine_is_told_with_the_near_one(place, flag, says):
    place.write("localmodels.toml", f'{PRELUDE}[profiles.t]\nmodel = "o/m"\nextra_args = ["{flag}"]\n')
    said = refusal(place.load)
    assert f"extra_args: {flag} is not on the list of harmless flags" in said and says in said


def test_every_reserved_name_of_the_reference_is_refused():
    for name in ("all", "none", "auto", "local", "default", "lmctl", "gateway", "watch", "declarations", "con", "LPT1"):
        with pytest.raises(LmctlError, match="is reserved"):
            names.name(name)
