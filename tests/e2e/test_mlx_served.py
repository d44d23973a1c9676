"""The real mlx_lm server under supervisord, with weights from the Hub and from a folder."""

from __future__ import annotations

import json
import urllib.request

import psutil
import pytest
from e2e_tools import ask, listening, profile
from weights import mlx

pytest.importorskip("mlx_lm")

REPO = "org/hello-MLX"


def models(port: int) -> list[str]:
    """Return the ids of the models that the server on `port` offers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://127.0.0.1:{port}/v1/models", timeout=120) as answer:
        return [model["id"] for model in json.load(answer)["data"]]


def test_a_repository_of_safetensors_is_locked_fetched_and_served_by_mlx(machine, hub, port):
    files = mlx.files("Hello from MLX.")
    hub.add(REPO, {**files, "README.md": b"# Hi", "modeling.py": b"print()", "pytorch_model.bin": b"pickle"})
    machine.declare(profile("apple", model=REPO, backend="mlx", port=(number := port())))
    machine.run("apply")
    assert ask(number, "hi") == "Hello from MLX."
    assert listening(number) == "127.0.0.1"
    fetched = {one.path.rpartition("/")[2] for one in hub.asked("/resolve/", "GET")}
    assert fetched >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert not fetched & {"modeling.py", "pytorch_model.bin"}
    row = machine.profiles()["apple"]
    assert (row["state"], row["drift"]) == ("healthy", "none")
    (served,) = models(number)
    assert served.startswith(str(machine.home / ".cache/huggingface/hub"))
    words = psutil.Process(row["pid"]).cmdline()
    assert words[words.index("--host") :][:2] == ["--host", "127.0.0.1"]
    assert "Nothing to do" in machine.run("apply").out
    machine.run("verify", "--deep")


def test_a_folder_is_served_by_mlx_and_a_changed_file_is_refused(machine, port):
    folder = mlx.write(machine.folder / "apple", "From a folder.")
    machine.declare(profile("apple", path="apple", backend="mlx", port=(number := port())))
    machine.run("apply")
    assert ask(number, "hi") == "From a folder."
    pid = machine.profiles()["apple"]["pid"]
    tokenizer = folder / "tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes() + b"\n")
    ran = machine.run("apply", code=None)
    assert ran.code in (3, 66)
    assert "lmctl lock --upgrade" in ran.err
    assert machine.profiles()["apple"]["pid"] == pid
    machine.run("lock", "--upgrade")
    machine.run("apply")
    assert machine.profiles()["apple"]["pid"] != pid
    assert ask(number, "hi") == "From a folder."
