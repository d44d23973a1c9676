"""The main job with weights from the Hub: lock, fetch, verify, serve, upgrade."""

from __future__ import annotations

import pytest
from e2e_tools import ask, listening, outcomes, profile
from repositories import shards
from weights.hello import hello

REPO = "org/hello-GGUF"
FILES = {"hello-Q4_K_M.gguf": hello("Hello from the Hub."), "hello-Q8_0.gguf": hello("Too big."), "README.md": b"# Hi"}


@pytest.fixture
def commit(hub) -> str:
    """A repository with two quants; its commit."""
    return hub.add(REPO, FILES)


def bodies(hub) -> list[str]:
    """Return the paths of files whose bytes were asked for."""
    return [one.path for one in hub.asked("/resolve/", "GET")]


def test_a_repository_is_locked_fetched_verified_and_served(machine, hub, commit, port):
    machine.declare(profile("hello", model=REPO, quant="Q4_K_M", port=(number := port())))
    planned = machine.run("plan", "--json").data
    assert [(c["stage"], c["verb"], c["address"]) for c in planned["changes"]] == [
        ("lock", "create", f"lock:{REPO}@main:Q4_K_M")
    ]
    assert hub.requests == []
    applied = machine.run("apply", "--json").data
    assert set(outcomes(applied).values()) == {"done"}
    assert ask(number, "hi") == "Hello from the Hub."
    assert not [path for path in bodies(hub) if "Q8_0" in path or "README" in path]
    lock = (machine.folder / "localmodels.lock").read_text()
    assert f'commit   = "{commit}"' in lock
    assert hub.file(REPO, "hello-Q4_K_M.gguf").sha256 in lock
    assert "hello-Q8_0" not in lock
    row = machine.profiles()["hello"]
    assert (row["state"], row["model"], row["size"]) == ("healthy", f"{REPO}:Q4_K_M", len(FILES["hello-Q4_K_M.gguf"]))


def test_F17_a_second_apply_asks_nobody_and_restarts_nothing(machine, hub, commit, port):
    machine.declare(profile("hello", model=REPO, quant="Q4_K_M", port=port()))
    machine.run("apply")
    pid = machine.profiles()["hello"]["pid"]
    hub.requests.clear()
    assert "Nothing to do" in machine.run("apply").out
    assert "Nothing to do" in machine.run("plan").out
    machine.run("apply", "--locked")
    machine.run("verify", "--deep")
    assert machine.profiles()["hello"]["pid"] == pid
    assert hub.requests == []


def test_a_new_commit_is_taken_by_an_upgrade_of_the_lock_alone(machine, hub, commit, port):
    machine.declare(profile("hello", model=REPO, quant="Q4_K_M", port=(number := port())))
    machine.run("apply")
    new = hub.add(REPO, {**FILES, "hello-Q4_K_M.gguf": hello("A newer one.")})
    assert "Nothing to do" in machine.run("apply").out
    machine.run("lock")
    machine.run("lock", "--check")
    assert commit in (machine.folder / "localmodels.lock").read_text()
    assert f"  {commit[:12]}  {new[:12]}  " in machine.run("lock", "--upgrade").out
    planned = machine.run("plan", "--json", "--detailed-exitcode", code=2).data
    shown = {(change["verb"], change["address"]): change for change in planned["changes"]}
    assert set(shown) == {("create", f"weights:{REPO}@{new[:12]}:Q4_K_M"), ("restart", "program:hello")}
    assert shown["create", f"weights:{REPO}@{new[:12]}:Q4_K_M"]["download"] == len(hello("A newer one."))
    assert shown["restart", "program:hello"]["cause"] == [
        {"field": f"commit of {REPO}", "before": commit[:12], "after": new[:12]}
    ]
    assert ask(number, "hi") == "Hello from the Hub."
    machine.run("apply")
    assert ask(number, "hi") == "A newer one."
    assert "(unreferenced, goes in " in machine.run("prune", "--dry-run").out


def test_one_profile_of_two_is_upgraded_when_it_is_named(machine, hub, commit, port):
    other = hub.add("org/other-GGUF", FILES)
    machine.declare(
        profile("one", model=REPO, quant="Q4_K_M", port=port())
        + profile("two", model="org/other-GGUF", quant="Q4_K_M", port=port())
    )
    machine.run("lock")
    for repo in (REPO, "org/other-GGUF"):
        hub.add(repo, {"hello-Q4_K_M.gguf": hello("New.")})
    machine.run("lock", "--upgrade", "one")
    lock = (machine.folder / "localmodels.lock").read_text()
    assert commit not in lock
    assert other in lock


def test_shards_come_along_and_are_served_by_the_first(machine, hub, port):
    parts = shards("split-Q4_K_M", 3)
    hub.add("org/split-GGUF", parts)
    machine.declare(profile("split", model="org/split-GGUF", quant="Q4_K_M", port=port(), start="manual"))
    machine.run("apply")
    files = machine.run("verify", "--json").data["files"]
    assert sorted(each["path"].rpartition("/")[2] for each in files) == sorted(parts)
    assert {each["state"] for each in files} == {"ok"}


def test_a_projector_comes_along_unless_it_is_declined(machine, hub, port):
    hub.add("org/eyes-GGUF", {"eyes-Q4_K_M.gguf": hello("I see."), "mmproj-F16.gguf": hello("A projector.")})
    keys = {"model": "org/eyes-GGUF", "quant": "Q4_K_M", "start": "manual"}
    machine.declare(profile("eyes", **keys, port=port()))
    machine.run("apply")
    assert 'role     = "mmproj"' in (machine.folder / "localmodels.lock").read_text()
    assert [each["state"] for each in machine.run("verify", "--json").data["files"]] == ["ok", "ok"]
    machine.declare(profile("eyes", **keys, port=port(), mmproj=False))
    asked = hub.asked("mmproj")
    machine.run("apply")
    assert hub.asked("mmproj") == asked
    assert "--mmproj" not in machine.run("config", "--json").out


def test_two_profiles_that_share_a_file_fetch_it_once(machine, hub, commit, port):
    keys = {"model": REPO, "quant": "Q4_K_M"}
    one, two = port(), port()
    machine.declare(profile("one", **keys, port=one) + profile("two", **keys, port=two, ctx=2048))
    machine.run("lock")
    hub.requests.clear()
    machine.run("apply")
    assert len(bodies(hub)) == 1
    assert ask(one, "hi") == ask(two, "hi") == "Hello from the Hub."


def test_F32_a_renamed_profile_uses_its_weights_again(machine, hub, commit, port):
    number = port()
    machine.declare(profile("old", model=REPO, quant="Q4_K_M", port=number))
    machine.run("apply")
    machine.declare(profile("new", model=REPO, quant="Q4_K_M", port=number))
    hub.requests.clear()
    shown = {(c["verb"], c["address"]) for c in machine.run("plan", "--json").data["changes"]}
    assert shown == {("delete", "program:old"), ("create", "program:new")}
    machine.run("apply")
    assert hub.requests == []
    assert ask(number, "hi") == "Hello from the Hub."
    assert list(machine.profiles()) == ["new"]


def test_what_waits_for_its_start_is_neither_locked_nor_fetched_before(machine, hub, commit, port):
    machine.hello("A local one.")
    later = profile("later", model=REPO, quant="Q4_K_M", port=(number := port()), start="manual", fetch="start")
    machine.declare(later + profile("now", path="hello.gguf", port=port()))
    assert "1 profile not locked (lmctl lock): later" in machine.run("plan").out
    machine.run("apply")
    machine.run("apply", "--locked")
    assert hub.requests == []
    assert (machine.profiles()["later"]["drift"], listening(number)) == ("not locked", None)
    machine.run("start", "later")
    assert ask(number, "hi") == "Hello from the Hub."
    machine.run("stop", "later")
    assert "Nothing to do" in machine.run("plan").out


def test_naming_a_waiting_profile_in_apply_fetches_it(machine, hub, commit, port):
    machine.declare(profile("later", model=REPO, quant="Q4_K_M", port=port(), start="manual", fetch="start"))
    machine.run("lock")
    hub.requests.clear()
    machine.run("apply")
    assert hub.requests == []
    assert machine.run("verify", "--json").data["files"][0]["state"] == "missing"
    machine.run("apply", "later")
    assert machine.run("verify", "--json").data["files"][0]["state"] == "ok"
