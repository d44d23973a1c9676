"""Drift of what the lock names: what it lacks, and files that are gone, cut, touched, never hashed or left over."""

from __future__ import annotations

from pathlib import Path

import pytest
import worlds
from locks import HELLO
from worlds import DAY, GIB, NOW, artifact, case, owned, profile

from lmctl.drift.compare import compare
from lmctl.drift.records import Drift, Field, Seen
from lmctl.errors import Problem
from lmctl.host import Found
from lmctl.ledger import Memory
from lmctl.record import replace
from lmctl.resource import Case
from lmctl.spec import Artifact, Lock, LockedFile, Signature

CODE, OLD = artifact("code"), artifact("old")
ADDRESS = "weights:org/code@aaaaaaaaaaaa:Q4_K_M"
BLOB = str(worlds.blob(CODE))
FILE = "code-Q4_K_M.gguf"
SHORT = CODE.files[0].sha256[:12]
MANUAL = profile("code", start="manual")


ROWS = (owned(CODE),)


def world(*profiles, here: bool = True, rows=ROWS, **world: object) -> Case:
    """Return a case whose programs were applied; `world` changes what is seen of the weights."""
    whole = case(*(profiles or (MANUAL,)), artifacts=(CODE,), here=(CODE,), rows=rows)
    if any(profile.fetch == "apply" for profile in whole.declaration.profiles):
        whole = worlds.applied(whole, {"code": "STOPPED"})
    if not here:
        world["found"] = {CODE.id: worlds.found(CODE, None)}
    return replace(whole, world=replace(whole.world, **world))


def only(whole: Case, seen: Seen = Seen()) -> Drift:  # noqa: B008 (a record)
    (drift,) = compare(whole, seen)
    return drift


def told(drift: Drift) -> tuple[str, str, str | None, str]:
    return drift.kind, drift.address, drift.moved, drift.mend


def test_verified_weights_are_no_drift():
    assert compare(world(), Seen()) == ()


def test_missing_weights_that_were_here():
    drift = only(world(here=False, gone=frozenset({BLOB})))
    assert told(drift) == ("missing", ADDRESS, "world", "lmctl apply")
    assert drift.fields == (Field(f"bytes of {FILE}", 4 * GIB, 4 * GIB, None),)


def test_missing_weights_that_were_never_fetched():
    drift = only(world(here=False, rows=()))
    assert told(drift) == ("missing", ADDRESS, "file", "lmctl apply")


def test_weights_that_wait_for_a_start_are_not_missing():
    waits = replace(MANUAL, fetch="start")
    assert compare(world(waits, here=False, rows=()), Seen()) == ()


def test_F56_corrupt_weights_have_another_size():
    cut = Signature(1000, 2, 7, 1)
    drift = only(world(here=False, changed={BLOB: cut}))
    assert told(drift) == ("corrupt", ADDRESS, "world", "lmctl apply")
    assert drift.fields == (Field(f"bytes of {FILE}", 4 * GIB, 4 * GIB, 1000),)


def test_F56_modified_weights_were_touched_and_nobody_knows_what_they_are():
    touched = worlds.signature(CODE, mtime=2)
    drift = only(world(found={CODE.id: worlds.found(CODE, touched)}, changed={BLOB: touched}))
    assert told(drift) == ("modified", ADDRESS, "world", "lmctl apply")
    assert drift.fields == (Field(f"sha256 of {FILE}", SHORT, SHORT, "touched since it was verified"),)


def test_unverifiable_weights_were_never_hashed_here():
    drift = only(world(rows=()))
    assert told(drift) == ("unverifiable", ADDRESS, "file", "lmctl apply")
    lost = world(rows=(), memory=Memory(problem=Problem("E-STATE", "gone")))
    (drift,) = (drift for drift in compare(lost, Seen()) if drift.address == ADDRESS)
    assert (drift.kind, drift.moved) == ("unverifiable", None)


def test_the_worst_file_names_the_class_and_all_of_them_are_listed():
    first, second = CODE.files[0], LockedFile("b.gguf", "shard", 10, "b" * 64)
    whole = Artifact(CODE.id, "gguf", CODE.commit, CODE.shape, (first, second))
    files = (*worlds.found(CODE, worlds.signature(CODE, mtime=2)), Found(second, Path("/b"), Path("/b"), None))
    base = world(found={CODE.id: files})
    found = compare(replace(base, lock=Lock({CODE.id: whole})), Seen())
    (drift,) = (drift for drift in found if drift.address == ADDRESS)
    assert drift.kind == "missing"
    assert [field.name for field in drift.fields] == [f"sha256 of {FILE}", "bytes of b.gguf"]


@pytest.mark.parametrize(("size", "kind"), [(9, "modified"), (5, "corrupt"), (None, "missing")])
def test_of_a_local_file_the_mend_says_what_only_a_person_can_know(size, kind):
    wanted = replace(worlds.wanted("code"), id=HELLO.id, repo=None, format="local")
    row = replace(owned(CODE), path="/w/hello.gguf", kind="local", sha256="e" * 64, signature=Signature(9, 1, 1, 1))
    signature = Signature(size, 2, 1, 1) if size else None
    whole = case(profile("code", start="manual", weights=wanted), artifacts=(HELLO,), rows=(row,))
    found = {HELLO.id: (Found(HELLO.files[0], Path(row.path), Path(row.path), signature),)}
    whole = worlds.applied(replace(whole, world=replace(whole.world, found=found)), {"code": "STOPPED"})
    drift = only(whole)
    assert told(drift)[:3] == (kind, "weights:path=weights/hello.gguf", "world")
    assert drift.mend == ("lmctl apply" if kind == "modified" else drift.mend)
    assert ("put the file back" in drift.mend) == (kind != "modified")


@pytest.mark.parametrize("fetch", ["apply", "start"])
def test_lock_outdated_is_what_is_declared_and_not_locked(fetch):
    whole = world(MANUAL, replace(MANUAL, name="chat", weights=worlds.wanted("chat"), fetch=fetch))
    drift = only(whole)
    assert told(drift) == ("lock_outdated", "lock:org/chat@main:Q4_K_M", "file", "lmctl lock")
    assert drift.fields == (Field("locked", "asked for by chat", None, None),)


def test_orphan_owned_is_content_that_nothing_keeps_any_more():
    since = NOW - 8 * DAY
    old = owned(OLD, unreferenced_since=since)
    whole = world(rows=(owned(CODE), old))
    drift = only(whole)
    assert told(drift) == ("orphan_owned", f"content:{old.path}", "file", "lmctl apply")
    by_hand = replace(whole, declaration=replace(whole.declaration, prune_auto=False))
    assert only(by_hand).mend == "lmctl prune"
    assert compare(world(rows=(owned(CODE), replace(old, unreferenced_since=NOW))), Seen()) == ()


@pytest.mark.parametrize(
    ("seen", "kind"),
    [
        ({"gone": frozenset({BLOB})}, "missing"),
        ({"changed": {BLOB: Signature(10, 2, 7, 1)}}, "corrupt"),
        ({"changed": {BLOB: worlds.signature(CODE, mtime=2)}}, "modified"),
    ],
)
def test_without_a_configuration_the_ledger_tells_of_locked_content(seen, kind):
    whole = world(rows=(owned(CODE), owned(OLD)), **seen)
    drift = only(replace(whole, declaration=replace(whole.declaration, profiles=())), Seen(declared=False))
    assert told(drift) == (kind, f"content:{BLOB}", "world", "lmctl apply")
