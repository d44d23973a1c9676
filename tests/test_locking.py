"""Bringing lock files up to date: what stays, what is resolved, what is upgraded, what is only reported."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.hub import Hub
from repositories import CONFIG, HELLO, OTHER, REPO, TREE, gguf, local, mlx

from lmctl import lockfile, locking
from lmctl.hosts.endpoint import Endpoint
from lmctl.hosts.hub import HuggingFace
from lmctl.locking import Selected
from lmctl.record import replace
from lmctl.spec import Artifact, Declaration, Lock, LockedFile, Machine, Profile, Settings, Wanted


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub() as held:
        yield held


@pytest.fixture
def hub(server: Hub) -> HuggingFace:
    return HuggingFace(Endpoint(server.url), backoff=0.01)


def declaration(folder: Path, *wanted: Wanted, local: tuple[Wanted, ...] = ()) -> Declaration:
    return Declaration("test", folder, folder / "localmodels.toml", (), wanted, local)


def changes(done: locking.Update) -> list[str]:
    return [change.id for change in done.changes]


def test_F48_one_artifact_that_fails_does_not_lose_the_others(server: Hub, hub: HuggingFace, tmp_path: Path):
    for number in range(8):
        server.add(f"owner/m{number}", {"m-Q4_K_M.gguf": HELLO})
    server.fault("owner/m3", status=404, where="all", headers={"X-Error-Code": "RepoNotFound"})
    wanted = [gguf(repo=f"owner/m{number}") for number in range(8)]
    done = locking.relock(declaration(tmp_path, *wanted), hub, Selected())
    assert {name: error.code for name, error in done.errors.items()} == {wanted[3].id: "E-MISSING"}
    assert sorted(lockfile.read(tmp_path / "localmodels.lock").artifacts) == [
        w.id for n, w in enumerate(wanted) if n != 3
    ]


def test_what_is_locked_stays_until_it_is_upgraded(server: Hub, hub: HuggingFace, tmp_path: Path):
    first = server.add(REPO, {"hello-Q4_K_M.gguf": HELLO})
    found = declaration(tmp_path, gguf())
    assert changes(locking.relock(found, hub, Selected())) == [gguf().id]
    second = server.add(REPO, {"hello-Q4_K_M.gguf": OTHER})
    server.requests.clear()
    assert locking.relock(found, hub, Selected()).changes == ()
    assert not server.requests
    (change,) = locking.relock(found, hub, Selected(upgrade=True)).changes
    assert change.before and change.after
    assert (change.before.commit, change.after.commit) == (first, second)


def test_only_what_is_named_is_locked_or_upgraded(server: Hub, hub: HuggingFace, tmp_path: Path):
    one, two = gguf(repo="owner/one"), gguf(repo="owner/two")
    for repo in ("owner/one", "owner/two"):
        server.add(repo, {"m-Q4_K_M.gguf": HELLO})
    found = declaration(tmp_path, one, two)
    assert changes(locking.relock(found, hub, Selected({one.id}))) == [one.id]
    assert locking.lock_missing(found, {two.id}, hub, frozenset(), tmp_path / "beside.lock") == {}
    assert not (tmp_path / "beside.lock").exists()
    for repo in ("owner/one", "owner/two"):
        server.add(repo, {"m-Q4_K_M.gguf": OTHER})
    assert changes(locking.relock(found, hub, Selected({two.id}, upgrade=True))) == [two.id]


def test_what_runs_undeclared_is_locked_beside(server: Hub, hub: HuggingFace, tmp_path: Path):
    loose, shared = gguf(repo="owner/loose"), gguf(repo="owner/shared")
    for repo in ("owner/loose", "owner/shared"):
        server.add(repo, {"m-Q4_K_M.gguf": HELLO})
    asked_by = {loose.id: ("one", "two"), shared.id: ("one", "code")}
    profiles = (Profile("one", "llama.cpp", loose, Settings()), Profile("code", "llama.cpp", shared, Settings()))
    found = replace(declaration(tmp_path, shared), profiles=profiles, local_variants=(loose,), asked_by=asked_by)
    beside = tmp_path / "state/undeclared.lock"
    beside.parent.mkdir()
    undeclared = frozenset(["one", "two"])
    assert locking.lock_missing(found, {loose.id, shared.id}, hub, undeclared, beside) == {}
    assert list(lockfile.read(tmp_path / "localmodels.lock").artifacts) == [shared.id]
    assert not (tmp_path / "localmodels.local.lock").exists()
    assert list(lockfile.read(beside).artifacts) == [loose.id]
    assert beside.stat().st_mode & 0o777 == 0o600


def test_an_upgrade_that_fails_keeps_the_old_entry(server: Hub, hub: HuggingFace, tmp_path: Path):
    server.add(REPO, {"hello-Q4_K_M.gguf": HELLO})
    found = declaration(tmp_path, gguf())
    locking.relock(found, hub, Selected())
    before = (tmp_path / "localmodels.lock").read_bytes()
    server.add(REPO, {"hello-Q4_K_M.gguf": b"<html>" * 100})
    done = locking.relock(found, hub, Selected(upgrade=True))
    assert done.errors[gguf().id].code == "E-GGUF"
    assert (tmp_path / "localmodels.lock").read_bytes() == before


def test_each_artifact_is_in_one_of_the_two_lock_files(server: Hub, hub: HuggingFace, tmp_path: Path):
    server.add(REPO, {"m-Q4_K_M.gguf": HELLO, "m-Q8_0.gguf": OTHER})
    found = declaration(tmp_path, gguf(), local=(gguf("Q8_0"), gguf()))
    locking.relock(found, hub, Selected())
    assert list(lockfile.read(tmp_path / "localmodels.lock").artifacts) == [gguf().id]
    assert list(lockfile.read(tmp_path / "localmodels.local.lock").artifacts) == [gguf("Q8_0").id]


def test_without_local_artifacts_there_is_no_local_lock(server: Hub, hub: HuggingFace, tmp_path: Path):
    server.add(REPO, {"m-Q4_K_M.gguf": HELLO})
    locking.relock(declaration(tmp_path, gguf()), hub, Selected())
    assert [path.name for path in tmp_path.iterdir()] == ["localmodels.lock"]


def test_the_lock_is_the_same_whatever_the_order_of_the_declaration(server: Hub, hub: HuggingFace, tmp_path: Path):
    server.add(REPO, {"m-Q4_K_M.gguf": HELLO, "m-Q8_0.gguf": OTHER})
    server.add("owner/Hello-MLX", TREE)
    wanted = (gguf(), gguf("Q8_0"), mlx())
    texts = []
    for number, order in enumerate((wanted, wanted[::-1])):
        (tmp_path / str(number)).mkdir()
        locking.relock(declaration(tmp_path / str(number), *order), hub, Selected())
        texts.append((tmp_path / str(number) / "localmodels.lock").read_bytes())
    assert texts[0] == texts[1]
    assert str(server.url).encode() not in texts[0] and str(tmp_path).encode() not in texts[0]


LOCKED = Artifact(gguf().id, "gguf", "a" * 40, {}, (LockedFile("m-Q4_K_M.gguf", "weights", 3, "b" * 64),))


def test_a_lock_that_holds_what_is_asked_for_is_in_order():
    assert locking.check(Lock({LOCKED.id: LOCKED}), [gguf()]) == []


def test_what_is_not_locked_makes_the_lock_stale():
    assert [p.code for p in locking.check(Lock(), [gguf(), mlx()])] == ["E-LOCK-STALE", "E-LOCK-STALE"]


def test_an_entry_of_another_format_makes_the_lock_stale():
    assert [p.code for p in locking.check(Lock({LOCKED.id: replace(LOCKED, format="mlx")}), [gguf()])] == [
        "E-LOCK-STALE"
    ]


def test_I89_an_entry_that_nothing_asks_for_is_a_warning_and_stays_until_pruned(hub: HuggingFace, tmp_path: Path):
    lockfile.write(tmp_path / "localmodels.lock", Lock({LOCKED.id: LOCKED}))
    found = declaration(tmp_path)
    assert [(p.code, p.what) for p in locking.check_files(found)] == [("W-STALE", f"nothing asks for {LOCKED.id}")]
    for selected in (Selected(), Selected(upgrade=True)):
        assert locking.relock(found, hub, selected).changes == ()
        assert LOCKED.id in lockfile.read(tmp_path / "localmodels.lock").artifacts
    (change,) = locking.relock(found, hub, Selected(prune=True)).changes
    assert (change.before, change.after) == (LOCKED, None)
    assert lockfile.read(tmp_path / "localmodels.lock") == Lock()


def test_a_local_file_that_changed_makes_the_lock_stale(tmp_path: Path, hub: HuggingFace):
    path = tmp_path / "hello.gguf"
    path.write_bytes(HELLO)
    found = declaration(tmp_path, local(path, tmp_path))
    locking.relock(found, hub, Selected())
    assert locking.check_contents(found) == []
    path.write_bytes(OTHER)
    assert [p.code for p in locking.check_contents(found)] == ["E-LOCK-STALE"]
    path.unlink()
    assert locking.check_contents(found) == []


def test_artifacts_are_resolved_side_by_side():
    together = threading.Barrier(4, timeout=30)

    def slow(wanted: Wanted) -> Artifact:
        together.wait()
        return replace(LOCKED, id=wanted.id)

    wanted = [gguf(repo=f"owner/m{number}") for number in range(8)]
    assert len(locking.update(Lock(), wanted, slow).changes) == 8


def test_an_id_asked_for_twice_is_resolved_once_and_as_weights():
    seen: list[Wanted] = []

    def count(wanted: Wanted) -> Artifact:
        seen.append(wanted)
        return replace(LOCKED, id=wanted.id)

    locking.update(Lock(), [replace(gguf(), role="draft"), gguf(), gguf()], count)
    assert seen == [gguf()]


def test_what_only_this_machine_uses_goes_to_the_local_lock(server: Hub, hub: HuggingFace, tmp_path: Path):
    server.add(REPO, {"m-Q4_K_M.gguf": HELLO})
    profile = Profile("p", "llama.cpp", gguf(), Settings())
    found = Declaration("test", tmp_path, tmp_path / "localmodels.toml", (profile,), machine=Machine())
    locking.relock(found, hub, Selected())
    assert list(lockfile.read(tmp_path / "localmodels.local.lock").artifacts) == [gguf().id]


@pytest.mark.parametrize(("trusted", "allowed"), [(True, ()), (False, ("remote_code",))], ids=["profile", "machine"])
def test_weights_that_bring_code_are_locked_where_their_profile_or_the_declaration_may(
    server: Hub, hub: HuggingFace, tmp_path: Path, trusted: bool, allowed: tuple[str, ...]
):
    server.add("owner/Hello-MLX", {**TREE, "config.json": json.dumps({**CONFIG, "auto_map": {"A": "b"}}).encode()})
    one = Profile("one", "mlx", mlx(), Settings())
    found = replace(declaration(tmp_path, mlx()), profiles=(one,), asked_by={mlx().id: ("one",)})
    (refused,) = locking.relock(found, hub, Selected()).errors[mlx().id].problems
    assert refused.code == "E-REMOTECODE"
    assert f"run `lmctl trust {tmp_path}/localmodels.toml`" in (refused.fix or "")
    other = replace(one, name="two", remote_code=True)
    assert locking.relock(replace(found, profiles=(one, other)), hub, Selected()).errors, "of another profile"
    machine = Machine(allow={"test": allowed})
    found = replace(found, profiles=(replace(one, remote_code=trusted),), machine=machine)
    assert changes(locking.relock(found, hub, Selected())) == [mlx().id]
