"""The real mlx_lm server under supervisord, with weights from the Hub and from a folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
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


def test_weights_beside_the_locked_ones_are_not_loaded(machine, port):
    """The engine reads every model*.safetensors of its folder: one that nothing locked keeps it from starting."""
    folder = mlx.write(machine.folder / "apple", "From a folder.")
    machine.declare(profile("apple", path="apple", backend="mlx", port=(number := port())))
    machine.run("apply")
    pid, extra = machine.profiles()["apple"]["pid"], folder / "model-extra.safetensors"
    extra.write_bytes((folder / "model.safetensors").read_bytes())
    refused = machine.run("restart", "apple", code=6).err
    assert f"error[E-HASH]: {extra} is not locked, and the engine of apple would load it" in refused
    assert "lmctl lock --upgrade apple" in refused
    assert machine.profiles()["apple"]["pid"] == pid
    extra.unlink()
    machine.run("restart", "apple")
    assert ask(number, "hi") == "From a folder."


def test_code_beside_weights_is_not_run_even_when_a_lock_that_was_pulled_vouches_for_it(machine, port):
    """lmctl refuses to lock such a folder; a lock from elsewhere meets an engine that was not told to trust it."""
    folder, marker = mlx.write(machine.folder / "apple", "From a folder."), machine.home / "marker"
    machine.declare(profile("apple", path="apple", backend="mlx", port=(number := port()), start_timeout="20s"))
    machine.run("lock")
    lock = machine.folder / "localmodels.lock"
    (folder / "evil.py").write_text(f"import pathlib; pathlib.Path({str(marker)!r}).touch()\n")
    for name, keys in (
        ("config.json", {"model_file": "evil.py", "auto_map": {"AutoConfig": "evil.A", "AutoModel": "evil.A"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.A", None]}, "tokenizer_class": "A"}),
    ):
        before = (folder / name).read_bytes()
        after = json.dumps({**json.loads(before), **keys}).encode()
        (folder / name).write_bytes(after)
        text = lock.read_text().replace(hashlib.sha256(before).hexdigest(), hashlib.sha256(after).hexdigest())
        lock.write_text(re.sub(rf"(size += ){len(before)}\n", rf"\g<1>{len(after)}\n", text))
    assert "Nothing" not in machine.run("apply", code=None).out
    with contextlib.suppress(OSError):
        ask(number, "hi")
    log = machine.run("logs", "apple").out
    assert "trust_remote_code" in log
    assert not marker.exists()
    lock.unlink()
    assert "error[E-REMOTECODE]" in machine.run("lock", code=4).err
