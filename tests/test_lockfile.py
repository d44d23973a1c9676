"""The lock file: one text form, written only when it changes, and a parsed copy that never lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from locks import CODE, HELLO, LOCK, TEXT

from lmctl import lockfile
from lmctl.errors import LmctlError
from lmctl.lock_reader import parse
from lmctl.record import replace
from lmctl.spec import Artifact, Lock, LockedFile


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "localmodels.lock"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def test_the_text_is_the_documented_form():
    assert lockfile.render(LOCK) == TEXT


def test_the_text_is_read_back(tmp_path: Path):
    assert lockfile.read(written(tmp_path, TEXT)) == LOCK


def test_the_order_of_artifacts_keys_and_files_does_not_matter():
    turned = {
        name: replace(a, shape=dict(reversed(a.shape.items())), files=a.files[::-1])
        for name, a in reversed(LOCK.artifacts.items())
    }
    assert lockfile.render(Lock(turned)) == TEXT


def test_a_file_that_is_not_there_is_an_empty_lock(tmp_path: Path):
    assert lockfile.read(tmp_path / "localmodels.lock") == Lock()


def test_writing_twice_touches_the_file_once(tmp_path: Path):
    path = tmp_path / "localmodels.lock"
    assert lockfile.write(path, LOCK)
    before = path.stat()
    assert not lockfile.write(path, LOCK)
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert path.stat().st_mode & 0o777 == 0o644


def test_an_empty_lock_creates_no_file_but_empties_one(tmp_path: Path):
    path = tmp_path / "localmodels.lock"
    assert not lockfile.write(path, Lock())
    assert not path.exists()
    lockfile.write(path, LOCK)
    assert lockfile.write(path, Lock())
    assert lockfile.read(path) == Lock()


def test_a_link_is_replaced_and_never_written_through(tmp_path: Path):
    target = tmp_path / "elsewhere"
    target.write_text("mine")
    (tmp_path / "localmodels.lock").symlink_to(target)
    with pytest.raises(LmctlError):
        lockfile.read(tmp_path / "localmodels.lock")
    (tmp_path / "localmodels.lock").unlink()
    (tmp_path / "localmodels.lock").symlink_to(tmp_path / "nowhere")
    with pytest.raises(LmctlError, match="does not exist"):
        lockfile.write(tmp_path / "localmodels.lock", LOCK)
    assert target.read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()


def test_a_new_artifact_adds_lines_and_changes_none():
    other = replace(CODE, id="mlx-community/Other@main:mlx")
    assert set(TEXT.splitlines()) <= set(lockfile.render(Lock({**LOCK.artifacts, other.id: other})).splitlines())


def test_the_committed_lock_wins_over_the_local_one():
    local = replace(CODE, commit="f" * 40)
    assert lockfile.merged(LOCK, Lock({local.id: local, "x": HELLO})).artifacts == {**LOCK.artifacts, "x": HELLO}


def test_a_fifo_is_refused_without_waiting(tmp_path: Path):
    os.mkfifo(tmp_path / "localmodels.lock")
    with pytest.raises(LmctlError, match="not a regular file"):
        lockfile.read(tmp_path / "localmodels.lock")


def test_a_huge_file_is_refused(tmp_path: Path):
    path = written(tmp_path, "")
    os.truncate(path, 1 << 40)
    with pytest.raises(LmctlError, match="E-LIMIT"):
        lockfile.read(path)


def test_a_local_file_may_lie_above_the_declaration(tmp_path: Path):
    file = LockedFile("x.gguf", "weights", 3, "a" * 64)
    lock = Lock({"path=../shared/x.gguf": Artifact("path=../shared/x.gguf", "local", None, {}, (file,))})
    assert lockfile.read(written(tmp_path, lockfile.render(lock))) == lock


def test_the_parsed_copy_is_used_while_the_bytes_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, cache = written(tmp_path, TEXT), tmp_path / "cache"
    assert lockfile.read_cached(path, cache) == LOCK
    with monkeypatch.context() as patch:
        patch.setitem(__import__("sys").modules, "lmctl.lock_reader", None)  # parsing again would fail
        assert lockfile.read_cached(path, cache) == LOCK
    written(tmp_path, lockfile.render(Lock({HELLO.id: HELLO})))
    assert lockfile.read_cached(path, cache) == Lock({HELLO.id: HELLO})
    assert len(list(cache.iterdir())) == 1


def test_the_parsed_copy_of_another_version_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, cache = written(tmp_path, TEXT), tmp_path / "cache"
    lockfile.read_cached(path, cache)
    copy = next(cache.iterdir())
    before = copy.read_bytes()
    monkeypatch.setattr(lockfile, "__version__", "999")
    assert lockfile.read_cached(path, cache) == LOCK
    assert copy.read_bytes() != before


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"key": 1}', b"\xff", b"[" * 100000], ids=str)
def test_a_damaged_copy_is_ignored(tmp_path: Path, damage: bytes):
    path, cache = written(tmp_path, TEXT), tmp_path / "cache"
    lockfile.read_cached(path, cache)
    next(cache.iterdir()).write_bytes(damage)
    assert lockfile.read_cached(path, cache) == LOCK


def test_without_a_cache_folder_the_lock_is_read_all_the_same(tmp_path: Path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert lockfile.read_cached(written(tmp_path, TEXT), tmp_path / "cache") == LOCK


def test_what_is_refused_is_never_kept(tmp_path: Path):
    path, cache = written(tmp_path, TEXT.replace("size     = 9\n", "size = 0\n")), tmp_path / "cache"
    for _ in range(2):
        with pytest.raises(LmctlError, match="size"):
            lockfile.read_cached(path, cache)
    assert not cache.exists()


def hexes(length: int) -> st.SearchStrategy[str]:
    return st.integers(0, 16**length - 1).map(lambda number: f"{number:0{length}x}")


names = st.text("abcXYZ019", min_size=1, max_size=12)
texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
scalars = st.one_of(
    texts, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False, allow_infinity=False)
)
shapes = st.dictionaries(texts, st.one_of(scalars, st.lists(scalars, max_size=4)), max_size=5)


@st.composite
def artifacts(draw: st.DrawFn) -> Artifact:
    commit = draw(hexes(40))
    paths = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    roles = st.sampled_from(["weights", "shard", "mmproj", "lora", "draft", "tokenizer", "config", "template"])
    files = tuple(
        # the size follows from the content: one sha256 never has two sizes
        LockedFile(path, draw(roles), int(sha := draw(hexes(64)), 16) % 10**12 + 1, sha, draw(st.none() | hexes(40)))
        for path in paths
    )
    name = f"{draw(names)}/{draw(names)}@main:{draw(names)}"
    return Artifact(name, draw(st.sampled_from(["gguf", "mlx"])), commit, draw(shapes), lockfile.in_order(files))


@settings(deadline=None)
@given(st.lists(artifacts(), max_size=3))
def test_every_lock_survives_the_round_trip(found: list[Artifact]):
    lock = Lock({a.id: a for a in found})
    text = lockfile.render(lock)
    assert parse(text.encode(), "localmodels.lock") == lock
    assert lockfile.render(parse(text.encode(), "x")) == text
    assert "\r" not in text and text.endswith("\n")
