"""After uninstall the home is as it was before lmctl came, but for what stays by a reason that is told."""

from __future__ import annotations

import os
import pty
import shutil
from pathlib import Path

import pytest
from e2e_tools import listening, profile, until
from fakes.hub import Hub
from weights.hello import hello

REPO, FILE = "org/hello-GGUF", "hello-Q4_K_M.gguf"
WORDS = hello("Hello from the Hub.")


def tree(home: Path) -> dict[str, bytes | str]:
    """Return every file and link below a folder, but for sockets and what programs say of themselves."""
    found = [Path(above) / name for above, _, names in os.walk(home) for name in names]
    quiet = [path for path in found if not path.is_socket() and path.suffix not in {".pyc", ".log"}]
    return {str(path.relative_to(home)): _content(path) for path in quiet}


def _content(path: Path) -> bytes | str:
    return str(path.readlink()) if path.is_symlink() else path.read_bytes()


def folders_of_lmctl(home: Path) -> list[Path]:
    return [Path(above) / name for above, names, _ in os.walk(home) for name in names if name == "lmctl"]


@pytest.fixture
def before(machine, hub: Hub, port) -> dict[str, bytes | str]:
    """The home with two profiles declared and locked, before anything of them was applied."""
    hub.add(REPO, {FILE: WORDS})
    machine.hello()
    machine.ports = (port(), port())
    declared = profile("here", path="hello.gguf", port=machine.ports[0])
    machine.declare(declared + profile("hub", model=REPO, quant="Q4_K_M", port=machine.ports[1], start="manual"))
    machine.run("lock")
    machine.run("uninstall", "--yes")  # what `lock` left of its own
    return tree(machine.home)


def test_everything_that_lmctl_did_is_gone(machine, before):
    machine.run("apply")
    machine.run("start", "hub")
    until(lambda: all(listening(port) for port in machine.ports))
    machine.run("status")
    machine.run("logs", "here")
    ran = machine.run("uninstall", "--yes", "--json")
    assert ran.data["removed"] == ["team"]
    assert ran.data["programs"] == 2
    assert ran.data["kept"] == []
    assert tree(machine.home) == before
    assert folders_of_lmctl(machine.home) == []
    assert not machine.processes()
    assert "Nothing to remove" in machine.run("uninstall").out


def test_without_a_person_and_without_yes_nothing_changes(machine, before):
    machine.run("apply")
    there = tree(machine.home)
    ran = machine.run("uninstall", code=4)
    assert ran.err.splitlines()[-1].startswith("error[E-PRUNE]: nobody is there to ask")
    assert tree(machine.home) == there
    until(lambda: listening(machine.ports[0]))


def test_a_dry_run_lists_what_goes_with_its_bytes(machine, before):
    machine.run("apply")
    there = tree(machine.home)
    shown = machine.run("uninstall", "--dry-run").out
    assert "- stop   team: 1 program and supervisord" in shown
    assert f"- remove {REPO}@main:Q4_K_M  {len(WORDS) / 1024:.1f} KiB" in shown
    assert f"- remove {machine.state()}  " in shown
    assert tree(machine.home) == there


@pytest.mark.parametrize(("answer", "code"), [("n", 4), ("", 4), ("y", 0)])
def test_a_person_is_asked_once(machine, before, answer, code):
    machine.run("apply")
    there = tree(machine.home)
    mine, theirs = pty.openpty()
    try:
        process = machine.start("uninstall", stdin=theirs, stderr=theirs)
        os.write(mine, f"{answer}\n".encode())
        assert process.wait(timeout=60) == code
        shown = os.read(mine, 65536).decode()
        assert shown.count("Remove all this? [y/N]") == 1
    finally:
        process.communicate()
        os.close(mine)
        os.close(theirs)
    assert tree(machine.home) == (before if code == 0 else there)


def test_what_others_use_stays_with_the_reason(machine, hub: Hub, before):
    machine.run("apply")
    (blob,) = (machine.home / ".cache/huggingface/hub").glob("models--*/blobs/*")
    theirs = blob.parent.parent / "snapshots" / ("2" * 40) / FILE
    theirs.parent.mkdir(parents=True)
    theirs.symlink_to(os.path.relpath(blob, theirs.parent))
    ran = machine.run("uninstall", "--yes", "--json")
    assert [(one["path"], one["why"]) for one in ran.data["kept"]] == [
        (str(blob), "another tool's snapshot leads to it")
    ]
    assert theirs.read_bytes() == WORDS
    assert folders_of_lmctl(machine.home) == []


def test_what_another_declaration_refers_to_stays_and_so_does_its_state(machine, before):
    other = machine.home / "other"
    other.mkdir()
    text = profile("hub", model=REPO, quant="Q4_K_M", port=machine.ports[1], start="manual")
    (other / "localmodels.toml").write_text(f'version = 1\nname = "other"\n{text}')
    machine.run("apply")
    machine.run("-C", str(other), "apply")
    ran = machine.run("uninstall", "--yes")
    assert "(another declaration refers to it)" in ran.out
    assert not machine.state().exists()
    assert machine.state("other").exists()
    assert list((machine.home / ".cache/huggingface/hub").glob("models--*/blobs/*"))
    machine.run("-C", str(other), "plan")


def test_all_takes_every_declaration_whatever_became_of_its_files(machine, before, port):
    other = machine.home / "other"
    other.mkdir()
    text = profile("hub", model=REPO, quant="Q4_K_M", port=port())
    (other / "localmodels.toml").write_text(f'version = 1\nname = "other"\n{text}')
    machine.run("apply")
    machine.run("-C", str(other), "apply")
    shutil.rmtree(other)
    (machine.folder / "localmodels.toml").write_text("version = [")
    ran = machine.run("uninstall", "--all", "--yes", "--json", "-C", str(machine.home))
    assert (sorted(ran.data["removed"]), ran.data["kept"]) == (["other", "team"], [])
    assert folders_of_lmctl(machine.home) == []
    assert not list((machine.home / ".cache/huggingface/hub").glob("models--*/blobs/*"))
    assert not machine.processes()


def test_a_declaration_that_is_gone_leaves_by_its_state(machine, before):
    machine.run("apply")
    (machine.folder / "localmodels.toml").unlink()
    machine.run("uninstall", "--yes")
    assert folders_of_lmctl(machine.home) == []


def test_what_is_protected_stays(machine, hub: Hub, before):
    text = (machine.folder / "localmodels.toml").read_text()
    (machine.folder / "localmodels.toml").write_text(f"{text}protect = true\n")
    machine.run("apply")
    ran = machine.run("uninstall", "--yes")
    assert "(protected)" in ran.out
    assert list((machine.home / ".cache/huggingface/hub").glob("models--*/blobs/*"))


def test_what_cannot_be_removed_keeps_its_ledger(machine, before):
    machine.run("apply")
    (blob,) = (machine.home / ".cache/huggingface/hub").glob("models--*/blobs/*")
    machine.run("down")
    with blob.open("rb"):
        ran = machine.run("uninstall", "--yes")
    assert f"(in use by pid {os.getpid()})" in ran.out
    assert blob.exists()


def test_a_cache_that_moved_is_left_alone(machine, before):
    machine.run("apply")
    machine.environ["HF_HUB_CACHE"] = str(machine.home / "elsewhere")
    machine.run("plan")
    ran = machine.run("uninstall", "--yes")
    assert "(outside the Hugging Face cache as it is configured now)" in ran.out
    assert list((machine.home / ".cache/huggingface/hub").glob("models--*/blobs/*"))


def test_the_name_of_another_folder_is_refused(machine, before):
    machine.run("apply")
    other = machine.home / "other"
    other.mkdir()
    shutil.copy(machine.folder / "localmodels.toml", other)
    assert "E-NAME-TAKEN" in machine.run("-C", str(other), "uninstall", "--yes", code=4).err
    until(lambda: listening(machine.ports[0]))


def test_what_somebody_else_put_into_the_state_folder_stays_and_is_told(machine, before):
    machine.run("apply")
    state = machine.home / ".local/state/lmctl"
    there = [state / name for name in ("my-notes/a", "todo.txt", "team/mine", "team/logs/mine.txt", "team/own/deep/x")]
    (state / "empty").mkdir()
    for path in there:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("mine")
    (state / "team/programs/link").symlink_to(machine.home)
    stays = {*map(str, there), str(state / "empty"), str(state / "team/programs/link")}
    shown = machine.run("uninstall", "--all", "--dry-run", "--json").data
    assert (shown["declarations"], {one["path"] for one in shown["kept"]}) == (["team"], stays)
    ran = machine.run("uninstall", "--all", "--yes", "--json")
    assert ran.data["removed"] == ["team"]
    assert {one["path"]: one["why"] for one in ran.data["kept"]} == dict.fromkeys(
        stays, "not lmctl's; move it elsewhere, or remove it by hand"
    )
    assert {str(path) for path in state.rglob("*") if path.is_symlink() or path.is_file()} == stays - {
        str(state / "empty")
    }
    assert (machine.home / "repo/hello.gguf").exists()
    again = machine.run("uninstall", "--all", "--yes")
    assert "Nothing to remove" in again.out and str(state / "my-notes/a") in again.out


def test_an_edited_unit_stays_and_is_told_with_what_to_do(machine, before):
    machine.run("apply")
    machine.run("service", "install")
    unit = machine.home / ".config/systemd/user/lmctl-team.service"
    link = unit.parent / "default.target.wants" / unit.name
    if not unit.exists():
        pytest.skip("the unit of systemd")
    unit.write_text(unit.read_text() + "# mine\n")
    shown = machine.run("uninstall", "--dry-run").out
    assert "edited since lmctl wrote it; look at it, and remove it by hand" in shown
    ran = machine.run("uninstall", "--yes")
    assert str(unit) in ran.out and str(link) in ran.out
    assert "lmctl keeps nothing else on this machine" in ran.out
    assert unit.exists() and link.is_symlink()
    refused = machine.run("service", "uninstall", "--name", "team", code=4).err
    assert f"error[E-PRUNE]: {unit} was edited since lmctl wrote it" in refused
    unit.unlink()
    machine.run("service", "uninstall", "--name", "team")
    assert not link.is_symlink()
    assert "nothing of team is on this machine" in machine.run("service", "status", "--name", "team", code=8).err


def test_the_json_tells_what_a_dry_run_and_the_end_keep(machine, before):
    machine.run("apply")
    own = machine.home / ".cache/huggingface/lmctl/partial"
    own.mkdir(parents=True, exist_ok=True)
    (own / "readme").write_text("mine")
    ran = machine.run("uninstall", "--all", "--yes", "--json")
    assert [one["path"] for one in ran.data["kept"]] == [str(own / "readme")]
