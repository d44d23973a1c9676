"""What a committed path brings along: a folder with links and pipes in it, shards beside it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from declarations import PRELUDE, Place

from lmctl.config import reach
from lmctl.errors import LmctlError

FOLDER = PRELUDE + '[profiles.x]\nbackend = "mlx"\npath = "models/x"\n'
SHARDS = PRELUDE + '[profiles.x]\npath = "w-00001-of-00003.gguf"\n'


@pytest.fixture
def model(place: Place) -> Path:
    """The folder of a committed model, declared."""
    place.write("models/x/config.json", "{}")
    place.write("models/x/model.safetensors", "")
    place.write("localmodels.toml", FOLDER)
    return place.folder / "models/x"


@pytest.fixture
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("outside")
    (folder / "secret").write_text("a secret")
    return folder


def refused(place: Place, code: str, says: str) -> None:
    with pytest.raises(LmctlError) as caught:
        place.load()
    (problem,) = caught.value.problems
    assert (problem.code, says in problem.what) == (code, True), problem.what
    assert problem.place is not None and problem.place.file == "localmodels.toml"
    assert "a secret" not in str(caught.value)


LINKS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "file": ("tokenizer.json", lambda outside: outside / "secret"),
    "folder": ("sub", lambda outside: outside),
    "deeper": ("a/b/tokenizer.json", lambda outside: outside / "secret"),
    "hidden": (".cache", lambda outside: outside),
    "nowhere": ("tokenizer.json", lambda outside: outside / "missing"),
    "relative": ("tokenizer.json", lambda outside: Path("../../..")),
}


@pytest.mark.parametrize(("name", "target"), LINKS.values(), ids=LINKS)
def test_a_link_in_a_committed_folder_that_leads_out_is_refused(place, model, outside, name, target):
    assert place.load().profiles
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).symlink_to(target(outside))
    refused(place, "E-PATH", f"path: 'models/x/{name}' is a link that leads out of the declaration's folder")
    (model / name).unlink()
    assert place.load().profiles


def test_a_link_out_by_way_of_a_link_inside_is_refused(place, model, outside):
    (place.folder / "shared").mkdir()
    (model / "sub").symlink_to(place.folder / "shared")
    assert place.load().profiles
    (place.folder / "shared/tokenizer.json").symlink_to(outside / "secret")
    refused(place, "E-PATH", "path: 'models/x/sub/tokenizer.json' is a link")


def test_links_that_stay_inside_and_circles_are_fine(place, model):
    place.write("models/base/tokenizer.json", "{}")
    (model / "tokenizer.json").symlink_to("../base/tokenizer.json")
    (model / "again").symlink_to(".")
    (model / "lost.json").symlink_to("missing.json")
    assert place.load().profiles[0].weights.path == model


@pytest.mark.parametrize("kind", ["pipe", "socket"])
@pytest.mark.parametrize("linked", [False, True], ids=["itself", "by-a-link"])
def test_what_an_engine_would_wait_for_is_refused(place, model, kind, linked, monkeypatch):
    assert place.load().profiles
    place_of_it = place.folder if linked else model
    monkeypatch.chdir(place_of_it)  # a socket's path has to be short
    if kind == "pipe":
        os.mkfifo("generation_config.json")
    else:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("generation_config.json")
    if linked:
        (model / "generation_config.json").symlink_to("../../generation_config.json")
    refused(place, "E-FILE", "path: 'models/x/generation_config.json' is neither a file nor a folder")


@pytest.mark.parametrize("key", ["path", "chat_template"])
def test_a_pipe_in_the_place_of_a_file_is_refused(place, key):
    weights = "" if key == "path" else 'model = "o/m"\n'
    place.write("localmodels.toml", PRELUDE + f'[profiles.x]\n{weights}{key} = "./pipe"\n')
    os.mkfifo(place.folder / "pipe")
    refused(place, "E-FILE", f"{key}: './pipe' is neither a file nor a folder")


def test_shards_beside_the_one_that_is_named_are_judged(place, outside):
    place.write("localmodels.toml", SHARDS)
    for number in (1, 2):
        place.write(f"w-0000{number}-of-00003.gguf", "")
    assert place.load().profiles
    (place.folder / "w-00003-of-00003.gguf").symlink_to(outside / "secret")
    refused(place, "E-PATH", "path: 'w-00003-of-00003.gguf' is a link")


def test_a_folder_that_holds_everything_is_no_model(place, model, monkeypatch):
    monkeypatch.setattr(reach, "MOST_ENTRIES", 3)
    place.write("models/x/deep/a", "")
    refused(place, "E-LIMIT", "path: ")


def test_hidden_folders_are_not_entered(place, model, outside):
    (model / ".git").mkdir()
    (model / ".git/link").symlink_to(outside)
    assert place.load().profiles


def test_a_local_file_may_name_a_folder_with_any_links(place, model, outside):
    (model / "tokenizer.json").symlink_to(outside / "secret")
    place.write("localmodels.toml", PRELUDE)
    place.write("localmodels.local.toml", FOLDER.removeprefix(PRELUDE))
    assert place.load().profiles
