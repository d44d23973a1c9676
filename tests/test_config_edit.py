"""Edits keep comments, order and style; what they mean is exactly what was asked."""

from __future__ import annotations

import stat
import tomllib
from itertools import product

import pytest
from declarations import LINUX, PRELUDE, Place

from lmctl import config_edit
from lmctl.config import loading
from lmctl.config.find import Request
from lmctl.config.layers import read
from lmctl.errors import LmctlError

MAIN = """\
# the team's models
version = 1
name    = "team"   # not the folder's
include = ["profiles/*.toml"]

[profiles.b]           # first
model    = "o/b"       # weights
ctx      = 4096        # tokens
sampling = { seed = 1 }  # dice

[[profiles.b.when]]
os = "darwin"
ctx = 512

[prune]
auto = true            # tidy

[profiles.a]
model = "o/a"
"""
FILE = """\
# reasons
model = "o/r"   # weights

[[when]]
os = "darwin"
ctx = 512
"""


@pytest.fixture
def place(tmp_path, home):
    made = Place(tmp_path, home)
    made.write("localmodels.toml", MAIN)
    made.write("profiles/r.toml", FILE)
    return made


def inputs(place):
    return read(place.folder / "localmodels.toml", Request(place.folder), place.folders, {})


def edited(place, edit):
    """The edit's text, judged and saved as the command does."""
    instead = {edit.path: edit.content}
    loading.resolve(Request(place.folder, empty=True), place.folders, {}, LINUX, instead)
    config_edit.save(edit)
    return edit.path.read_text() if edit.content is not None else None


def change(place, name, *texts):
    return config_edit.change(inputs(place), name, config_edit.assignments(texts))


def test_a_value_changes_and_nothing_else(place):
    text = edited(place, change(place, "b", "ctx=8192"))
    assert text == MAIN.replace("= 4096        #", "= 8192        #")


def test_a_new_key_lands_before_the_blocks(place):
    text = edited(place, change(place, "r", "port=9001", "tasks=['code']"))
    assert text == FILE.replace("# weights\n", '# weights\nport = 9001\ntasks = ["code"]\n')


def test_a_key_inside_a_table(place):
    text = edited(place, change(place, "b", "sampling.top_k=3"))
    assert text == MAIN.replace("{ seed = 1 }", "{ seed = 1, top_k = 3}")


def test_a_key_goes(place):
    keys = {("ctx",): None}
    text = edited(place, config_edit.change(inputs(place), "b", keys))
    assert text == MAIN.replace("ctx      = 4096        # tokens\n", "")


def test_a_new_profile_gets_a_file_where_they_are_included(place):
    edit = config_edit.add(
        inputs(place), "new", config_edit.assignments(["model=o/n", "ctx=2048", "sampling={seed=1}"])
    )
    assert edit.path == place.folder / "profiles/new.toml"
    assert edited(place, edit) == 'model = "o/n"\nctx = 2048\nsampling = {seed = 1}\n'
    assert [profile.name for profile in place.load().profiles] == ["b", "a", "new", "r"]


def written(place, name, where, *texts):
    """The keys as the file of the profile has to say them, typed in the folder `where`."""
    keys = config_edit.assignments(texts)
    return config_edit.located(inputs(place), name, keys, place.folder / where, place.home)


@pytest.mark.parametrize(
    ("name", "where", "typed", "said"),
    [
        pytest.param("new", ".", "w.gguf", "../w.gguf", id="beside-the-declaration"),
        pytest.param("new", ".", "./models/../w.gguf", "../w.gguf", id="not-normal"),
        pytest.param("new", "models/deep", "w.gguf", "../models/deep/w.gguf", id="from-below"),
        pytest.param("new", "profiles", "../w.gguf", "../w.gguf", id="from-the-file-s-own-folder"),
        pytest.param("new", "/", "w.gguf", "../w.gguf", id="from-elsewhere"),
        pytest.param("r", ".", "w.gguf", "../w.gguf", id="declared-in-a-file-of-its-own"),
        pytest.param("b", "models", "w.gguf", "models/w.gguf", id="declared-in-the-main-file"),
        pytest.param("b", ".", "{folder}/models/w.gguf", "models/w.gguf", id="absolute-inside"),
        pytest.param("b", ".", "/weights/w.gguf", "/weights/w.gguf", id="absolute-outside"),
        pytest.param("b", ".", "~/w.gguf", "~/w.gguf", id="in-the-home"),
        pytest.param("new", ".", "../w.gguf", "../../w.gguf", id="outside-stays-outside"),
    ],
)
def test_a_path_is_typed_from_where_the_person_is(place, name, where, typed, said):
    (place.folder / "models/deep").mkdir(parents=True)
    assert written(place, name, where, f"path={typed.format(folder=place.folder)}") == {("path",): said}


def test_every_key_that_is_a_path_is_typed_alike(place):
    typed = ["path=w.gguf", 'lora=[{path="l.gguf", scale=0.5}]', 'draft={path="d.gguf", max=4}', "mmproj=p.gguf"]
    assert written(place, "new", ".", *typed, "chat_template=t.jinja") == {
        ("path",): "../w.gguf",
        ("lora",): [{"path": "../l.gguf", "scale": 0.5}],
        ("draft",): {"path": "../d.gguf", "max": 4},
        ("mmproj",): "../p.gguf",
        ("chat_template",): "../t.jinja",
    }
    assert written(place, "b", ".", "path=w.gguf", "mmproj=p.gguf")["mmproj",] == "p.gguf"


def test_what_is_no_path_stays_as_typed(place):
    typed = ["model=o/n", "mmproj=p.gguf", "chat_template=chatml", 'lora=[{model="o/l", file="l.gguf"}]']
    assert written(place, "new", ".", *typed) == config_edit.assignments(typed)
    assert written(place, "r", ".", "mmproj=p.gguf", "draft.path=d.gguf") == {
        ("mmproj",): "p.gguf",  # of the repository
        ("draft", "path"): "../d.gguf",
    }


@pytest.mark.parametrize("pattern", ["p*.toml", "profiles/.*.toml"])
def test_a_new_profile_whose_own_file_nothing_would_include(place, pattern):
    place.write("localmodels.toml", f'{PRELUDE}include = ["{pattern}"]\n')
    edited(place, config_edit.add(inputs(place), "code", {("model",): "o/m"}))
    assert [(profile.name, profile.file) for profile in place.load().profiles] == [("code", "localmodels.toml")]


def test_an_edit_of_a_file_that_nothing_includes_is_judged_without_it(place):
    place.write("localmodels.toml", f'{PRELUDE}include = ["p*.toml"]\n')
    with pytest.raises(LmctlError) as caught:
        loading.resolve(
            Request(place.folder), place.folders, {}, LINUX, {place.folder / "profiles/x.toml": b'model = "o/m"\n'}
        )
    assert caught.value.code == "E-EMPTY"


def test_a_folder_of_profiles_that_leads_out_gets_no_file(place, home):
    (place.folder / "profiles/r.toml").unlink()
    (place.folder / "profiles").rmdir()
    (place.folder / "profiles").symlink_to(home)
    with pytest.raises(LmctlError, match="leads out") as caught:
        edited(place, config_edit.add(inputs(place), "x", {("model",): "o/m"}))
    assert caught.value.code == "E-INCLUDE"
    assert list(home.iterdir()) == []


def test_a_file_in_the_way_of_the_folder_of_profiles_is_told(place):
    (place.folder / "profiles/r.toml").unlink()
    (place.folder / "profiles").rmdir()
    place.write("profiles", "")
    with pytest.raises(LmctlError, match=r"Not a directory|File exists") as caught:
        edited(place, config_edit.add(inputs(place), "x", {("model",): "o/m"}))
    assert caught.value.code == "E-IO"


def test_a_new_profile_without_include(place):
    place.write("localmodels.toml", PRELUDE + "# end\n")
    for name in ("x", "y"):
        text = edited(place, config_edit.add(inputs(place), name, {("model",): f"o/{name}"}))
    assert text == PRELUDE + '# end\n\n[profiles.x]\nmodel = "o/x"\n\n[profiles.y]\nmodel = "o/y"\n'


def test_a_profile_goes_with_its_blocks(place):
    text = edited(place, config_edit.remove(inputs(place), "b"))
    assert tomllib.loads(text)["profiles"] == {"a": {"model": "o/a"}}
    assert "# the team's models" in text and "# not the folder's" in text and "# tidy" in text


def test_a_profile_goes_with_its_file(place):
    assert edited(place, config_edit.remove(inputs(place), "r")) is None
    assert not (place.folder / "profiles/r.toml").exists()
    assert [profile.name for profile in place.load().profiles] == ["b", "a"]


def test_links_and_modes_stay(place):
    real = (place.folder / "profiles/r.toml").rename(place.folder / "real.toml")
    real.chmod(0o640)
    link = place.folder / "profiles/r.toml"
    link.symlink_to(real)
    edited(place, change(place, "r", "ctx=2048"))
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert tomllib.loads(real.read_text())["ctx"] == 2048


APART = '[profiles.x]\nmodel = "o/m"\n[prune]\nauto = true # tidy\n[profiles.y]\nmodel = "o/y"\n'
FORMS = {
    "dotted": 'profiles.x.model = "o/m"  # one\nprofiles.y.model = "o/y" # two\n',
    "inline": 'profiles = { x = { model = "o/m" }, y = { model = "o/y" } } # all\n',
    "quoted": '[profiles."x"] # one\n"model" = "o/m"\n["profiles".y] # two\nmodel = "o/y"\n',
    "apart": APART + "[profiles.x.sampling]\nseed = 1\n",
    "indented": '[profiles]\n  [profiles.x]\n    model = "o/m"\n  [profiles.y] # two\n    model = "o/y"\n',
}
HOW = {
    "set": lambda place: change(place, "x", "ctx=2048"),
    "add": lambda place: config_edit.add(inputs(place), "z", {("model",): "o/z"}),
    "remove": lambda place: config_edit.remove(inputs(place), "x"),
}


def after(how, profiles):
    """What the profiles are when the edit is done."""
    if how == "remove":
        return {"y": profiles["y"]}
    if how == "add":
        return {**profiles, "z": {"model": "o/z"}}
    return {**profiles, "x": {**profiles["x"], "ctx": 2048}}


@pytest.mark.parametrize(("form", "how"), [pair for pair in product(FORMS, HOW) if pair != ("dotted", "add")])
def test_every_form_of_a_table_is_edited(place, form, how):
    text = FORMS[form]
    place.write("localmodels.toml", PRELUDE + text)
    done = edited(place, HOW[how](place))
    assert tomllib.loads(done)["profiles"] == after(how, tomllib.loads(text)["profiles"])
    comments = {line.partition("#")[2] for line in text.splitlines() if "#" in line}
    assert {line.partition("#")[2] for line in done.splitlines() if "#" in line} >= comments - {" one"}


def test_a_form_that_would_lose_something_is_left_alone(place):
    place.write("localmodels.toml", PRELUDE + FORMS["dotted"])
    with pytest.raises(LmctlError, match="edit it by hand") as caught:
        HOW["add"](place)
    assert caught.value.code == "E-CONFLICT"


REFUSED = {
    "unknown-key": (lambda place: change(place, "b", "ctxx=1"), "E-KEY", "did you mean `ctx`?"),
    "wrong-type": (lambda place: change(place, "b", "port=true"), "E-TYPE", "expected integer"),
    "conflict": (lambda place: change(place, "b", "path=x.gguf"), "E-CONFLICT", "declares model and path"),
    "no-such-profile": (lambda place: change(place, "nobody", "ctx=1"), "E-REF", "'nobody'"),
    "no-such-profile-to-remove": (lambda place: config_edit.remove(inputs(place), "nobody"), "E-REF", "'nobody'"),
    "no-value": (lambda place: change(place, "b", "ctx"), "E-USAGE", "has no value"),
    "no-table": (lambda place: change(place, "b", "ctx.a=1"), "E-TYPE", "ctx is no table"),
    "no-such-key": (lambda place: config_edit.change(inputs(place), "b", {("port",): None}), "E-KEY", "not declared"),
    "added-twice": (lambda place: config_edit.add(inputs(place), "r", {}), "E-CONFLICT", "declared already"),
    "bad-name": (lambda place: config_edit.add(inputs(place), "a b", {}), "E-NAME", "is no name"),
    "no-weights": (lambda place: config_edit.add(inputs(place), "n", {("ctx",): 512}), "E-KEY", "names no weights"),
}


@pytest.mark.parametrize(("make", "code", "says"), REFUSED.values(), ids=REFUSED)
def test_refused_edits_write_nothing(place, make, code, says):
    with pytest.raises(LmctlError) as caught:
        edited(place, make(place))
    assert caught.value.code == code
    assert says in str(caught.value)
    assert (place.folder / "localmodels.toml").read_text() == MAIN
    assert [path.name for path in (place.folder / "profiles").iterdir()] == ["r.toml"]


def test_the_first_declaration_reads_well(place):
    place.write("localmodels.toml", config_edit.first("mine"))
    assert place.load(empty=True).name == "mine"
