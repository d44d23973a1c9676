"""What apply says of a Hub that fails: one line, the code, nothing half; the rest is served, the next run mends it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from e2e_tools import ask, listening, outcomes, profile
from weights.hello import hello

REPO, FILE = "org/hello-GGUF", "hello-Q4_K_M.gguf"
HOUR = {"Retry-After": "3600"}


def blobs(home: Path) -> list[Path]:
    """Return all content in the Hugging Face cache."""
    return [path for path in (home / ".cache/huggingface/hub").glob("models--*/blobs/*") if path.is_file()]


@pytest.fixture
def declared(machine, hub, port):
    """A declaration of one Hub profile, published and not locked; its port."""
    hub.add(REPO, {FILE: hello("Hello from the Hub.")})
    number = port()
    machine.declare(profile("hello", model=REPO, quant="Q4_K_M", port=number))
    return number


LOCKING = [
    pytest.param({"status": 401}, "E-AUTH", "does not accept", id="F41-401"),
    pytest.param(
        {"status": 403, "headers": {"X-Error-Code": "GatedRepo"}},
        "E-GATED",
        "ask for access at",
        id="F41-403-gated",
    ),
    pytest.param(
        {"status": 404, "headers": {"X-Error-Code": "RepoNotFound"}}, "E-MISSING", "does not exist", id="F41-404-repo"
    ),
    pytest.param(
        {"status": 404, "headers": {"X-Error-Code": "RevisionNotFound"}},
        "E-MISSING",
        "no revision",
        id="F41-404-revision",
    ),
    pytest.param({"status": 429, "headers": HOUR}, "E-RATE", "until", id="F39-3600"),
    pytest.param({"body": b"<html>log in</html>"}, "E-HUB", "not a Hugging Face endpoint", id="F45-captive-portal"),
]


def test_F41_without_a_token_it_says_that_one_is_needed(machine, hub, declared):
    machine.environ["HF_TOKEN"] = ""
    hub.fault(REPO, where="api", status=401)
    assert "needs a token" in machine.run("lock", code=7).err


@pytest.mark.parametrize(("fault", "code", "says"), LOCKING)
def test_what_cannot_be_locked_is_one_error_and_nothing_is_written(machine, hub, declared, fault, code, says):
    hub.fault(REPO, where="api", **fault)
    ran = machine.run("apply", code=7)
    (line,) = [one for one in ran.err.splitlines() if one.startswith("error[")]
    assert line.startswith(f"error[{code}]: ")
    assert says in line
    assert " — " in line
    assert not (machine.folder / "localmodels.lock").exists()
    assert machine.processes() == []
    hub.heal()
    machine.run("apply")
    assert ask(declared, "hi") == "Hello from the Hub."


FETCHING = [
    pytest.param({"cut": 1000}, 7, "E-NETWORK", "broke the connection", id="F34-truncated"),
    pytest.param({"flip": True}, 6, "E-HASH", "sha256", id="F35-wrong-bytes"),
    pytest.param({"headers": {"X-Linked-Etag": f'"{"a" * 64}"'}}, 6, "E-UPSTREAM", "lock --upgrade", id="F36-upstream"),
    pytest.param({"encoding": "endless"}, 7, "E-HUB", "sends more than", id="F38-endless"),
    pytest.param({"status": 503}, 7, "E-HUB", "answered 503", id="F40-503"),
    pytest.param({"status": 403}, 7, "E-AUTH", "may not read", id="F41-403"),
    pytest.param({"redirect": "http://169.254.169.254/latest"}, 7, "E-HUB", "does not follow", id="F43-metadata"),
    pytest.param({"headers": {"X-Repo-Commit": "../../x"}}, 7, "E-HUB", "commit", id="F44-commit"),
]


@pytest.mark.parametrize(("fault", "exit_code", "code", "says"), FETCHING)
def test_what_cannot_be_fetched_leaves_nothing_half(machine, hub, declared, fault, exit_code, code, says):
    machine.run("lock")
    lock = (machine.folder / "localmodels.lock").read_bytes()
    hub.fault(REPO, FILE, **fault)
    ran = machine.run("apply", "--json", code=exit_code)
    (error,) = ran.json["errors"]
    assert (error["code"], says in error["what"] + error.get("fix", "")) == (code, True), error
    assert error["fix"]
    assert sorted(outcomes(ran.data).values()) == ["blocked", "failed"]
    assert blobs(machine.home) == []
    assert listening(declared) is None
    assert (machine.folder / "localmodels.lock").read_bytes() == lock
    hub.heal()
    machine.run("apply")
    assert ask(declared, "hi") == "Hello from the Hub."
    assert "Nothing to do" in machine.run("plan").out


def test_F48_a_file_that_is_gone_keeps_no_other_profile_from_being_served(machine, hub, declared, port):
    hub.add("org/gone-GGUF", {FILE: hello("Never seen.")})
    machine.hello("A local one.")
    text = (machine.folder / "localmodels.toml").read_text()
    gone, local = port(), port()
    (machine.folder / "localmodels.toml").write_text(
        text
        + profile("gone", model="org/gone-GGUF", quant="Q4_K_M", port=gone)
        + profile("here", path="hello.gguf", port=local)
    )
    machine.run("lock")
    hub.fault("org/gone-GGUF", status=404, headers={"X-Error-Code": "EntryNotFound"})
    ran = machine.run("apply", code=3)
    assert f"error[E-MISSING]: org/gone-GGUF has no file {FILE}" in ran.err
    assert ask(declared, "hi") == "Hello from the Hub."
    assert ask(local, "hi") == "A local one."
    assert listening(gone) is None
    hub.heal()
    machine.run("apply")
    assert ask(gone, "hi") == "Never seen."


def test_F48_a_repository_that_cannot_be_locked_keeps_no_other_from_being_served(machine, hub, declared, port):
    file = machine.folder / "localmodels.toml"
    file.write_text(file.read_text() + profile("gone", model="org/never", quant="Q4_K_M", port=port()))
    ran = machine.run("apply", code=3)
    assert "error[E-MISSING]" in ran.err
    assert "org/never" in ran.err
    assert ask(declared, "hi") == "Hello from the Hub."
    assert machine.profiles()["gone"]["drift"] == "not locked"
    assert REPO in (machine.folder / "localmodels.lock").read_text()


def test_F35_old_weights_are_served_on_while_new_ones_are_wrong(machine, hub, declared):
    machine.run("apply")
    pid = machine.profiles()["hello"]["pid"]
    hub.add(REPO, {FILE: hello("A newer one.")})
    machine.run("lock", "--upgrade")
    hub.fault(REPO, FILE, flip=True)
    machine.run("apply", code=6)
    assert machine.profiles()["hello"]["pid"] == pid
    assert ask(declared, "hi") == "Hello from the Hub."
    hub.heal()
    machine.run("apply")
    assert ask(declared, "hi") == "A newer one."


def test_F49_a_missing_shard_is_named_before_anything_starts(machine, hub, port):
    from repositories import shards

    parts = shards("split-Q4_K_M", 3)
    absent = "split-Q4_K_M-00002-of-00003.gguf"
    hub.add("org/split-GGUF", {name: data for name, data in parts.items() if name != absent})
    machine.declare(profile("split", model="org/split-GGUF", quant="Q4_K_M", port=port()))
    ran = machine.run("apply", code=6)
    assert "error[E-SHARD]" in ran.err
    assert absent in ran.err
    assert machine.processes() == []


def test_F39_a_short_rate_limit_is_waited_for_and_told(machine, hub, declared):
    machine.run("lock")
    hub.fault(REPO, FILE, status=429, headers={"Retry-After": "1"}, times=1)
    ran = machine.run("apply")
    assert "limits the rate" in ran.err
    assert ask(declared, "hi") == "Hello from the Hub."


def test_F44_a_name_that_leads_out_of_the_cache_is_refused(machine, hub, port):
    hub.add("org/evil-GGUF", {"../../../evil-Q4_K_M.gguf": hello("Boo.")})
    machine.declare(profile("evil", model="org/evil-GGUF", quant="Q4_K_M", port=port()))
    ran = machine.run("apply", code=None)
    assert ran.code in (7, 65)
    assert "error[" in ran.err
    found = [os.path.join(top, name) for top, _, names in os.walk(machine.home) for name in names]
    assert not [path for path in found if "evil" in path]
