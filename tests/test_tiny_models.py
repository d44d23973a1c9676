"""The tiny models that tests and the quickstart serve: the same bytes every time, and real engines answer with them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes.ports import free_port
from weights import mlx, shapes
from weights.hello import hello

ROOT = Path(__file__).parent.parent
QUICKSTART = "Hello! This answer comes from a model on your own machine."
LLAMA = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.port, params.hostnames, params.n_ctx = sys.argv[1], int(sys.argv[2]), ["127.0.0.1"], 1024
server = xllamacpp.Server(params)
time.sleep(600)
"""
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def served(command: list[str], port: int) -> Iterator[str]:
    """Run a server until its /health answers; give its address."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ})
    address = f"http://127.0.0.1:{port}"
    try:
        until = time.monotonic() + 120
        while True:
            assert process.poll() is None and time.monotonic() < until, "the engine does not serve the model"
            try:
                with OPENER.open(f"{address}/health", timeout=60):
                    break
            except OSError:
                time.sleep(0.02)
        yield address
    finally:
        process.kill()
        process.wait()


def ask(address: str, question: str) -> tuple[str, str]:
    """Return the answer to one chat message, and why it ended."""
    body = json.dumps({"messages": [{"role": "user", "content": question}]}).encode()
    request = urllib.request.Request(f"{address}/v1/chat/completions", body, {"Content-Type": "application/json"})
    with OPENER.open(request, timeout=60) as answer:
        choice = json.load(answer)["choices"][0]
    return choice["message"]["content"], choice["finish_reason"]


def test_the_same_sentence_gives_the_same_bytes(tmp_path: Path) -> None:
    assert hello("One two.") == hello("One two.") != hello("Two one.")
    assert mlx.files("One two.") == mlx.files("One two.")
    hp = {"n_embd": 64, "n_layer": 1, "n_head": 2, "n_head_kv": 1, "n_ff": 64, "vocab": 300}
    assert shapes.header_of("llama", hp) == shapes.header_of("llama", hp)


def test_the_quickstart_model_is_what_the_generator_writes(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tests/weights/hello.py"), str(tmp_path / "hello.gguf"), QUICKSTART]
    subprocess.run(command, check=True, timeout=60)
    committed = ROOT / "examples/quickstart/hello.gguf"
    assert (tmp_path / "hello.gguf").read_bytes() == committed.read_bytes()


def test_a_sentence_that_says_a_word_twice_is_refused() -> None:
    with pytest.raises(SystemExit, match="must be different"):
        hello("to be or not to be")


def test_llama_cpp_answers_with_the_quickstart_model() -> None:
    model, port = ROOT / "examples/quickstart/hello.gguf", free_port()
    with served([sys.executable, "-c", LLAMA, str(model), str(port)], port) as address:
        for question in ("Who are you?", "Grüße an own machine.", "🦙"):
            assert ask(address, question) == (QUICKSTART, "stop")


def test_mlx_answers_with_a_folder_of_its_own(tmp_path: Path) -> None:
    sentence = "This one comes from MLX instead."
    folder, port = mlx.write(tmp_path / "m", sentence), free_port()
    command = [sys.executable, "-m", "mlx_lm", "server", "--model", str(folder), "--host", "127.0.0.1"]
    with served([*command, "--port", str(port)], port) as address:
        assert ask(address, "Who are you?") == (sentence, "stop")
