"""Downloads as a person meets them: killed and gone on with, asked for by name, and never with a token in sight."""

from __future__ import annotations

import signal
from pathlib import Path

import canary
import psutil
import pytest
from e2e_tools import ask, listening, profile, until
from hub import MIB
from weights.hello import hello

REPO, FILE = "org/hello-GGUF", "hello-Q4_K_M.gguf"
SIZE = 24 * MIB


def padded(sentence: str, size: int = SIZE) -> bytes:
    """Return a model that answers `sentence` with so many bytes behind its tensors."""
    data = hello(sentence)
    return data + bytes(size - len(data))


def partial(home: Path) -> int:
    """Return how many bytes on disk the partial files hold."""
    files = (home / ".cache/huggingface/lmctl/partial").glob("*")
    return sum(file.stat().st_blocks * 512 for file in files if file.suffix != ".json")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=["F02-kill", "F08-term", "int"])
def test_a_download_that_is_ended_goes_on_where_it_stopped(machine, hub, port, number):
    hub.add(REPO, {FILE: padded("It went on.")})
    machine.declare(profile("hello", model=REPO, quant="Q4_K_M", port=(listen := port())))
    machine.run("lock")
    held = hub.fault(REPO, FILE, where="get", stall=22 * MIB)  # so that it does not end by itself
    process = machine.start("apply")
    until(lambda: partial(machine.home) > 20 * MIB if number == signal.SIGKILL else partial(machine.home) > 4 * MIB)
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    assert process.returncode == {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}[number], out + err
    assert "Traceback" not in err
    if number != signal.SIGKILL:
        assert "finishing what is under way" in err
        assert f"error[E-INTERRUPTED]: {FILE} is not finished — run it again: it goes on" in err
        assert "E-NETWORK" not in err and "failed" not in err
        assert "0 of 2 changes done" in out
    assert listening(listen) is None
    planned = machine.run("plan", "--json").data["summary"]["download"]
    assert 0 < planned < SIZE - 3 * MIB, "what is here already is not fetched again"
    hub.repos[REPO].faults.remove(held)
    hub.requests.clear()
    machine.run("apply")
    assert ask(listen, "hi") == "It went on."
    starts = [one.headers.get("range", "bytes=0-") for one in hub.asked(FILE, "GET")]
    begun = min(int(start.removeprefix("bytes=").partition("-")[0]) for start in starts)
    assert begun > (20 - 16) * MIB - MIB if number == signal.SIGKILL else begun > 3 * MIB


def test_an_interrupted_download_says_how_to_go_on(machine, hub):
    hub.add(REPO, {FILE: padded("It went on.")})
    hub.fault(REPO, FILE, where="get", rate=0.5 * MIB)
    process = machine.start("download", REPO, "--quant", "Q4_K_M")
    until(lambda: partial(machine.home) > MIB)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, "failed" in err) == (130, False), err
    assert "what has arrived is kept: run it again, and it goes on\ninterrupted\n" in err
    hub.heal()
    machine.run("download", REPO, "--quant", "Q4_K_M")


def test_a_killed_apply_between_fetch_and_start_never_loses_what_it_owns(machine, hub, port):
    hub.add(REPO, {FILE: padded("Still mine.")})
    machine.declare(profile("hello", model=REPO, quant="Q4_K_M", port=port()))
    machine.run("lock")
    process = machine.start("apply")
    blobs = machine.home / ".cache/huggingface/hub"
    until(lambda: list(blobs.glob("models--*/snapshots/*/*")))
    process.kill()
    process.communicate()
    machine.run("apply")
    machine.declare(profile("other", path=machine.hello().name, port=port()))
    machine.run("apply")
    machine.run("prune", "--now")
    assert list(blobs.glob("models--*/blobs/*")) == []


def test_download_brings_a_quant_that_nothing_declares_and_prune_keeps_it(machine, hub, port):
    commit = hub.add(REPO, {FILE: hello("By name."), "hello-Q8_0.gguf": hello("Large.")})
    ran = machine.run("download", REPO, "--quant", "Q4_K_M", "--json").data
    assert (ran["commit"], ran["downloaded"]) == (commit, len(hello("By name.")))
    (path,) = ran["files"]
    assert Path(path).read_bytes() == hello("By name.")
    assert f"snapshots/{commit}/{FILE}" in path
    again = machine.run("download", REPO, "--quant", "Q4_K_M", "--json").data
    assert again["downloaded"] == 0
    machine.hello("A local one.")
    machine.declare(profile("here", path="hello.gguf", port=port()))
    machine.run("apply")
    machine.run("prune", "--now")
    assert Path(path).exists()


def test_download_of_one_file_at_one_revision(machine, hub):
    old = hub.add(REPO, {FILE: hello("Old.")}, "v1")
    hub.add(REPO, {FILE: hello("New.")})
    ran = machine.run("download", REPO, "--file", FILE, "--revision", "v1", "--json").data
    assert ran["commit"] == old
    assert Path(ran["files"][0]).read_bytes() == hello("Old.")
    by_commit = machine.run("download", REPO, "--file", FILE, "--revision", old, "--json").data
    assert by_commit["downloaded"] == 0


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        pytest.param((REPO, "--quant", "Q9_Z"), 65, "E-MATCH", id="no-such-quant"),
        pytest.param((REPO, "--file", "none.gguf"), 65, "E-MATCH", id="no-such-file"),
        pytest.param((REPO, "--revision", "v9"), 7, "E-MISSING", id="no-such-revision"),
        pytest.param(("org/never", "--quant", "Q4_K_M"), 7, "E-MISSING", id="no-such-repository"),
        pytest.param(("../x",), 65, "E-REPO", id="I41-no-repository"),
        pytest.param((REPO, "--quant", "Q4_K_M", "--file", FILE), 64, "E-USAGE", id="quant-and-file"),
    ],
)
def test_download_says_what_is_not_there(machine, hub, words, code, says):
    hub.add(REPO, {FILE: hello("By name.")})
    ran = machine.run("download", *words, code=code)
    assert f"error[{says}]" in ran.err
    assert len([line for line in ran.err.splitlines() if line.startswith("error[")]) == 1


def test_a_repository_is_served_without_a_declaration_until_it_is_stopped(machine, hub, port):
    hub.add(REPO, {FILE: hello("Nobody declared me.")})
    number = port()
    machine.run("start", "--model", REPO, "--quant", "Q4_K_M", "--port", str(number))
    assert ask(number, "hi") == "Nobody declared me."
    machine.run("stop", "hello")
    assert listening(number) is None
    assert "hello" not in machine.profiles()


def test_a_token_goes_to_the_hub_alone_and_is_written_nowhere(machine, hub, port):
    hub.add(REPO, {FILE: hello("A secret kept.")})
    file, commit = hub.file(REPO, FILE), hub.repos[REPO].refs["main"]
    named = {"X-Repo-Commit": commit, "X-Linked-Etag": f'"{file.sha256}"', "X-Linked-Size": str(file.size)}
    hub.fault(REPO, FILE, redirect=f"{hub.elsewhere}{{path}}", headers=named, where="get", skip=1)
    machine.declare(profile("hello", model=REPO, quant="Q4_K_M", port=(number := port())))
    for words in (("apply", "-v"), ("status", "-v"), ("config",), ("plan",)):
        machine.run(*words)
    assert ask(number, "hi") == "A secret kept."
    hub.add(REPO, {FILE: hello("Another one.")})
    hub.fault(REPO, status=401, where="all")
    machine.run("lock", "--upgrade", "--debug", code=7)
    sent = {one.headers.get("authorization") for one in hub.requests if one.server == "hub"}
    assert sent == {f"Bearer {canary.TOKEN}"}
    assert {one.headers.get("authorization") for one in hub.requests if one.server == "elsewhere"} == {None}
    assert [*canary.in_processes(machine.processes()), *canary.in_files(machine.home)] == []
    assert list(canary.in_texts(machine.said)) == []
    assert psutil.pid_exists(machine.profiles()["hello"]["pid"])
