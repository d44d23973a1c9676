"""`lmctl init`: a first declaration, its name, and what git is told to pass over."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lmctl.arguments import parse
from lmctl.command import Options
from lmctl.commands import init
from lmctl.compose import make_context
from lmctl.errors import LmctlError

BOTH = "localmodels.local.toml\nlocalmodels.local.lock\n"


@pytest.fixture
def begin(tmp_path):
    """Run `init` in a folder of that name below an empty one; return the folder, the result's data and its text."""

    def run(*argv: str, folder: str = "models"):
        place = tmp_path / folder
        place.mkdir(exist_ok=True)
        _, args = parse(["init", *argv])
        context = make_context(Options(directory=place), {"HOME": str(tmp_path)}, "never")
        result = init.run(context, args)
        return place, result.data, str(result.text)

    return run


def ignored(place: Path) -> str:
    return (place / ".gitignore").read_text()


def test_this_machine_s_own_files_are_ignored_from_the_start(begin):
    place, data, text = begin()
    assert ignored(place) == BOTH
    assert data["gitignore"] == str(place / ".gitignore")
    assert (
        "Wrote localmodels.local.toml, localmodels.local.lock to .gitignore: they are for this machine alone." in text
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("", BOTH, id="empty"),
        pytest.param("*.log", f"*.log\n{BOTH}", id="no-newline-at-the-end"),
        pytest.param("# mine\n\n  *.log  \r\n", f"# mine\n\n  *.log  \r\n{BOTH}", id="odd-lines"),
        pytest.param(
            "/localmodels.local.toml\n", "/localmodels.local.toml\nlocalmodels.local.lock\n", id="one-of-them"
        ),
        pytest.param("build/localmodels.local.*\n", f"build/localmodels.local.*\n{BOTH}", id="elsewhere"),
        pytest.param("*.local.*\n", "*.local.*\n", id="covered-by-a-pattern"),
        pytest.param(f"**/{BOTH}".replace("\nl", "\n**/l"), f"**/{BOTH}".replace("\nl", "\n**/l"), id="anywhere"),
        pytest.param(f"!{BOTH}".replace("\nl", "\n!l"), f"!{BOTH}".replace("\nl", "\n!l"), id="wanted-in-git"),
    ],
)
def test_in_a_work_tree_only_what_is_missing_is_added(begin, tmp_path, before, after):
    (tmp_path / ".git").mkdir()
    (tmp_path / "models").mkdir()
    file = tmp_path / "models/.gitignore"
    file.write_bytes(before.encode())
    file.chmod(0o640)
    _, data, _ = begin()
    assert file.read_bytes().decode() == after
    assert file.stat().st_mode & 0o777 == 0o640
    assert (data["gitignore"] is None) == (before == after)


def test_what_the_work_tree_ignores_everywhere_needs_no_file_of_its_own(begin, tmp_path):
    (tmp_path / ".git").write_text("gitdir: elsewhere\n")
    (tmp_path / ".gitignore").write_text(BOTH)
    place, data, text = begin()
    assert not (place / ".gitignore").exists()
    assert data["gitignore"] is None and "version control" not in text


def test_a_file_outside_of_a_work_tree_stays_as_it_is(begin, tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models/.gitignore").write_text("*.log\n")
    place, data, text = begin()
    assert ignored(place) == "*.log\n"
    assert data["gitignore"] is None
    assert "Keep localmodels.local.toml, localmodels.local.lock out of version control." in text


@pytest.mark.parametrize("what", ["link", "folder", "pipe"])
def test_what_is_no_file_of_git_s_is_left_alone(begin, tmp_path, what):
    (tmp_path / ".git").mkdir()
    (tmp_path / "models").mkdir()
    file, aim = tmp_path / "models/.gitignore", tmp_path / "aim"
    aim.write_text("*.log\n")
    {"link": lambda: file.symlink_to(aim), "folder": file.mkdir, "pipe": lambda: os.mkfifo(file)}[what]()
    _, _, text = begin()
    assert aim.read_text() == "*.log\n"
    assert "Keep localmodels.local.toml" in text


@pytest.mark.parametrize("name", ["undeclared", "Undeclared", "all", "Local", "declarations", "gateway", "con"])
def test_a_name_that_lmctl_keeps_for_itself_is_refused(begin, tmp_path, name):
    with pytest.raises(LmctlError, match="reserved") as caught:
        begin("--name", name)
    assert caught.value.code == "E-NAME"
    assert list((tmp_path / "models").iterdir()) == []


def test_a_folder_whose_name_is_reserved_needs_another_one(begin):
    with pytest.raises(LmctlError, match="'local' is reserved — give another one with --name NAME") as caught:
        begin(folder="local")
    assert caught.value.code == "E-NAME"
    place, data, _ = begin("--name", "mine", folder="local")
    assert data["name"] == "mine" and (place / "localmodels.toml").exists()
