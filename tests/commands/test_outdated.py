"""`lmctl outdated` against a loopback Hub: what moved is named with its size, and nothing is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fakes.hub import Hub
from weights.hello import hello

from lmctl.all_commands import load
from lmctl.arguments import parse
from lmctl.command import Options
from lmctl.compose import make_context
from lmctl.errors import LmctlError
from lmctl.result import Result
from lmctl.text import PLAIN, human_bytes

TOML = """\
version = 1
name = "test"

[profiles.near]
path = "near.gguf"

[profiles.far]
model = "owner/far"
quant = "Q4_K_M"

[profiles.away]
model = "owner/away"
quant = "Q4_K_M"
"""
OLD, NEW, OTHER = hello("This is old"), hello("This one is newer"), hello("Another one")
FAR, AWAY = "owner/far@main:Q4_K_M", "owner/away@main:Q4_K_M"

Run = Callable[..., Result]


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub() as held:
        held.add("owner/far", {"far-Q4_K_M.gguf": OLD, "README.md": b"old"})
        held.add("owner/away", {"away-Q4_K_M.gguf": OTHER})
        yield held


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "localmodels.toml").write_text(TOML)
    (tmp_path / "near.gguf").write_bytes(OTHER)
    return tmp_path


@pytest.fixture
def run(server: Hub, folder: Path, home: Path) -> Run:
    def typed(*argv: str, **environ: str) -> Result:
        name, args = parse(argv)
        environ = {"HOME": str(home), "HF_ENDPOINT": server.url, "PATH": "", **environ}
        return load(name).run(make_context(Options(folder, offline=args.offline), environ, "never"), args)

    return typed


def text(result: Result) -> str:
    return result.text if isinstance(result.text, str) else result.text(PLAIN)


def tree(*roots: Path) -> dict[str, tuple[int, int]]:
    """Return every file of folders with size and time of writing."""
    found = [Path(folder) / name for root in roots for folder, _, names in os.walk(root) for name in names]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def states(result: Result) -> dict[str, str]:
    return {one["id"]: one["state"] for one in result.data["artifacts"]}  # type: ignore[index, union-attr, misc]


def test_nothing_moved_is_one_line(run: Run):
    run("lock")
    assert text(run("outdated")) == "Nothing moved upstream: 2 artifacts as locked.\n"
    assert run("outdated").data["upgrade"] is None


def test_what_moved_is_a_table_that_ends_with_the_command_that_takes_it(run: Run, server: Hub):
    run("lock")
    old = server.repos["owner/far"].refs["main"][:12]
    new = server.add("owner/far", {"far-Q4_K_M.gguf": NEW, "README.md": b"new"})[:12]
    found = run("outdated")
    assert found.exit_code == 0
    size = human_bytes(len(NEW))
    head, row, *rest = text(found).splitlines()
    assert head.split() == ["ARTIFACT", "LOCKED", "NOW", "FILES", "FETCH"]
    assert row.split() == [FAR, old, new, "1", "of", "1", *size.split()]
    assert rest == [
        f"  ~ far-Q4_K_M.gguf  {human_bytes(len(OLD))} -> {size}",
        "",
        "1 of 2 moved upstream. Next: lmctl lock --upgrade far",
    ]
    assert found.data["upgrade"] == "lmctl lock --upgrade far"
    assert states(found) == {AWAY: "current", FAR: "moved"}


def test_nothing_is_written_and_no_byte_of_a_file_is_asked_for(run: Run, server: Hub, folder: Path, home: Path):
    run("lock")
    run("outdated")  # the parsed lock and configuration are in the cache now
    server.add("owner/far", {"far-Q4_K_M.gguf": NEW})
    before = tree(folder, home)
    server.requests.clear()
    run("outdated")
    assert tree(folder, home) == before
    assert server.requests
    assert not server.asked("/resolve/")


def test_lock_upgrade_takes_what_was_shown_and_shows_the_same_table(run: Run, server: Hub):
    run("lock")
    server.add("owner/far", {"far-Q4_K_M.gguf": NEW})
    shown = text(run("outdated")).partition("\n\n")[0]
    assert text(run("lock", "--upgrade", "far")) == f"{shown}\n\nLocked: 1 change."
    assert states(run("outdated")) == {AWAY: "current", FAR: "current"}


def test_a_new_commit_with_the_same_content_costs_nothing(run: Run, server: Hub):
    run("lock")
    server.add("owner/far", {"far-Q4_K_M.gguf": OLD, "README.md": b"new"})
    found = run("outdated")
    assert states(found)[FAR] == "same files"
    assert found.data["artifacts"][1]["fetch"] == 0  # type: ignore[index, call-overload]
    assert " same " in text(found)
    assert "lmctl lock --upgrade far" in text(found)


def test_profiles_name_what_is_asked_for(run: Run, server: Hub):
    run("lock")
    server.add("owner/far", {"far-Q4_K_M.gguf": NEW})
    server.requests.clear()
    assert states(run("outdated", "away")) == {AWAY: "current"}
    assert not server.asked("owner/far")
    with pytest.raises(LmctlError, match="did you mean `away`"):
        run("outdated", "awya")


def test_what_is_not_locked_yet_says_how_to_lock_it(run: Run):
    run("lock", "far")
    found = run("outdated")
    assert states(found) == {AWAY: "not locked", FAR: "current"}
    assert text(found).endswith("0 of 2 moved upstream. Next: lmctl lock away\n")


def test_a_commit_as_revision_cannot_move_and_is_not_asked_for(run: Run, server: Hub, folder: Path):
    commit = server.repos["owner/far"].refs["main"]
    file = folder / "localmodels.toml"
    file.write_text(TOML.replace('"owner/far"\n', f'"owner/far"\nrevision = "{commit}"\n'))
    run("lock")
    server.add("owner/far", {"far-Q4_K_M.gguf": NEW})
    server.requests.clear()
    assert states(run("outdated"))[f"owner/far@{commit}:Q4_K_M"] == "pinned"
    assert not server.asked("owner/far")


def test_F48_what_cannot_be_asked_is_told_and_the_rest_is_shown(run: Run, server: Hub):
    run("lock")
    server.fault("owner/far", where="all", status=404, headers={"X-Error-Code": "RepoNotFound"})
    found = run("outdated")
    assert (found.exit_code, states(found)) == (3, {AWAY: "current"})
    assert [(problem.code, problem.change) for problem in found.errors] == [("E-MISSING", f"lock:{FAR}")]
    only = run("outdated", "far")
    assert (only.exit_code, text(only)) == (7, "")


def test_a_quant_that_upstream_dropped_is_named(run: Run, server: Hub):
    run("lock")
    server.add("owner/far", {"far-Q8_0.gguf": NEW})
    found = run("outdated", "far")
    assert (found.exit_code, found.errors[0].code) == (65, "E-MATCH")


@pytest.mark.parametrize(("argv", "environ"), [(("--offline",), {}), ((), {"HF_HUB_OFFLINE": "1"})])
def test_F50_offline_is_an_error_said_once(run: Run, argv: tuple[str, ...], environ: dict[str, str]):
    run("lock")
    with pytest.raises(LmctlError) as caught:
        run("outdated", *argv, HF_ENDPOINT="https://hub.example", **environ)
    assert (caught.value.code, caught.value.exit_code, len(caught.value.problems)) == ("E-OFFLINE", 7, 1)


def test_local_files_have_no_upstream(run: Run, folder: Path):
    (folder / "localmodels.toml").write_text(TOML.partition("[profiles.far]")[0])
    run("lock")
    assert run("outdated").data["artifacts"] == []
    assert run("outdated", "--offline").exit_code == 0
