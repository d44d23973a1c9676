"""`lmctl lock` as it is typed: real configuration, real files, a loopback Hub."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from e2e_tools import until
from fakes.hub import Hub
from weights.hello import hello

from lmctl.command import Options
from lmctl.commands import lock
from lmctl.compose import make_context
from lmctl.errors import LmctlError
from lmctl.mutex import exclusive
from lmctl.result import Result
from lmctl.text import PLAIN

TOML = """\
version = 1
name = "test"

[profiles.near]
path = "near.gguf"

[profiles.far]
model = "owner/far"
quant = "Q4_K_M"
start = "manual"
"""
OTHER_MACHINE = """
[[profiles.far.when]]
os = ["linux", "darwin"]
accelerator = "rocm"
quant = "Q8_0"
"""
NEAR, FAR, OTHER = hello("This is near"), hello("That is far"), hello("Another one")
FAR_ID = "owner/far@main:Q4_K_M"

Run = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub() as held:
        held.add("owner/far", {"far-Q4_K_M.gguf": FAR, "far-Q8_0.gguf": OTHER})
        yield held


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "localmodels.toml").write_text(TOML)
    (tmp_path / "near.gguf").write_bytes(NEAR)
    return tmp_path


@pytest.fixture
def run(server: Hub, folder: Path, home: Path) -> Run:
    def typed(*argv: str, offline: bool = False) -> Result:
        parser = argparse.ArgumentParser()
        lock.add_arguments(parser)
        environ = {"HOME": str(home), "HF_ENDPOINT": server.url, "PATH": ""}
        context = make_context(Options(folder, offline=offline), environ, "never")
        return lock.run(context, parser.parse_args(argv))

    return typed


def text(result: Result) -> str:
    return result.text if isinstance(result.text, str) else result.text(PLAIN)


def test_lock_says_what_it_locked_and_the_second_run_has_nothing_to_do(run: Run, server: Hub, folder: Path):
    first = run()
    assert first.exit_code == 0
    commit = server.repos["owner/far"].refs["main"][:12]
    far, near = (f"{len(content) / 1024:.1f} KiB" for content in (FAR, NEAR))
    assert text(first).splitlines() == [
        f"+ {FAR_ID}  {commit}, 1 file, {far}",
        f"+ path=near.gguf  1 file, {near}",
        "",
        "Locked: 2 changes.",
    ]
    before = (folder / "localmodels.lock").read_bytes()
    assert text(run()) == "The lock is up to date: 2 artifacts."
    assert (folder / "localmodels.lock").read_bytes() == before


def test_upgrade_shows_the_old_and_the_new_commit(run: Run, server: Hub):
    run()
    old = server.repos["owner/far"].refs["main"][:12]
    new = server.add("owner/far", {"far-Q4_K_M.gguf": OTHER})[:12]
    assert text(run()) == "The lock is up to date: 2 artifacts."
    done = run("--upgrade", "far")
    head, row, file, *_ = text(done).splitlines()
    assert head.split() == ["ARTIFACT", "LOCKED", "NOW", "FILES", "FETCH"]
    assert row.startswith(f"{FAR_ID}  {old}  {new}  1 of 1  ")
    assert file.startswith("  ~ far-Q4_K_M.gguf  ")
    (change,) = done.data["changes"]  # type: ignore[misc]
    assert change["id"] == FAR_ID and change["after"]["bytes"] == len(OTHER)  # type: ignore[index, call-overload]


def test_upgrade_of_a_local_file_shows_its_hashes(run: Run, folder: Path):
    run("near")
    (folder / "near.gguf").write_bytes(OTHER)
    assert text(run("near")) == "The lock is up to date: 1 artifact."
    old, new = (hashlib.sha256(content).hexdigest()[:12] for content in (NEAR, OTHER))
    assert f"path=near.gguf  {old}  {new}  1 of 1" in text(run("--upgrade", "near"))


def test_a_commit_with_the_same_files_says_so(run: Run, server: Hub):
    run()
    server.add("owner/far", {"far-Q4_K_M.gguf": FAR, "README.md": b"new"})
    assert text(run("--upgrade")).splitlines()[1].split()[3] == "same"


def test_check_exits_66_until_the_lock_is_complete(run: Run, folder: Path):
    stale = run("--check")
    assert stale.exit_code == 66
    assert [problem.code for problem in stale.errors] == ["E-LOCK-STALE"] * 2
    assert not (folder / "localmodels.lock").exists()
    run("near")
    assert run("--check").exit_code == 66
    assert run("--check", "near").exit_code == 0
    run()
    assert run("--check", offline=True).exit_code == 0


def test_check_sees_that_a_local_file_changed(run: Run, folder: Path):
    run()
    (folder / "near.gguf").write_bytes(OTHER)
    assert [problem.what for problem in run("--check").errors] == [
        "near.gguf of path=near.gguf is not the file that is locked"
    ]


def test_what_another_machine_would_ask_for_is_locked_too(run: Run, folder: Path):
    with (folder / "localmodels.toml").open("a") as file:
        file.write(OTHER_MACHINE)
    run()
    assert "far-Q8_0.gguf" in (folder / "localmodels.lock").read_text()


def test_a_named_profile_is_locked_and_upgraded_for_every_machine(run: Run, server: Hub, folder: Path):
    with (folder / "localmodels.toml").open("a") as file:
        file.write(OTHER_MACHINE + """[[profiles.far.when]]\naccelerator = "cuda"\npath = "odd.gguf"\n""")
    (folder / "odd.gguf").write_bytes(NEAR)
    run("far")
    assert run("--check", "far").exit_code == 0
    assert "near.gguf" not in (folder / "localmodels.lock").read_text()
    (folder / "odd.gguf").write_bytes(OTHER)
    (changed,) = run("--check").errors[1:]
    assert changed.fix == "lock it anew with `lmctl lock --upgrade PROFILE`"
    server.add("owner/far", {"far-Q4_K_M.gguf": OTHER, "far-Q8_0.gguf": FAR})
    assert [change["id"] for change in run("--upgrade", "far").data["changes"]] == [  # type: ignore[index, union-attr]
        "owner/far@main:Q4_K_M",
        "owner/far@main:Q8_0",
        "path=odd.gguf",
    ]
    assert run("--check", "far").exit_code == 0


def test_what_only_the_local_file_asks_for_is_locked_beside(run: Run, folder: Path):
    (folder / "localmodels.local.toml").write_text('[profiles.far]\nquant = "Q8_0"\n')
    run()
    assert FAR_ID in (folder / "localmodels.lock").read_text()
    assert "Q8_0" not in (folder / "localmodels.lock").read_text()
    assert "owner/far@main:Q8_0" in (folder / "localmodels.local.lock").read_text()


def test_F48_what_fails_is_told_and_the_rest_is_locked(run: Run, server: Hub, folder: Path):
    server.fault("owner/far", where="all", status=404, headers={"X-Error-Code": "RepoNotFound"})
    done = run()
    assert done.exit_code == 3
    assert [(problem.code, problem.change) for problem in done.errors] == [("E-MISSING", f"lock:{FAR_ID}")]
    assert "near.gguf" in (folder / "localmodels.lock").read_text()
    assert run().exit_code == 7


def test_offline_names_the_artifact_that_needs_the_hub(home: Path, folder: Path):
    environ = {"HOME": str(home), "PATH": ""}
    parser = argparse.ArgumentParser()
    lock.add_arguments(parser)
    done = lock.run(make_context(Options(folder, offline=True), environ, "never"), parser.parse_args(["far"]))
    assert (done.exit_code, done.errors[0].code) == (7, "E-OFFLINE")
    assert FAR_ID in done.errors[0].what


def test_I89_an_entry_of_a_profile_that_is_gone_is_a_warning_until_it_is_pruned(run: Run, folder: Path):
    run()
    toml = (folder / "localmodels.toml").read_text()
    (folder / "localmodels.toml").write_text(toml.partition("[profiles.far]")[0])
    for argv in ((), ("--upgrade",)):
        assert [problem.code for problem in run(*argv).warnings] == ["W-STALE"]
    check = run("--check")
    assert (check.exit_code, [problem.code for problem in check.warnings]) == (0, ["W-STALE"])
    assert text(run("--prune")).startswith(f"- {FAR_ID}  dropped")
    assert run("--check").warnings == ()


def test_wait_waits_for_the_other_lmctl(run: Run, home: Path, folder: Path, capsys: pytest.CaptureFixture[str]):
    held = home / ".local/state/lmctl/test/apply.lock"
    with ThreadPoolExecutor(1) as pool:
        with exclusive(held, "lmctl apply"):
            with pytest.raises(LmctlError, match="--wait") as caught:
                run("near")
            assert caught.value.code == "E-BUSY"
            waiting = pool.submit(run, "near", "--wait")
            until(lambda: "waiting for another lmctl: pid " in capsys.readouterr().err)
            assert not (folder / "localmodels.lock").exists()
        assert waiting.result(timeout=60).exit_code == 0
    assert "near.gguf" in (folder / "localmodels.lock").read_text()


def test_F33_a_lock_of_a_newer_lmctl_is_left_alone(run: Run, folder: Path):
    (folder / "localmodels.lock").write_text("version = 2\n")
    with pytest.raises(LmctlError) as caught:
        run()
    assert (caught.value.code, caught.value.exit_code) == ("E-LOCK-NEWER", 66)
    assert (folder / "localmodels.lock").read_text() == "version = 2\n"


def test_a_profile_that_is_not_declared_is_a_mistake(run: Run):
    with pytest.raises(LmctlError, match="did you mean `near`"):
        run("neer")
