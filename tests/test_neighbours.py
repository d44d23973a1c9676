"""What other declarations hold: content that must stay, ports that are taken."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from worlds import artifact

from lmctl import adhoc, lockfile, neighbours
from lmctl.spec import Lock

CODE, CHAT = artifact("code"), artifact("chat")


class Other:
    """A declaration on this machine, registered, with a configuration and a lock."""

    def __init__(self, root: Path, name: str) -> None:
        self.folder, self.records = root / name, root / "state/declarations"
        self.folder.mkdir(parents=True)
        self.records.mkdir(parents=True, exist_ok=True)
        self.file, self.record = self.folder / "localmodels.toml", self.records / f"{name}.json"
        self.file.write_text("version = 1")
        self.record.write_text(json.dumps({"folder": str(self.folder), "file": str(self.file)}))
        lockfile.write(self.folder / lockfile.COMMITTED, Lock({CODE.id: CODE}))


def references(root: Path) -> frozenset[str] | None:
    records = root / "state/declarations"
    return neighbours.references(records, records / "mine.json", root / "cache")


def test_what_others_locked_is_referred_to_and_the_own_lock_is_not_asked(tmp_path):
    assert references(tmp_path) == frozenset()
    other = Other(tmp_path, "other")
    Other(tmp_path, "mine")
    assert references(tmp_path) == {CODE.files[0].sha256}
    lockfile.write(other.folder / lockfile.LOCAL, Lock({CHAT.id: CHAT}))
    assert references(tmp_path) == {CODE.files[0].sha256, CHAT.files[0].sha256}


def test_what_leaves_with_it_refers_to_nothing(tmp_path):
    Other(tmp_path, "other")
    records = tmp_path / "state/declarations"
    Other(tmp_path, "broken").record.write_text("{")
    assert references(tmp_path) is None
    leaving = frozenset(["other", "broken"])
    assert neighbours.references(records, records / "mine.json", tmp_path / "cache", leaving) == frozenset()


def test_what_programs_of_others_name_is_known_whatever_their_files_say_today(tmp_path):
    state = tmp_path / "state"
    for name, path in (("other", "/hub/w.gguf"), ("mine", "/hub/mine.gguf"), ("away", "/hub/away.gguf")):
        (state / name / "programs").mkdir(parents=True)
        (state / name / "programs/p-1.json").write_text(json.dumps({"argv": ["serve", "--model", path]}))
    assert neighbours.served(state, "mine", frozenset(["away"])) == {"serve", "--model", "/hub/w.gguf"}
    assert neighbours.served(tmp_path / "none", "mine") == frozenset()
    for broken in ("{", "[]", '{"argv": 1}', '{"argv": [1]}'):
        (state / "other/programs/p-1.json").write_text(broken)
        assert neighbours.served(state, "mine") is None
        assert neighbours.served(state, "mine", frozenset(["other"])) == {"serve", "--model", "/hub/away.gguf"}


def test_what_runs_undeclared_beside_others_is_referred_to(tmp_path):
    other = Other(tmp_path, "other")
    (tmp_path / "state/other").mkdir()
    lockfile.write(tmp_path / "state/other" / lockfile.UNDECLARED, Lock({CHAT.id: CHAT}))
    assert references(tmp_path) == {CODE.files[0].sha256, CHAT.files[0].sha256}
    (other.folder / lockfile.COMMITTED).unlink()
    assert references(tmp_path) is None, "what it declares is not known any more"


def test_what_stands_in_for_a_declaration_has_no_lock_of_its_own(tmp_path):
    other = Other(tmp_path, adhoc.NAME)
    (other.folder / lockfile.COMMITTED).unlink()
    assert references(tmp_path) == frozenset()
    (tmp_path / "state" / adhoc.NAME).mkdir()
    lockfile.write(tmp_path / "state" / adhoc.NAME / lockfile.UNDECLARED, Lock({CHAT.id: CHAT}))
    assert references(tmp_path) == {CHAT.files[0].sha256}


def _folder_gone(other: Other) -> None:
    for path in other.folder.iterdir():
        path.unlink()
    other.folder.rmdir()


SPOILED: dict[str, Callable[[Other], object]] = {
    "folder-gone": _folder_gone,
    "file-gone": lambda other: other.file.unlink(),
    "file-broken": lambda other: other.file.write_text("[profiles"),
    "locks-gone": lambda other: (other.folder / lockfile.COMMITTED).unlink(),
    "record-broken": lambda other: other.record.write_text("{"),
    "record-of-another-shape": lambda other: other.record.write_text("[]"),
    "newer-lock": lambda other: (other.folder / lockfile.COMMITTED).write_text("version = 999"),
    "broken-lock": lambda other: (other.folder / lockfile.COMMITTED).write_text("nonsense ["),
    "lock-is-a-pipe": lambda other: os.mkfifo(other.folder / lockfile.LOCAL),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_a_declaration_that_cannot_be_read_refers_to_everything(tmp_path, spoil):
    other = Other(tmp_path, "other")
    spoil(other)
    assert references(tmp_path) is None


def test_ports_of_others_are_known_from_their_programs(tmp_path):
    Other(tmp_path, "other")
    programs = tmp_path / "state/other/programs"
    programs.mkdir(parents=True)
    (programs / "p-1.json").write_text('{"listen": "127.0.0.1:28000"}')
    (programs / "p-2.json").write_text("{")
    (programs / "p-3.json").write_text('{"listen": 5}')
    records = tmp_path / "state/declarations"
    assert neighbours.ports(tmp_path / "state", records, records / "mine.json") == {28000: "other"}
    assert neighbours.ports(tmp_path / "state", records, records / "other.json") == {}
