"""The record of trust: what it says back, whom it believes, and which fields it permits."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from lmctl import trust
from lmctl.errors import LmctlError
from lmctl.paths import Folders
from lmctl.record import replace
from lmctl.trust import Field

FOLDER = Path("/repo")
COMMAND = Field("profiles.own.command", "own", "command", frozenset(["command"]), ("serve", "{port}"), "serve '{port}'")
VARIABLE = Field("profiles.own.env.A", "own", "command", frozenset(["env"]), "1", "A=1")
NONE: frozenset[str] = frozenset()


@pytest.fixture
def file(home):
    return trust.path(Folders.of({}, home), "team")


def recorded(*fields):
    return tuple(map(trust.recorded, fields))


def read(file, name="team", folder=FOLDER):
    return trust.parse(trust.read(file), name, folder)


def test_what_was_written_is_read_back_sorted_and_for_its_owner_alone(file):
    trust.write(file, FOLDER, [VARIABLE, COMMAND])
    assert read(file) == recorded(COMMAND, VARIABLE)
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [path.name for path in file.parent.iterdir()] == ["trust.json"]


def test_the_record_holds_no_value_but_what_is_shown(file):
    trust.write(file, FOLDER, [replace(VARIABLE, value="geheim", shown="A=(hidden)")])
    assert "geheim" not in file.read_text()


@pytest.mark.parametrize(("name", "folder"), [("other", FOLDER), ("team", Path("/repo2")), ("TEAM", FOLDER)])
def test_another_name_or_folder_inherits_nothing(file, name, folder):
    trust.write(file, FOLDER, [COMMAND])
    assert read(file, name, folder) == ()


DAMAGE = {
    "empty": lambda file: file.write_bytes(b""),
    "half": lambda file: file.write_bytes(file.read_bytes()[:80]),
    "deep": lambda file: file.write_bytes(b"[" * 100_000),
    "list": lambda file: file.write_text("[]"),
    "newer": lambda file: file.write_text(file.read_text().replace('"schema": 1', '"schema": 2')),
    "types": lambda file: file.write_text(file.read_text().replace('"own"', "1")),
    "readable-by-others": lambda file: file.chmod(0o644),
    "writable-by-the-group": lambda file: file.chmod(0o620),
    "folder-writable-by-others": lambda file: file.parent.chmod(0o777),
    "link": lambda file: file.rename(file.parent.parent / "x") and file.symlink_to(file.parent.parent / "x"),
    "fifo": lambda file: (file.unlink(), os.mkfifo(file, 0o600)),
    "folder": lambda file: (file.unlink(), file.mkdir(0o700)),
    "gone": lambda file: file.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_record_that_somebody_else_could_have_written_is_none(file, damage):
    trust.write(file, FOLDER, [COMMAND])
    damage(file)
    assert read(file) == ()


@pytest.mark.needs("uid")
def test_a_record_of_another_user_is_none(file):
    trust.write(file, FOLDER, [COMMAND])
    os.chown(file, 65534, 65534)
    assert read(file) == ()


@pytest.mark.parametrize(
    "change",
    [
        {"value": ("serve", "{port} ")},
        {"value": ("serve", "{", "port}")},
        {"value": ("serve {port}",)},
        {"value": "serve"},
        {"address": "profiles.other.command"},
        {"backend": "mlx"},
    ],
    ids=str,
)
def test_the_hash_covers_address_backend_and_every_word(change):
    assert replace(COMMAND, **change).digest != COMMAND.digest


@pytest.mark.parametrize("change", [{"shown": "harmless"}, {"place": None}, {"permissions": NONE}], ids=str)
def test_the_hash_covers_nothing_else(change):
    assert replace(COMMAND, **change).digest == COMMAND.digest


def test_a_profile_is_permitted_what_its_fields_need():
    both = [COMMAND, VARIABLE]
    assert trust.grants(both, recorded(*both), NONE) == {"command", "env"}
    other = replace(COMMAND, address="profiles.b.command", profile="b")
    assert trust.grants(both, recorded(*both, other), NONE) == {"command", "env"}, "others do not matter"


@pytest.mark.parametrize(
    ("now", "then"),
    [
        ([COMMAND], []),
        ([COMMAND, VARIABLE], [COMMAND]),
        ([COMMAND], [COMMAND, VARIABLE]),
        ([replace(COMMAND, value=("other",))], [COMMAND]),
        ([COMMAND, replace(VARIABLE, value="2")], [COMMAND, VARIABLE]),
        ([], [COMMAND]),
    ],
    ids=["never", "one-more", "one-less", "changed", "another-changed", "nothing-asked"],
)
def test_a_profile_is_permitted_nothing_once_any_of_its_fields_is_another(now, then):
    assert trust.grants(now, recorded(*then), NONE) == NONE


def test_what_machine_toml_allows_counts_on_neither_side():
    allowed = frozenset(["env"])
    assert trust.grants([COMMAND, replace(VARIABLE, value="2")], recorded(COMMAND, VARIABLE), allowed) == {"command"}
    assert trust.grants([COMMAND], recorded(COMMAND, VARIABLE), allowed) == {"command"}
    assert trust.grants([VARIABLE], recorded(), allowed) == NONE


def test_forgetting_goes_by_the_folder_and_needs_no_configuration(home):
    folders = Folders.of({}, home)
    for name, folder in (("a", FOLDER), ("b", FOLDER), ("c", Path("/elsewhere"))):
        trust.write(trust.path(folders, name), folder, [COMMAND])
    (folders.declaration("b") / "trust.json").chmod(0o644)
    folders.declaration("d").mkdir()
    (folders.declaration("d") / "trust.json").write_text("{")
    assert trust.forget(folders, FOLDER) == {"a": {"own"}, "b": {"own"}}
    assert trust.forget(folders, FOLDER) == {}
    assert json.loads((folders.declaration("c") / "trust.json").read_text())["folder"] == "/elsewhere"


@pytest.mark.parametrize(
    ("number", "code"), [(errno.EACCES, "E-PERM"), (errno.EROFS, "E-PERM"), (errno.EIO, "E-IO"), (errno.EBUSY, "E-IO")]
)
def test_what_the_disk_refuses_to_forget_is_told_and_keeps_nothing_else(home, monkeypatch, number, code):
    folders = Folders.of({}, home)
    for name in ("a", "b"):
        trust.write(trust.path(folders, name), FOLDER, [COMMAND])
    unlink = Path.unlink

    def refused(path, missing_ok=False):
        if path.parent.name == "a":
            raise OSError(number, os.strerror(number), str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", refused)
    with pytest.raises(LmctlError) as caught:
        trust.forget(folders, FOLDER)
    (problem,) = caught.value.problems
    assert (problem.code, str(trust.path(folders, "a")) in problem.what) == (code, True)
    assert not trust.path(folders, "b").exists()


def test_what_is_shown_is_whole_and_on_one_line():
    text = trust.whole("x" * 5000 + "\n\x1b[31m\u202e\u200b")
    assert text == "x" * 5000 + "\\x0a\\x1b[31m\\u202e\\u200b"
