"""What nothing declares any more goes when every rule lets it, and stays with a reason when one does not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_tools import ask, listening, outcomes, paused, profile
from weights.hello import hello

from lmctl.hosts.processes import LocalProcesses

REPO, FILE = "org/hello-GGUF", "hello-Q4_K_M.gguf"
NOW = '[prune]\nafter = "1ms"\n'


def blobs(home: Path) -> list[Path]:
    """Return all content in the Hugging Face cache."""
    return sorted(path for path in (home / ".cache/huggingface/hub").glob("models--*/blobs/*") if path.is_file())


def kept(machine, *words: str) -> list[str]:
    """Return why a dry run of prune keeps what is not declared."""
    out = machine.run("prune", "--dry-run", *words).out
    lines = [line for line in out.splitlines() if line.startswith("  keep")]
    return [line.partition("(")[2].rpartition(")")[0] for line in lines]


@pytest.fixture
def removed(machine, hub, port):
    """A declaration whose Hub profile was fetched, then removed; returns the blob that is left."""
    hub.add(REPO, {FILE: hello("Hello from the Hub.")})
    machine.hello("A local one.")
    here = profile("here", path="hello.gguf", port=port(), start="manual")
    machine.declare(here + profile("hub", model=REPO, quant="Q4_K_M", port=port(), start="manual"))
    machine.run("apply")
    machine.declare(here)
    (blob,) = blobs(machine.home)
    return blob


def test_a_removed_profile_s_weights_wait_seven_days_and_then_go(machine, removed):
    machine.run("apply")
    assert kept(machine) in ([f"unreferenced, goes in {left} (lmctl prune --now)"] for left in ("7d", "6d 23h"))
    machine.run("prune")
    assert removed.exists()
    file = machine.folder / "localmodels.toml"
    file.write_text(file.read_text() + NOW)
    planned = machine.run("prune", "--dry-run", "--json").data
    assert [(c["verb"], c["address"], c["destroys"]) for c in planned["changes"]] == [
        ("delete", f"content:{removed}", True)
    ]
    assert planned["summary"]["free"] == len(hello("Hello from the Hub."))
    assert removed.exists()
    machine.run("apply")
    assert blobs(machine.home) == []
    assert not (machine.home / ".cache/huggingface/hub/models--org--hello-GGUF").exists()


@pytest.mark.parametrize("words", [("prune", "--now"), ("apply", "--prune")], ids=" ".join)
def test_the_waiting_time_can_be_waived(machine, removed, words):
    machine.run("apply", "--no-prune")
    machine.run(*words)
    assert blobs(machine.home) == []
    assert kept(machine) == []


def test_no_prune_removes_nothing(machine, removed):
    file = machine.folder / "localmodels.toml"
    file.write_text(file.read_text() + NOW)
    machine.run("apply")  # from now on it waits its millisecond
    assert "content:" in machine.run("plan").out
    machine.run("apply", "--no-prune")
    assert removed.exists()
    file.write_text(file.read_text() + "auto = false\n")
    machine.run("apply")
    assert removed.exists()
    machine.run("apply", "--prune")
    assert not removed.exists()


def test_a_run_that_names_profiles_prunes_nothing(machine, removed):
    machine.run("apply", "here", "--prune")
    assert removed.exists()


@pytest.mark.parametrize(
    "emptied", ['version = 1\nname = "team"\n', "", None], ids=["F61-no-profiles", "F61-empty", "F61-gone"]
)
def test_F61_nothing_declared_never_means_remove_everything(machine, removed, emptied):
    file = machine.folder / "localmodels.toml"
    file.unlink() if emptied is None else file.write_text(emptied)
    for words in (("prune", "--now"), ("prune", "--now", "--yes"), ("apply", "--prune", "--yes")):
        assert machine.run(*words, code=None).code in (4, 65)
    assert removed.exists()


def test_F61_a_lost_lock_keeps_everything(machine, removed):
    (machine.folder / "localmodels.lock").unlink()
    assert kept(machine, "--now") == ["nothing is declared: that never means remove everything"]
    machine.run("prune", "--now")
    assert removed.exists()


def test_F61_a_lost_ledger_keeps_everything(machine, removed):
    for file in machine.state().glob("ledger.db*"):
        file.unlink()
    machine.run("prune", "--now")
    assert removed.exists()


def test_what_another_declaration_refers_to_is_kept(machine, hub, removed, port):
    other = machine.home / "other"
    other.mkdir()
    text = profile("hub", model=REPO, quant="Q4_K_M", port=port(), start="manual")
    (other / "localmodels.toml").write_text(f'version = 1\nname = "other"\n{text}')
    machine.run("-C", str(other), "apply")
    machine.run("apply")
    assert kept(machine, "--now") == ["another declaration refers to it"]
    (other / "localmodels.lock").write_text("version = [")
    assert kept(machine, "--now") == ["another declaration on this machine cannot be read"]
    shutil.move(other, machine.home / "away")
    assert kept(machine, "--now") == ["another declaration on this machine cannot be read"]
    machine.run("prune", "--now")
    assert removed.exists()


def test_what_a_stopped_program_of_another_declaration_would_serve_is_kept(machine, hub, removed, port):
    """It stands for an older apply, or for a rollback: neither is in the files of today."""
    other = machine.home / "other"
    other.mkdir()
    text = 'version = 1\nname = "other"\n'
    file = other / "localmodels.toml"
    file.write_text(text + profile("hub", model=REPO, quant="Q4_K_M", port=port(), start="manual"))
    machine.run("-C", str(other), "apply")
    shutil.copy2(machine.folder / "hello.gguf", other)
    file.write_text(text + profile("hub", path="hello.gguf", port=port(), start="manual"))
    (other / "localmodels.lock").unlink()
    machine.run("-C", str(other), "lock")
    machine.run("apply", "--prune")
    assert removed.exists()
    assert kept(machine, "--now") == ["a program's command names it"]
    (program,) = (machine.state("other") / "programs").glob("*.json")
    program.write_text("{")
    assert kept(machine, "--now") == ["another declaration on this machine cannot be read"]
    program.unlink()
    machine.run("prune", "--now")
    assert not removed.exists()


def test_what_another_declaration_came_to_refer_to_meanwhile_is_kept(machine, hub, removed, port):
    """Between the plan and the last stage lie downloads: the rules count when something is about to go."""
    other = machine.home / "other"
    other.mkdir()
    text = profile("hub", model=REPO, quant="Q4_K_M", port=port(), start="manual")
    (other / "localmodels.toml").write_text(f'version = 1\nname = "other"\n{text}')
    with paused(machine, "lmctl.recording.begin", "apply", "--prune") as go_on:
        machine.run("-C", str(other), "apply")
        ran = go_on()
    assert f"error[E-PRUNE]: {removed} stays: another declaration refers to it" in ran.err, ran
    assert removed.exists()


def test_what_is_protected_is_kept_until_its_own_profile_says_otherwise(machine, hub, port):
    hub.add(REPO, {FILE: hello("Hello from the Hub.")})
    machine.hello("A local one.")
    here = profile("here", path="hello.gguf", port=port(), start="manual")
    keys = {"model": REPO, "quant": "Q4_K_M", "port": port(), "start": "manual"}
    machine.declare(here + profile("hub", **keys, protect=True))
    machine.run("apply")
    machine.declare(here)
    machine.run("apply", "--prune")
    assert kept(machine, "--now") == ["protected"]
    assert len(blobs(machine.home)) == 1
    machine.declare(here + profile("hub", **keys, protect=False))
    machine.run("apply")
    machine.declare(here)
    machine.run("apply", "--prune")
    assert blobs(machine.home) == []


def test_F60_what_a_process_has_open_is_kept(machine, removed):
    machine.run("apply")
    with removed.open("rb"):
        assert kept(machine, "--now") == [f"in use by pid {os.getpid()}"]
        machine.run("prune", "--now")
        assert removed.exists()
    machine.run("prune", "--now")
    assert not removed.exists()


def test_F57_what_changed_since_is_kept(machine, removed):
    removed.write_bytes(b"somebody's own work")
    assert kept(machine, "--now") == ["changed since lmctl brought it"]
    machine.run("prune", "--now")
    assert removed.read_bytes() == b"somebody's own work"


def test_F57_a_link_in_the_place_of_a_blob_is_not_followed(machine, removed):
    mine = machine.home / "mine.gguf"
    shutil.copy2(removed, mine)
    removed.unlink()
    removed.symlink_to(mine)
    machine.run("prune", "--now")
    assert mine.exists()
    assert removed.is_symlink()


def test_F58_a_hard_link_keeps_its_content(machine, removed):
    mine = machine.home / "mine.gguf"
    mine.hardlink_to(removed)
    machine.run("apply", "--no-prune")
    shown = machine.run("prune", "--now", "--dry-run")
    assert f"- delete  content:{removed}" in shown.out and "0 B to free" in shown.out
    done = machine.run("prune", "--now", "--json").data
    assert ([change["free"] for change in done["changes"]], done["summary"]["free"]) == ([0], 0)
    assert not removed.exists()
    assert mine.read_bytes() == hello("Hello from the Hub.")


_OTHER_TOOL = """
import sys
from huggingface_hub import hf_hub_download
print(hf_hub_download(sys.argv[1], sys.argv[2], revision=sys.argv[3]))
"""


def test_F59_what_another_tool_links_in_the_shared_cache_stays_with_the_reason(machine, hub, removed):
    weights = hello("Hello from the Hub.")
    hub.add(REPO, {FILE: weights, "README.md": b"The same weights, another commit."}, "v2")
    words = [sys.executable, "-c", _OTHER_TOOL, REPO, FILE, "v2"]
    theirs = Path(subprocess.run(words, env=machine.env(), capture_output=True, text=True, check=True).stdout.strip())
    assert (theirs.is_symlink(), theirs.resolve()) == (True, removed.resolve()), "it found what lmctl brought"
    machine.run("apply", "--no-prune")
    for words in (("prune", "--now", "--dry-run"), ("prune", "--now"), ("apply", "--prune")):
        done = machine.run(*words, "--json").data
        assert (done["changes"], done["summary"]["free"]) == ([], 0)
    assert kept(machine, "--now") == ["another tool's snapshot leads to it"]
    assert theirs.read_bytes() == weights
    theirs.unlink()  # as that tool's own cleaning does
    done = machine.run("prune", "--now", "--json").data
    assert done["summary"]["free"] == len(weights)
    assert blobs(machine.home) == []


def test_F59_a_snapshots_folder_that_cannot_be_read_keeps_its_content_and_stops_nothing_else(machine, removed):
    snapshots = removed.parent.parent / "snapshots"
    snapshots.rename(snapshots.with_name("moved"))
    snapshots.write_text("no folder")
    assert kept(machine, "--now") == ["its snapshots cannot be read"]
    machine.run("apply", "--prune")
    assert removed.exists()


def test_what_a_removed_profile_served_goes_in_the_run_that_stops_it(machine, hub, port):
    hub.add(REPO, {FILE: hello("Hello from the Hub.")})
    machine.hello("A local one.")
    here = profile("here", path="hello.gguf", port=port())
    machine.declare(here + profile("hub", model=REPO, quant="Q4_K_M", port=(gone := port())))
    machine.run("apply")
    (blob,) = blobs(machine.home)
    assert LocalProcesses().holders([blob])[blob], "the engine has it open: this is what the test is about"
    machine.declare(here)
    assert kept(machine, "--now") == ["a program's command names it"], "pruning alone stops nothing"
    planned = machine.run("apply", "--prune", "--dry-run", "--json").data
    (change,) = (change for change in planned["changes"] if change["stage"] == "prune")
    assert (change["address"], change["needs"]) == (f"content:{blob}", ["program:hub"])
    done = machine.run("apply", "--prune", "--json").data
    assert outcomes(done) == {"program:hub": "done", f"content:{blob}": "done"}
    assert (listening(gone), blobs(machine.home)) == (None, [])


def test_what_another_process_has_open_as_well_stays_when_its_program_goes(machine, hub, port):
    hub.add(REPO, {FILE: hello("Hello from the Hub.")})
    machine.hello("A local one.")
    here = profile("here", path="hello.gguf", port=port())
    machine.declare(here + profile("hub", model=REPO, quant="Q4_K_M", port=port()))
    machine.run("apply")
    (blob,) = blobs(machine.home)
    machine.declare(here)
    with blob.open("rb"):
        assert outcomes(machine.run("apply", "--prune", "--json").data) == {"program:hub": "done"}
        assert kept(machine, "--now") == [f"in use by pid {os.getpid()}"]


def test_pruning_asks_first_whose_name_it_is(machine, removed):
    other = machine.home / "other"
    other.mkdir()
    for name in ("localmodels.toml", "localmodels.lock", "hello.gguf"):
        shutil.copy2(machine.folder / name, other / name)
    for words in (("prune", "--dry-run"), ("prune", "--now"), ("prune", "--now", "--dry-run")):
        assert "error[E-NAME-TAKEN]" in machine.run("-C", str(other), *words, code=4).err
    assert removed.exists()


def test_a_superseded_revision_goes_and_the_new_one_is_served(machine, hub, port):
    old = hub.add(REPO, {FILE: hello("Old words.")})
    machine.declare(profile("hub", model=REPO, quant="Q4_K_M", port=(number := port())))
    machine.run("apply")
    hub.add(REPO, {FILE: hello("New words.")})
    machine.run("lock", "--upgrade")
    machine.run("apply")
    machine.run("prune", "--now")
    assert [blob.read_bytes() for blob in blobs(machine.home)] == [hello("New words.")]
    assert not list((machine.home / ".cache/huggingface/hub").glob(f"*/snapshots/{old}"))
    assert ask(number, "hi") == "New words."


def test_F63_dead_partial_files_go(machine, hub, removed):
    machine.run("apply", "--prune")
    own = machine.home / ".cache/huggingface/lmctl"
    for folder in ("partial", "quarantine"):
        (own / folder).mkdir(parents=True, exist_ok=True)
        (own / folder / ("a" * 64)).write_bytes(b"x" * 5000)
    (own / "partial" / ("a" * 64 + ".json")).write_text("{}")
    machine.run("prune")
    assert len(list(own.glob("*/a*"))) == 3
    machine.run("prune", "--now")
    assert list(own.glob("*/a*")) == []


def test_more_bytes_than_the_limit_need_a_yes(machine, removed):
    config = machine.home / ".config/lmctl"
    config.mkdir(parents=True)
    (config / "machine.toml").write_text('[prune]\nmax_bytes = "10 KiB"\n')
    machine.run("apply", "--no-prune")
    ran = machine.run("prune", "--now", code=4)
    assert "error[E-PRUNE]" in ran.err
    assert "--yes" in ran.err
    assert removed.exists()
    machine.run("prune", "--now", "--yes")
    assert not removed.exists()
