"""Where the configuration is looked for, and which files belong to it."""

from __future__ import annotations

import os
import socket

import pytest
from declarations import PRELUDE

from lmctl.config.find import included, matches
from lmctl.errors import LmctlError
from lmctl.errors import Place as At

ONE = PRELUDE + '[profiles.x]\nmodel = "o/m"\n'


def test_the_folder_itself_then_upwards(place):
    place.write("localmodels.toml", ONE)
    deep = place.folder / "a/b"
    deep.mkdir(parents=True)
    assert place.load(directory=deep).file == place.folder / "localmodels.toml"


def test_the_users_config_folder_comes_last(place, tmp_path):
    place.folders.config.mkdir(parents=True)
    (place.folders.config / "localmodels.toml").write_text(ONE)
    assert place.load().folder == place.folders.config


def test_a_named_file_wins(place):
    place.write("localmodels.toml", ONE)
    other = place.write("other/mine.toml", ONE.replace("team", "mine"))
    assert place.load(file=other).name == "mine"
    assert place.load(environ={"LMCTL_CONFIG": str(other)}).name == "mine"
    assert place.load(environ={"LMCTL_CONFIG": str(other)}, elsewhere=True).name == "team"


def test_a_linked_declaration_is_where_the_link_leads(place, tmp_path):
    real = place.write("dotfiles/localmodels.toml", ONE)
    link = tmp_path / "home" / "localmodels.toml"
    link.parent.mkdir()
    link.symlink_to(real)
    assert place.load(directory=link.parent).folder == real.parent


def test_nothing_found(place):
    with pytest.raises(LmctlError, match="lmctl init") as caught:
        place.load()
    assert caught.value.code == "E-FILE"


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.write_text("")], ids=["missing", "a-file"])
def test_a_folder_that_C_names_must_be_there(place, make):
    place.write("localmodels.toml", ONE)
    typo = place.folder / "typo"
    make(typo)
    for how in ({}, {"file": place.folder / "localmodels.toml"}):
        with pytest.raises(LmctlError, match="typo is no folder") as caught:
            place.load(directory=typo, elsewhere=True, **how)
        assert caught.value.code == "E-FILE"


def _socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


ODD = {
    "I14-zero": lambda path: path.symlink_to("/dev/zero"),
    "I14-fifo": os.mkfifo,
    "I14-folder": os.mkdir,
    "I14-socket": _socket,
    "I73-missing": lambda path: None,
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_what_is_no_regular_file(place, make, home):
    path = home / "x.toml"  # a short path, for the socket
    make(path)
    with pytest.raises(LmctlError) as caught:
        place.load(file=path)
    assert caught.value.code == "E-FILE"


def test_included_profiles_are_named_after_their_files(place):
    place.write("localmodels.toml", PRELUDE + 'include = ["profiles/*.toml", "more/**/*.toml"]\n')
    place.write("profiles/b.toml", 'path = "../weights/b.gguf"\n')
    place.write("profiles/a.toml", 'model = "o/a"\n')
    place.write("more/deep/c.toml", 'path = "c.gguf"\n')
    declaration = place.load()
    assert [(p.name, p.file, p.weights.id) for p in declaration.profiles] == [
        ("c", "more/deep/c.toml", "path=more/deep/c.gguf"),
        ("a", "profiles/a.toml", "o/a@main:"),
        ("b", "profiles/b.toml", "path=weights/b.gguf"),
    ]


def test_a_profile_in_two_committed_files_is_a_conflict(place):
    place.write("localmodels.toml", PRELUDE + 'include = ["p/*.toml"]\n[profiles.x]\nmodel = "o/m"\n')
    place.write("p/x.toml", 'model = "o/m"\n')
    with pytest.raises(LmctlError, match=r"declared twice, first in localmodels.toml:4:1") as caught:
        place.load()
    assert caught.value.code == "E-CONFLICT"


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside.toml"])
def test_I64_a_link_out_of_the_folder(place, target, tmp_path):
    folder = tmp_path / "inner"
    (tmp_path / "outside.toml").write_text("canary")
    (folder / "profiles").mkdir(parents=True)
    (folder / "localmodels.toml").write_text(PRELUDE + 'include = ["profiles/*.toml"]\n')
    (folder / "profiles/x.toml").symlink_to(target if target.startswith("/") else f"../{target}")
    with pytest.raises(LmctlError, match="leads out") as caught:
        place.load(directory=folder)
    assert caught.value.code == "E-INCLUDE"
    assert "root" not in str(caught.value).replace(str(tmp_path), "")
    assert "canary" not in str(caught.value)


def test_F27_a_profile_that_includes(place):
    place.write("localmodels.toml", PRELUDE + 'include = ["p/*.toml"]\n')
    place.write("p/x.toml", 'model = "o/m"\ninclude = ["../localmodels.toml"]\n')
    with pytest.raises(LmctlError, match=r"p/x.toml:2:1: localmodels.toml -> p/x.toml -> ") as caught:
        place.load()
    assert caught.value.code == "E-INCLUDE"


TREE = ["a.toml", "p/a.toml", "p/ab.toml", "p/.h.toml", ".p/a.toml", "p/q/a.toml", "p/q/r/b.toml", "p/.q/a.toml"]
PATTERNS = ["*.toml", "p*.toml", "p/*.toml", "*/a.toml", "**/*.toml", "**/a.toml", "p/**/a.toml", "p/**", "p/?.toml"]
PATTERNS += ["p/[!a]*.toml", ".p/*.toml", "p/.*.toml", "p/**/r/*.toml", "./p/*.toml", "**/.q/*", "p/[ab].toml"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_file_matches_when_it_would_be_found(place, pattern):
    for name in TREE:
        place.write(name, "")
    found = {os.path.normpath(name) for name in included(place.folder, [pattern], At("localmodels.toml"))}
    assert {name for name in TREE if matches(pattern, name)} == found


def test_F27_too_many_files(place):
    place.write("localmodels.toml", PRELUDE + 'include = ["p/*.toml"]\n')
    for number in range(257):
        place.write(f"p/x{number}.toml", 'model = "o/m"\n')
    with pytest.raises(LmctlError, match="more than 256 files") as caught:
        place.load()
    assert caught.value.code == "E-LIMIT"


def test_a_file_whose_stem_is_no_name(place):
    place.write("localmodels.toml", PRELUDE + 'include = ["p/*.toml"]\n')
    place.write("p/a b.toml", 'model = "o/m"\n')
    with pytest.raises(LmctlError, match="rename the file") as caught:
        place.load()
    assert (caught.value.code, caught.value.problems[0].place.file) == ("E-NAME", "p/a b.toml")


def test_a_declaration_without_profiles_is_welcome_when_asked(place):
    place.write("localmodels.toml", PRELUDE)
    assert place.load(empty=True).profiles == ()
    with pytest.raises(LmctlError):
        place.load()
    place.write("localmodels.toml", "")
    with pytest.raises(LmctlError) as caught:
        place.load(empty=True)
    assert caught.value.code == "E-EMPTY"


def test_F29_ten_thousand_profiles_are_read(place):
    text = "".join(f'[profiles.p{n}]\nmodel = "o/m{n}"\nport = {30000 + n}\nstart = "manual"\n' for n in range(10_000))
    place.write("localmodels.toml", PRELUDE + text)
    assert len(place.load().profiles) == 10_000
    assert len(place.load().profiles) == 10_000


def test_a_declaration_whose_link_leads_nowhere_is_not_passed_over(place):
    place.write("localmodels.toml", ONE)
    below = place.folder / "below"
    below.mkdir()
    (below / "localmodels.toml").symlink_to(below / "gone.toml")
    with pytest.raises(LmctlError, match=r"gone\.toml"):
        place.load(directory=below)
