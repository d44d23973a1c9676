"""Local files that may not be the locked ones: read once, before anything happens, and told all at once."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from worlds import case, profile

from lmctl import plan
from lmctl.errors import LmctlError
from lmctl.hosts.store import DiskStore
from lmctl.ledger import Ledger
from lmctl.plan import Cause
from lmctl.reconcile import make_plan
from lmctl.resource import Case, Run
from lmctl.resources import weights
from lmctl.spec import Artifact, LockedFile, Machine, Wanted

CONTENTS = {"a.gguf": b"first", "b.gguf": b"second"}


class CountingStore(DiskStore):
    """The store, with the names of what it was asked to read."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / "hub", folder / "own", folder / "home", {}, Machine())
        self.read: list[str] = []

    def hashes(self, paths: Sequence[Path], on_progress: object) -> tuple[str | None, ...]:
        self.read += [path.name for path in paths]
        return super().hashes(paths, lambda progress: None)


@pytest.fixture
def store(tmp_path: Path) -> CountingStore:
    for name, content in CONTENTS.items():
        (tmp_path / name).write_bytes(content)
    return CountingStore(tmp_path)


def seen(tmp_path: Path, store: CountingStore) -> Case:
    """Return the case of a profile for each file, locked as the file was first; nothing was verified yet."""
    declared, artifacts, found = [], [], {}
    for name, content in CONTENTS.items():
        asked = Wanted(f"path={name}", None, None, "", "local", path=tmp_path / name)
        file = LockedFile(name, "weights", len(content), hashlib.sha256(content).hexdigest())
        artifacts.append(artifact := Artifact(asked.id, "local", None, {}, (file,)))
        declared.append(profile(name.partition(".")[0], weights=asked))
        found[asked.id] = store.locate(artifact, asked, {})
    return case(*declared, artifacts=tuple(artifacts), found=found)


def refused(whole: Case, store: CountingStore) -> list[str]:
    with pytest.raises(LmctlError) as caught:
        weights.hash_local(whole, SimpleNamespace(store=store), lambda progress: None)  # type: ignore[arg-type]
    assert {problem.code for problem in caught.value.problems} == {"E-LOCK-STALE"}
    assert caught.value.exit_code == 66
    return [problem.what for problem in caught.value.problems]


def test_all_that_changed_are_told_and_what_has_another_size_is_not_read(tmp_path, store):
    (tmp_path / "a.gguf").write_bytes(b"FIRST")
    (tmp_path / "b.gguf").write_bytes(b"second and more")
    one, two = refused(seen(tmp_path, store), store)
    assert f"a.gguf has sha256 {hashlib.sha256(b'FIRST').hexdigest()}, the lock says" in one
    assert "b.gguf has 15 bytes, the lock says 6" in two
    assert store.read == ["a.gguf"]


def test_the_plan_says_by_what_a_file_differs(tmp_path, store):
    (tmp_path / "b.gguf").write_bytes(b"second and more")
    changes = {change.address: change for change in weights.changes(seen(tmp_path, store))}
    assert changes["weights:path=a.gguf"].cause == (Cause("sha256", "not verified here", "verified"),)
    other = changes["weights:path=b.gguf"]
    assert (other.verb, other.cause) == ("update", (Cause("size", "15 bytes", "6 bytes as locked"),))


def test_the_plan_says_what_apply_will_say_of_another_size_without_reading(tmp_path, store):
    (tmp_path / "a.gguf").write_bytes(b"FIRST")
    (tmp_path / "b.gguf").write_bytes(b"second and more")
    planned = make_plan(seen(tmp_path, store))
    (note,) = (note for note in planned.notes if "lock --upgrade" in note)
    assert note.startswith("path=b.gguf is not as locked, apply refuses it: run `lmctl lock --upgrade b` if")
    assert f"note: {note}" in plan.text(planned)
    assert store.read == []


def test_files_that_are_gone_or_of_another_size_are_known_without_reading(tmp_path, store):
    assert weights.unlike(seen(tmp_path, store)) == ()
    (tmp_path / "a.gguf").unlink()
    (tmp_path / "b.gguf").write_bytes(b"second and more")
    gone, resized = weights.unlike(seen(tmp_path, store))
    assert (gone.code, gone.what) == ("E-FILE", f"{tmp_path / 'a.gguf'} does not exist")
    assert (resized.code, "b.gguf has 15 bytes, the lock says 6" in resized.what) == ("E-LOCK-STALE", True)
    assert store.read == []


@pytest.mark.parametrize("touched", [False, True], ids=["untouched", "touched-since"])
def test_what_was_read_before_the_run_is_not_read_again_unless_it_was_touched_since(tmp_path, store, touched):
    whole = seen(tmp_path, store)
    hashed = weights.hash_local(whole, SimpleNamespace(store=store), lambda progress: None)  # type: ignore[arg-type]
    assert sorted(store.read) == ["a.gguf", "b.gguf"]
    if touched:
        os.utime(tmp_path / "a.gguf", ns=(1, 1))
        whole = seen(tmp_path, store)
    store.read.clear()
    host = SimpleNamespace(store=store, now=lambda: 1.0)
    ledger, stop = Ledger(tmp_path / "ledger.db"), threading.Event()
    run = Run(host, ledger, 1, lambda progress: None, stop, print, hashed)  # type: ignore[arg-type]
    ended = list(weights.apply(tuple(weights.changes(whole)), whole, run))
    assert [outcome.error for outcome in ended] == [None, None]
    assert store.read == (["a.gguf"] if touched else [])
    assert {Path(row.path).name: row.sha256 for row in ledger.read().owned} == {
        name: hashlib.sha256(content).hexdigest() for name, content in CONTENTS.items()
    }
