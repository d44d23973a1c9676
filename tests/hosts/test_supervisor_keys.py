"""The keys of engines: made once, seen when they are damaged, gone with their programs."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from supervised import Supervised

from lmctl.hosts import supervisor_keys
from lmctl.record import replace
from lmctl.spec import program_id

ID = program_id("code")


def test_a_key_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    supervisor_keys.make(tmp_path, [ID])
    file = tmp_path / supervisor_keys.name(ID)
    before = file.read_bytes()
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent)] == [0o600, 0o700]
    supervisor_keys.make(tmp_path, [ID, program_id("chat")])
    assert file.read_bytes() == before
    other = supervisor_keys.read(tmp_path, supervisor_keys.name(program_id("chat")))
    assert len(bytes.fromhex(other)) == 32 and other != before.decode().strip()


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.unlink(),
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(b"short\n"),
        lambda file: file.chmod(0o640),
        lambda file: file.rename(file.with_name("x")) and file.symlink_to("x"),
    ],
    ids=["gone", "empty", "short", "open to others", "a link"],
)
def test_a_damaged_key_is_seen_and_made_anew(tmp_path: Path, damage) -> None:
    supervisor_keys.make(tmp_path, [ID])
    file = tmp_path / supervisor_keys.name(ID)
    before = file.read_bytes()
    damage(file)
    assert not supervisor_keys.sound(tmp_path, ID)
    supervisor_keys.make(tmp_path, [ID])
    assert supervisor_keys.sound(tmp_path, ID) and file.read_bytes() != before


def test_a_key_goes_with_its_program_or_when_none_is_demanded_any_more(stack: Supervised) -> None:
    keyed = [replace(stack.spec(name), key_file=supervisor_keys.name(program_id(name))) for name in ("code", "chat")]
    stack.supervisor.make_keys([spec.id for spec in keyed])
    stack.up(*keyed)
    folder = stack.folder / "keys"
    assert sorted(path.name for path in folder.iterdir()) == sorted(spec.id for spec in keyed)
    assert stack.supervisor.observe().keyless == frozenset()
    stack.up(keyed[0])
    assert [path.name for path in folder.iterdir()] == [ID]
    (folder / ID).unlink()
    assert stack.supervisor.observe().keyless == {ID}
    stack.supervisor.make_keys([ID])
    stack.up(stack.spec("code", version=2), replace=("code",))
    assert not list(folder.iterdir())


def test_what_is_no_program_s_key_stays_among_them(tmp_path: Path) -> None:
    supervisor_keys.make(tmp_path, [ID, program_id("chat")])
    (tmp_path / "keys" / "clients").write_text("somebody's own")
    (tmp_path / "keys" / "more").mkdir()
    supervisor_keys.sweep(tmp_path, {ID})
    assert {path.name for path in (tmp_path / "keys").iterdir()} == {ID, "clients", "more"}
