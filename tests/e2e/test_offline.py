"""Without the Hub: what is locked and there is served, and what is not is one error."""

from __future__ import annotations

import shutil

import pytest
from e2e_tools import ask, listening, profile
from fakes.ports import free_port
from weights.hello import hello

REPO, FILE = "org/hello-GGUF", "hello-Q4_K_M.gguf"


@pytest.fixture
def fetched(machine, hub, port):
    """A Hub profile that was applied once and is down now; its port."""
    hub.add(REPO, {FILE: hello("Hello from the Hub.")})
    number = port()
    machine.declare(profile("hello", model=REPO, quant="Q4_K_M", port=number))
    machine.run("apply")
    machine.run("down")
    return number


def refused() -> str:
    """Return an address that refuses connections."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        pytest.param("refused", (), id="F47-refused"),
        pytest.param("https://hub.invalid", (), id="F47-dns"),
        pytest.param("https://hub.invalid", ("--offline",), id="offline"),
    ],
)
def test_what_is_locked_and_there_is_served_without_the_hub(machine, fetched, endpoint, words):
    machine.environ["HF_ENDPOINT"] = refused() if endpoint == "refused" else endpoint
    machine.run(*words, "apply", "--locked")
    assert ask(fetched, "hi") == "Hello from the Hub."
    assert "Nothing to do" in machine.run(*words, "plan").out


@pytest.mark.parametrize(
    ("endpoint", "environ", "words", "code"),
    [
        pytest.param("refused", {}, (), "E-NETWORK", id="F47-refused"),
        pytest.param("https://hub.invalid", {}, (), "E-NETWORK", id="F47-dns"),
        pytest.param("https://hub.invalid", {}, ("--offline",), "E-OFFLINE", id="offline"),
        pytest.param("https://hub.invalid", {"HF_HUB_OFFLINE": "1"}, (), "E-OFFLINE", id="F50-hf-hub-offline"),
        pytest.param("https://hub.invalid", {"LMCTL_OFFLINE": "1"}, (), "E-OFFLINE", id="lmctl-offline"),
    ],
)
@pytest.mark.parametrize("lacks", ["lock", "file"])
def test_what_is_not_there_is_one_error(machine, fetched, endpoint, environ, words, code, lacks):
    if lacks == "lock":
        (machine.folder / "localmodels.lock").unlink()
    shutil.rmtree(machine.home / ".cache/huggingface")
    machine.environ |= {"HF_ENDPOINT": refused() if endpoint == "refused" else endpoint, **environ}
    ran = machine.run(*words, "apply", code=7)
    assert f"error[{code}]" in ran.err
    assert len([line for line in ran.err.splitlines() if line.startswith("error[")]) == 1
    assert listening(fetched) is None


def test_F47_another_profile_is_served_while_one_lacks_its_file(machine, fetched, port):
    file = machine.folder / "localmodels.toml"
    file.write_text(file.read_text() + profile("far", model="org/far", quant="Q4_K_M", port=port()))
    machine.environ["HF_ENDPOINT"] = "https://hub.invalid"
    ran = machine.run("--offline", "apply", code=3)
    assert "error[E-OFFLINE]" in ran.err
    assert ask(fetched, "hi") == "Hello from the Hub."


def test_F51_loopback_never_goes_through_a_proxy(machine, fetched):
    shutil.rmtree(machine.home / ".cache/huggingface")
    machine.environ |= {name: refused() for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy")}
    machine.run("apply")
    assert ask(fetched, "hi") == "Hello from the Hub."
    assert machine.profiles()["hello"]["state"] == "healthy"
