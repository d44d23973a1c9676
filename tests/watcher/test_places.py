"""Which folders tell of a change of what is read: links on the way included, and what is not there yet."""

from __future__ import annotations

import os

import pytest

from lmctl.watcher.places import places, trail


@pytest.fixture
def root(tmp_path):
    """A folder whose own path leads through no link."""
    return tmp_path.resolve()


def test_a_plain_file_is_told_by_its_folder(root):
    found = places([root / "a.toml"], root)
    assert found.folders == {str(root)}
    assert found.counts(f"{root}/a.toml")
    assert not found.counts(f"{root}/a.toml~")
    assert not found.counts(f"{root}/weights.gguf")


def test_F20_every_link_on_the_way_counts_and_what_it_leads_to(root):
    (root / "stow/lmctl").mkdir(parents=True)
    (root / "stow/lmctl/real.toml").touch()
    (root / "repo").symlink_to("stow/lmctl")
    (root / "stow/lmctl/a.toml").symlink_to("real.toml")
    assert list(trail(f"{root}/repo/a.toml")) == [
        f"{root}/repo",
        f"{root}/stow/lmctl/a.toml",
        f"{root}/stow/lmctl/real.toml",
    ]
    assert places([root / "repo/a.toml"], root).folders == {str(root), f"{root}/stow/lmctl"}


def test_links_that_lead_back_to_themselves_end(root):
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    assert set(trail(f"{root}/a")) == {f"{root}/a", f"{root}/b"}


def test_of_what_is_not_there_the_first_missing_folder_counts(root):
    assert list(trail(f"{root}/no/such/file.toml")) == [f"{root}/no"]
    assert list(trail(f"{root}/x/../no/file")) == [f"{root}/x"]
    (root / "x").mkdir()
    assert list(trail(f"{root}/x/../no/file")) == [f"{root}/no"]


def test_what_a_glob_finds_counts_also_when_it_is_new(root):
    (root / "profiles").mkdir()
    found = places([root / "localmodels.toml"], root, ["profiles/*.toml"])
    assert found.folders == {str(root), f"{root}/profiles"}
    assert found.counts(f"{root}/profiles/new.toml")
    assert found.counts(f"{root}/profiles")
    assert not found.counts(f"{root}/profiles/.new.toml.swp")
    assert not found.counts(f"{root}/profiles/new.txt")
    assert not found.counts(f"{root}/other.toml")


def test_a_folder_of_a_glob_counts_before_it_is_there(root):
    found = places([], root, ["profiles/*.toml"])
    assert found.folders == {str(root)}
    assert found.counts(f"{root}/profiles")


def test_globs_that_go_deeper_are_watched_as_deep_as_there_are_folders(root):
    (root / "profiles/a/b").mkdir(parents=True)
    found = places([], root, ["profiles/**/*.toml"])
    assert found.folders == {str(root), *(f"{root}/profiles{below}" for below in ("", "/a", "/a/b"))}
    assert found.counts(f"{root}/profiles/a/b/x.toml")
    assert found.counts(f"{root}/profiles/c")


def test_a_folder_that_is_gone_is_not_watched(root):
    os.mkdir(root / "x")
    assert places([root / "x/a"], root).folders == {f"{root}/x"}
    os.rmdir(root / "x")
    assert places([root / "x/a"], root).folders == {str(root)}
