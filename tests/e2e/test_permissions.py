"""lmctl as a user without rights, where permissions are in the way: the path and the fix are told, never a defect."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from e2e_tools import profile
from fakes.llama_server import install
from kinds import NOBODY, as_nobody
from weights.hello import hello

pytestmark = pytest.mark.needs("uid")

REPO, FILE = "org/hello-GGUF", "hello-Q4_K_M.gguf"


def give(path: Path, owner: int = NOBODY) -> None:
    """Make all of a folder somebody's."""
    subprocess.run(["chown", "-R", "-h", f"{owner}:{owner}", str(path)], check=True)


@pytest.fixture
def machine(machine) -> Iterator:
    """A machine of somebody who has no rights but in the own home, with a stand-in engine first on PATH."""
    (machine.home / "bin").mkdir()
    install(machine.home / "bin")
    machine.environ["PATH"] = f"{machine.home}/bin{os.pathsep}{os.environ['PATH']}"
    give(machine.home)
    with as_nobody(machine.folder, machine.home) as before:
        machine.before = before
        yield machine
        subprocess.run(["chmod", "-R", "u+rwX", str(machine.home)], check=True)
        give(machine.home)
        machine.run("down", "--wait", code=None)
    machine.before = []
    with suppress(FileNotFoundError):
        shutil.rmtree(machine.home / ".local/state")


@pytest.fixture
def declare(machine, hub, port) -> Callable[..., None]:
    """Declare a local profile `near`, and with `far` one of the Hub; `keys` are more of `near`."""
    machine.hello()
    hub.add(REPO, {FILE: hello("Hello from the Hub.")})
    ports = port(), port()

    def declare(*, far: bool = False, **keys) -> None:
        text = profile("near", path="hello.gguf", port=ports[0], **keys)
        machine.declare(text + (profile("far", model=REPO, quant="Q4_K_M", port=ports[1]) if far else ""))
        give(machine.folder)

    declare()
    return declare


def refused(machine, *words: str, path: Path, code: int = 8) -> None:
    """Run what permissions keep from being done; it says so in one line with the path and a fix."""
    ran = machine.run(*words, code=code)
    (said,) = [line for line in ran.err.splitlines() if line.startswith("error[")]
    assert said.startswith(f"error[E-PERM]: {path}"), said
    assert " — " in said, said


def served(machine) -> tuple[str, int]:
    row = machine.profiles()["near"]
    return row["state"], row["pid"]


def wrong(ran) -> set[str]:
    return {one["check"] for one in ran.data["findings"] if one["state"] == "fail"}


def test_F55_a_state_folder_that_cannot_be_made(machine, declare):
    above = machine.home / ".local/state"
    above.mkdir(parents=True)
    above.chmod(0o555)
    refused(machine, "apply", path=above / "lmctl")
    refused(machine, "start", "near", path=above / "lmctl")
    for looks in ("plan", "status", "validate", "down"):
        assert machine.run(looks).err == ""
    assert wrong(machine.run("doctor", "--json", code=8)) == {"state folder"}
    above.chmod(0o755)
    give(machine.home)
    machine.run("apply")
    assert served(machine)[0] == "healthy"


def test_F55_a_state_folder_that_cannot_be_written_any_more(machine, declare):
    machine.run("apply")
    before = served(machine)
    machine.state().chmod(0o500)
    declare(ctx=1024)
    refused(machine, "apply", path=machine.state())
    assert "↻ restart program:near" in machine.run("plan").out
    assert wrong(machine.run("doctor", "--json", code=8)) == {"state of team"}
    assert served(machine) == before
    refused(machine, "stop", "near", path=machine.state())
    machine.state().chmod(0o700)
    machine.run("start", "near")
    machine.run("apply")
    assert served(machine)[0] == "healthy"


@pytest.mark.parametrize("where", ["other", "own"])
def test_F55_a_declaration_whose_state_is_shut_is_one_finding(machine, declare, where):
    """All the rest is judged and reported, in its own folder and in that of another declaration."""
    machine.run("apply")
    here = machine.home / "other" if where == "other" else machine.folder
    if where == "other":
        here.mkdir()
        (here / "localmodels.toml").write_text('version = 1\nname = "zebra"\n')
        give(here)
    machine.state().chmod(0)
    try:
        ran = machine.run("-C", str(here), "doctor", "--bundle", f"{here}/report.json", "--json", code=8)
    finally:
        machine.state().chmod(0o700)
    # the own declaration cannot be had without its state
    assert wrong(ran) == {"state of team", *(["declaration"] if where == "own" else [])}
    (finding,) = (one for one in ran.data["findings"] if one["check"] == "state of team")
    assert finding["what"] == f"{machine.state()} may not be read"
    assert (finding["code"], finding["fix"]) == ("E-PERM", "check who owns it and its permissions")
    assert {"hub", "declaration", "open files", "$HF_TOKEN"} <= {one["check"] for one in ran.data["findings"]}
    assert "(declaration 1)" in (here / "report.json").read_text()


def test_F55_a_state_folder_of_another_user(machine, declare):
    machine.run("apply")
    before = served(machine)
    declare(ctx=1024)
    give(machine.home / ".local", owner=0)
    state = machine.home / ".local"
    for words in (["plan"], ["apply"], ["status"], ["drift"], ["down"], ["stop", "near"]):
        refused(machine, *words, path=state)
    machine.run("validate")
    assert "state folder" in wrong(machine.run("doctor", "--json", code=8))
    give(machine.home / ".local")
    assert served(machine) == before


@pytest.mark.parametrize("mode", [0o500, 0], ids=["read-only", "shut"])
def test_F55_a_models_folder_that_cannot_be_written(machine, declare, hub, mode):
    cache = machine.home / ".cache/huggingface"
    machine.run("apply")
    before = served(machine)
    declare(far=True)
    machine.run("lock")
    cache.mkdir(exist_ok=True)
    give(cache)
    cache.chmod(mode)
    hub.requests.clear()
    refused(machine, "apply", path=cache, code=3)  # the other one is right
    assert hub.asked(FILE) == []
    for looks in ("plan", "status", "drift", "verify"):
        assert "E-BUG" not in machine.run(looks, code=None).err
    assert served(machine) == before
    cache.chmod(0o700)
    machine.run("apply")
    assert machine.profiles()["far"]["state"] == "healthy"


def test_F55_weights_in_another_user_s_folder_are_served_and_never_written(machine, declare):
    declare(far=True)
    machine.run("apply")
    machine.run("down", "--wait")
    cache = machine.home / ".cache/huggingface"
    give(cache, owner=0)
    subprocess.run(["chmod", "-R", "go+rX", str(cache)], check=True)
    machine.run("apply")
    assert machine.profiles()["far"]["state"] == "healthy"
    machine.run("verify", "--deep")
    declare()
    refused(machine, "apply", "--prune", path=cache, code=3)
    assert len(list(cache.glob("hub/models--*/blobs/*"))) == 1
    give(cache)
    machine.run("prune", "--now", "--yes")
    assert not list(cache.glob("hub/models--*/blobs/*"))


def test_F55_a_configuration_that_cannot_be_read(machine, declare):
    machine.run("apply")
    pid = served(machine)[1]
    main, more = machine.folder / "localmodels.toml", machine.folder / "profiles/more.toml"
    settings = machine.home / ".config/lmctl/machine.toml"
    main.write_text(main.read_text().replace('"team"\n', '"team"\ninclude = ["profiles/*.toml"]\n'))
    for file, text in ((more, 'path = "hello.gguf"\nstart = "manual"\n'), (settings, "")):
        file.parent.mkdir(parents=True)
        file.write_text(text)
    give(machine.home)
    machine.run("validate")
    for file in (main, more, settings, machine.folder):
        mode = file.stat().st_mode
        file.chmod(0)
        for words in (["plan"], ["apply"]):
            ran = machine.run(*words, code=8)
            assert ran.err.startswith("error[E-PERM]: ") and ran.err.count("\n") == 1, ran.err
            assert file.name in ran.err and " — check its permissions" in ran.err, ran.err
        assert machine.run("status").out.count("healthy") == 1 or file == settings
        file.chmod(mode)
    assert served(machine) == ("healthy", pid)


def test_F55_a_declaration_whose_folder_takes_no_lock_file(machine, declare):
    machine.folder.chmod(0o555)
    for words in (["lock"], ["apply"]):
        refused(machine, *words, path=machine.folder / "localmodels.lock")
    assert sorted(path.name for path in machine.folder.iterdir()) == ["hello.gguf", "localmodels.toml"]


@pytest.mark.parametrize("far", [False, True], ids=["local", "of-the-hub"])
def test_F56_weights_that_cannot_be_read_any_more_start_nothing_and_stop_nothing(machine, declare, far):
    declare(far=far)
    machine.run("apply")
    before = machine.profiles()
    blob = next((machine.home / ".cache/huggingface/hub").glob("models--*/blobs/*")) if far else None
    name, file = ("far", blob) if blob else ("near", machine.folder / "hello.gguf")
    file.chmod(0)
    shown = file if not far else machine.home / ".cache/huggingface/hub"
    for words in (["verify"], ["verify", "--deep"], ["restart", name]):
        refused(machine, *words, path=shown)
    if not far:
        declare(ctx=1024)
        refused(machine, "apply", path=shown)
    after = machine.profiles()
    assert {row: (after[row]["state"], after[row]["pid"]) for row in after} == {
        row: ("healthy", before[row]["pid"]) for row in before
    }
    machine.run("stop", name)
    refused(machine, "start", name, path=shown)
    file.chmod(0o600)
    machine.run("start", name)
    assert machine.profiles()[name]["state"] == "healthy"


def test_F57_what_cannot_be_removed_stays_ours_until_it_can(machine, declare):
    declare(far=True)
    machine.run("apply")
    (blob,) = (machine.home / ".cache/huggingface/hub").glob("models--*/blobs/*")
    declare()
    blob.parent.chmod(0o500)
    refused(machine, "apply", "--prune", path=blob, code=3)
    assert blob.exists()
    blob.parent.chmod(0o700)
    machine.run("prune", "--now", "--yes")
    assert not blob.exists()


@pytest.mark.parametrize("mode", [0o600, 0o666], ids=["shut", "open"])
def test_F15_a_lock_file_of_another_user(machine, declare, mode):
    machine.run("apply")
    before = served(machine)
    declare(ctx=1024)
    lock = machine.state() / "lock"
    os.chown(lock, 0, 0)
    lock.chmod(mode)
    for words in (["apply"], ["stop", "near"]):
        ran = machine.run(*words, code=8)
        assert ran.err == f"error[E-PERM]: {lock} is not a regular file of this user — remove it\n"
    assert served(machine) == before


def test_F52_a_token_that_only_another_user_may_read(machine, declare):
    declare(far=True)
    machine.environ["HF_TOKEN"] = ""
    token = machine.home / ".cache/huggingface/token"
    token.parent.mkdir(parents=True)
    token.write_text("hf_0123")
    give(machine.home)
    os.chown(token, 0, 0)
    token.chmod(0o600)
    refused(machine, "lock", path=token)
    assert wrong(machine.run("doctor", "--json", code=8)) == {"hub"}
    token.chmod(0o644)
    machine.run("lock")
    findings = machine.run("doctor", "--json").data["findings"]
    assert [one["state"] for one in findings if one["check"] == "token"] == ["warn"]
