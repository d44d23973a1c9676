"""The Hugging Face cache as other tools expect it, and weights that other tools brought, used where they lie."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_tools import ask, profile
from weights.hello import hello

REPO, FILE = "org/hello-GGUF", "hello-Q4_K_M.gguf"
DATA = hello("Hello from the Hub.")


def cache(machine) -> Path:
    return machine.home / ".cache/huggingface/hub"


def tool(machine, *words: str) -> str:
    """Return what another program of the Hugging Face client prints; it must succeed."""
    how = {"env": machine.env(), "cwd": machine.home, "capture_output": True, "text": True, "check": False}
    ran = subprocess.run([str(word) for word in words], **how)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.fixture
def declared(machine, hub, port):
    """A published repository and a profile of it; its port."""
    hub.add(REPO, {FILE: DATA, "hello-Q8_0.gguf": hello("Large.")})
    number = port()
    machine.declare(profile("hello", model=REPO, quant="Q4_K_M", port=number))
    return number


def test_other_tools_accept_the_cache(machine, hub, declared):
    machine.run("apply")
    hf = Path(sys.executable).with_name("hf")
    assert REPO in tool(machine, hf, "cache", "ls")
    tool(machine, hf, "cache", "verify", REPO)
    hub.requests.clear()
    code = (
        "from huggingface_hub import hf_hub_download, snapshot_download, scan_cache_dir\n"
        f"print(hf_hub_download({REPO!r}, {FILE!r}, local_files_only=True))\n"
        f"snapshot_download({REPO!r}, local_files_only=True)\n"
        "assert not scan_cache_dir().warnings, scan_cache_dir().warnings\n"
    )
    path = Path(tool(machine, sys.executable, "-c", code).splitlines()[0])
    assert path.read_bytes() == DATA
    assert hub.requests == []


def test_what_other_tools_fetched_is_used_where_it_is(machine, hub, declared):
    code = f"from huggingface_hub import hf_hub_download as d; d({REPO!r}, {FILE!r})"
    tool(machine, sys.executable, "-c", code)
    (blob,) = (path for path in cache(machine).glob("models--*/blobs/*") if not path.name.endswith(".lock"))
    machine.run("lock")
    hub.requests.clear()
    planned = machine.run("plan", "--json").data
    (change,) = (each for each in planned["changes"] if each["stage"] == "fetch")
    assert (change["download"], change["cause"][0]["after"]) == (0, "0 bytes if its sha256 agrees")
    before = blob.stat()
    machine.run("apply")
    assert hub.requests == []
    assert ask(declared, "hi") == "Hello from the Hub."
    assert (blob.stat().st_mtime_ns, blob.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    machine.declare(profile("other", path=machine.hello().name, port=declared))
    machine.run("apply", "--prune")
    machine.run("prune", "--now")
    assert blob.read_bytes() == DATA


def lm_studio(machine) -> Path:
    return machine.home / ".lmstudio/models" / REPO / FILE


def old_lm_studio(machine) -> Path:
    return machine.home / ".cache/lm-studio/models" / REPO / FILE


def ollama(machine) -> Path:
    return machine.home / ".ollama/models/blobs" / f"sha256-{hashlib.sha256(DATA).hexdigest()}"


def another_ollama(machine) -> Path:
    machine.environ["OLLAMA_MODELS"] = str(machine.home / "big disk")
    return machine.home / "big disk/blobs" / f"sha256-{hashlib.sha256(DATA).hexdigest()}"


def root(machine) -> Path:
    config = machine.home / ".config/lmctl"
    config.mkdir(parents=True)
    (config / "machine.toml").write_text(f"[weights]\nroots = [{json.dumps(str(machine.home / 'shelf'))}]\n")
    return machine.home / "shelf" / REPO / FILE


@pytest.mark.parametrize("place", [lm_studio, old_lm_studio, ollama, another_ollama, root])
def test_a_file_of_another_program_is_served_and_never_pruned(machine, hub, declared, place):
    path = place(machine)
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    path.chmod(0o444)
    machine.run("lock")
    hub.requests.clear()
    machine.run("apply")
    assert hub.requests == []
    assert ask(declared, "hi") == "Hello from the Hub."
    assert not cache(machine).exists()
    assert "Nothing to do" in machine.run("plan").out
    machine.declare(profile("other", path=machine.hello().name, port=declared))
    machine.run("apply", "--prune")
    machine.run("prune", "--now", "--yes")
    assert path.read_bytes() == DATA


def test_a_file_of_another_program_with_other_bytes_is_not_served(machine, hub, declared):
    path = lm_studio(machine)
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA[:-1] + b"!")
    ran = machine.run("apply", code=None)
    assert ran.code in (3, 6)
    assert "error[E-HASH]" in ran.err
    assert str(path) in ran.err
    path.unlink()
    machine.run("apply")
    assert ask(declared, "hi") == "Hello from the Hub."


def test_hf_home_and_hf_hub_cache_are_honoured(machine, hub, declared):
    machine.environ |= {"HF_HOME": str(machine.home / "hf"), "HF_HUB_CACHE": str(machine.home / "hf/other")}
    machine.run("apply")
    (blob,) = (machine.home / "hf/other").glob("models--*/blobs/*")
    assert blob.read_bytes() == DATA
    assert not (machine.home / ".cache/huggingface").exists()
