"""Models that run without being declared."""

from __future__ import annotations

import pytest

from lmctl import adhoc
from lmctl.config.find import Request
from lmctl.config.loading import load
from lmctl.errors import LmctlError
from lmctl.paths import Folders
from lmctl.spec import Hardware

KEYS = {"start": "manual", "path": '/m/a "b" c\' ☃.gguf', "port": 8090, "ctx": 512}


@pytest.fixture
def folders(home) -> Folders:
    return Folders.of({}, home)


def test_what_is_remembered_is_known_until_it_is_forgotten(folders):
    adhoc.remember(folders, "team", "one", KEYS)
    adhoc.remember(folders, "team", "two", {"model": "o/m"})
    assert adhoc.profiles(folders, "team") == {"one": KEYS, "two": {"model": "o/m"}}
    assert adhoc.profiles(folders, "other") == {}
    assert adhoc.forget(folders, "team", frozenset({"one", "nobody"})) == {"one"}
    assert set(adhoc.profiles(folders, "team")) == {"two"}
    adhoc.forget(folders, "team", frozenset({"two"}))
    assert not (folders.declaration("team") / "undeclared.json").exists()


def test_its_keys_survive_the_configuration_to_the_byte(folders):
    file = adhoc.stand_in(folders)
    adhoc.remember(folders, adhoc.NAME, "one", KEYS)
    request = Request(file.parent, file, adhoc.sets(folders, adhoc.NAME), empty=True)
    (profile,) = load(request, folders, {}, Hardware("linux", "x86_64", "box", 1 << 34)).profiles
    assert (profile.name, profile.start, profile.port, profile.settings.ctx) == ("one", "manual", 8090, 512)
    assert str(profile.weights.path) == KEYS["path"]


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"', '{"a": 1}', '{"a": "bc"}', "\udcff"], ids=repr)
def test_a_broken_file_counts_as_nothing(folders, content):
    file = folders.declaration("team") / "undeclared.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    assert adhoc.profiles(folders, "team") == {}
    assert adhoc.sets(folders, "team") == ()


@pytest.mark.parametrize(
    ("model", "taken", "name"),
    [
        ("/m/Qwen3 8B.Q4_K_M.gguf", (), "qwen3-8b.q4_k_m"),
        ("owner/Model-GGUF", (), "model"),
        ("owner/Model-GGUF", ("model",), "model-2"),
        ("owner/Model-GGUF", ("model", "model-2"), "model-3"),
        ("--rf.gguf", (), "rf"),
        ("x" * 300, (), "x" * 50),
    ],
)
def test_a_name_is_made_of_the_model_s(model, taken, name):
    assert adhoc.name_for(model, frozenset(taken)) == name


def test_a_model_whose_name_gives_none_is_refused():
    with pytest.raises(LmctlError, match="--save NAME") as caught:
        adhoc.name_for("☃☃☃.gguf", frozenset())
    assert caught.value.code == "E-NAME"


def test_a_state_folder_of_another_user_is_an_error_and_not_nothing(folders, monkeypatch):
    def refused(path, limit):
        raise LmctlError("E-PERM", f"{path} may not be read", fix="check its permissions")

    monkeypatch.setattr(adhoc, "read_regular", refused)
    with pytest.raises(LmctlError, match="may not be read"):
        adhoc.profiles(folders, "team")
