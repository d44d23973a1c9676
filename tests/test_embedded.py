"""The embedded engine: llama.cpp's real server, told by the argv that the backend renders."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fakes.ports import free_port
from weights.hello import hello

from lmctl.backend import Engine, Serve
from lmctl.backends import llama_cpp
from lmctl.spec import Artifact, LockedFile, Profile, Settings, Wanted

pytest.importorskip("xllamacpp")


SENTENCE = "Hello from a local model."
ENGINE = Engine((sys.executable, "-P", "-m", "lmctl.embedded"), embedded=True)
WANTED = Wanted("w", None, None, "", "gguf")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "hello.gguf"
    path.write_bytes(hello(SENTENCE))
    return path


def argv(weights: Path, settings: Settings | None = None, port: int | None = None) -> tuple[str, ...]:
    """The argv that the backend renders for a profile called `hello`."""
    file = LockedFile(weights.name, "weights", weights.stat().st_size, "0" * 64)
    artifact = Artifact("w", "gguf", None, {"context_length": 4096}, (file,))
    profile = Profile("hello", "llama.cpp", WANTED, settings or Settings())
    content = Serve(profile, ENGINE, "127.0.0.1", port or free_port(), {"w": artifact}, {("w", weights.name): weights})
    return llama_cpp.command(content)


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ask(
        self, verb: str, path: str, origin: str = "http://evil.example", **body: Any
    ) -> tuple[int, str, str | None]:
        """Status, text and the allowed origin of an answer; status 0 when nobody answers."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        headers = {"Content-Type": "application/json", "Origin": origin}
        try:
            connection.request(verb, path, json.dumps(body) if body else None, headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode(), answer.getheader("Access-Control-Allow-Origin")
        except OSError:
            return 0, "", None
        finally:
            connection.close()

    def json(self, verb: str, path: str, **body: Any) -> Any:
        return json.loads(self.ask(verb, path, **body)[1])

    def chat(self, text: str = "hi", **body: Any) -> Any:
        return self.json("POST", "/v1/chat/completions", messages=[{"role": "user", "content": text}], **body)


@contextmanager
def running(command: Sequence[str], folder: Path) -> Iterator[Running]:
    """Run the engine with nothing but a home in its environment until it is healthy; it does not outlive the block."""
    log = folder / "engine.log"
    with log.open("wb") as file:
        environ = {"HOME": str(folder), "PATH": os.environ["PATH"]}
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=file, stderr=file)
    engine = Running(process, int(command[command.index("--port") + 1]), log)
    try:
        deadline = time.monotonic() + 120
        while engine.ask("GET", "/health")[0] != 200:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.01)
        yield engine
    finally:
        process.kill()
        process.wait()


RICH = Settings(
    ctx=512,
    parallel=3,
    gpu_layers=-1,
    threads=1,
    flash_attn=True,
    cache_type_k="q8_0",
    cache_type_v="bf16",
    cache_ram=3 << 20,
    batch=128,
    ubatch=64,
    load_mode="mmap",
    cpu_moe=1,
    chat_template="chatml",
    sampling={
        "temperature": 0.25,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.125,
        "repeat_penalty": 1.5,
        "presence_penalty": 0.75,
        "frequency_penalty": 0.375,
        "seed": 42,
        "max_tokens": 3,
    },
)


@pytest.fixture(scope="module")
def rich(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(argv(weights, RICH), tmp_path_factory.mktemp("rich")) as engine:
        yield engine


@pytest.fixture(scope="module")
def plain(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(argv(weights), tmp_path_factory.mktemp("plain")) as engine:
        yield engine


def test_it_answers(plain: Running) -> None:
    assert plain.chat()["choices"][0]["message"]["content"].strip() == SENTENCE
    assert plain.chat()["model"] == "hello"


def test_it_streams(plain: Running) -> None:
    messages = [{"role": "user", "content": "hi"}]
    _, text, _ = plain.ask("POST", "/v1/chat/completions", messages=messages, stream=True)
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    words = [chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"]]
    assert "".join(words).strip() == SENTENCE
    assert len([word for word in words if word]) > 1


def test_the_probe_sees_the_alias(plain: Running) -> None:
    models = plain.json("GET", "/v1/models")["data"]
    assert [model["id"] for model in models] == ["hello"]


def test_the_context_is_what_the_model_was_trained_on(plain: Running) -> None:
    assert plain.json("GET", "/props")["default_generation_settings"]["n_ctx"] == 4096


def test_no_origin_no_page_no_tools(plain: Running) -> None:
    assert plain.ask("GET", "/v1/models")[2] in (None, "")
    assert plain.ask("GET", "/")[0] == 404
    assert plain.ask("GET", "/tools")[0] == 403
    assert plain.ask("POST", "/props", temperature=1)[0] in (403, 501)


def test_metrics_are_on(plain: Running) -> None:
    assert "llamacpp:requests_processing" in plain.ask("GET", "/metrics")[1]


def test_sampling_defaults_arrive(rich: Running) -> None:
    params = rich.json("GET", "/props")["default_generation_settings"]["params"]
    named = {"temperature": 0.25, "top_p": 0.5, "top_k": 7, "min_p": 0.125, "repeat_penalty": 1.5, "seed": 42}
    assert {name: params[name] for name in named} == named
    assert (params["presence_penalty"], params["frequency_penalty"]) == (0.75, 0.375)
    answer = rich.chat()
    assert answer["usage"]["completion_tokens"] == 3
    assert rich.chat(max_tokens=2)["usage"]["completion_tokens"] == 2


def test_resources_arrive(rich: Running) -> None:
    log = rich.log.read_text()
    assert "n_threads = 1" in log
    assert "n_slots = 3, n_ctx_slot = 512, kv_unified = 'false'" in log
    assert "<|im_start|>" in rich.json("GET", "/props")["chat_template"]


def test_every_slot_has_the_whole_declared_context(rich: Running) -> None:
    """The engine divides what it is given: 3 requests of 512 tokens each need 1536."""
    assert [slot["n_ctx"] for slot in rich.json("GET", "/slots")] == [512, 512, 512]
    fits = rich.json("POST", "/completion", prompt=[5] * 500, n_predict=1)
    assert fits["tokens_evaluated"] == 500
    status, text, _ = rich.ask("POST", "/completion", prompt=[5] * 513, n_predict=1)
    assert (status, "exceed" in text) == (400, True)


def test_it_embeds(weights: Path, tmp_path: Path) -> None:
    settings = Settings(ctx=256, embeddings=True, pooling="mean")
    with running(argv(weights, settings), tmp_path) as engine:
        vector = engine.json("POST", "/v1/embeddings", input="hi")["data"][0]["embedding"]
        assert sum(part * part for part in vector) == pytest.approx(1.0, abs=1e-3)


def test_it_does_not_embed_unasked(plain: Running) -> None:
    assert plain.ask("POST", "/v1/embeddings", input="hi")[0] == 501


def test_a_draft_and_a_template_file(weights: Path, tmp_path: Path) -> None:
    template = tmp_path / "t.jinja"
    template.write_text("{% for m in messages %}<<{{ m.content }}>>{% endfor %}")
    settings = Settings(ctx=256, chat_template_file=template)
    draft = ("--spec-draft-model", str(weights), "--spec-draft-n-max", "4", "--spec-draft-n-min", "0")
    with running((*argv(weights, settings), *draft), tmp_path) as engine:
        answer = engine.chat()
        assert answer["choices"][0]["message"]["content"].strip() == SENTENCE
        assert answer["timings"]["draft_n"] > 0
        assert "<<" in engine.json("GET", "/props")["chat_template"]


# ---- ends ----


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_signal_ends_it_at_once(number: signal.Signals, weights: Path, tmp_path: Path) -> None:
    with running(argv(weights), tmp_path) as engine:
        engine.process.send_signal(number)
        assert engine.process.wait(60) == -number
        assert engine.ask("GET", "/health")[0] == 0


@pytest.mark.parametrize("moment", ["", "initializing", "loading model"])
def test_a_signal_ends_it_also_before_it_serves(moment: str, weights: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(argv(weights), cwd=tmp_path, stderr=file)
    try:
        while moment not in log.read_text():
            assert process.poll() is None, log.read_text()
        process.terminate()
        assert process.wait(60) == -signal.SIGTERM
    finally:
        process.kill()
        process.wait()


def failed(*command: str, folder: Path) -> tuple[int, str]:
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    return run.returncode, run.stderr


def test_it_demands_the_key_that_a_file_holds(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys/p-1").write_text("a-long-key\n")
    with running((*argv(weights), "--api-key-file", "keys/p-1"), tmp_path) as engine:

        def asked(path: str, **headers: str) -> int:
            with closing(http.client.HTTPConnection("127.0.0.1", engine.port, timeout=60)) as connection:
                connection.request("GET", path, headers=headers)
                return connection.getresponse().status

        assert asked("/health") == 200, "whoever supervises it has to see that it serves"
        for path in ("/v1/models", "/metrics", "/slots", "/props"):
            assert asked(path) == asked(path, Authorization="Bearer wrong") == 401
            assert asked(path, Authorization="Bearer a-long-key") == 200


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        pytest.param(["--nope"], 2, "invalid argument: '--nope'", id="F80-unknown-flag"),
        pytest.param(["--ctx-size"], 2, "expected a value for --ctx-size", id="no-value"),
        pytest.param(["--ctx-size", "x"], 2, "invalid value for --ctx-size", id="not-a-number"),
        pytest.param(["--cache-type-k", "q9"], 2, "invalid value for --cache-type-k", id="unknown-type"),
        pytest.param(["--chat-template-file", "/nowhere"], 2, "invalid value for --chat-template-file", id="no-file"),
        pytest.param(
            ["--api-key-file", "/dev/null"], 2, "invalid value for --api-key-file: it holds no key", id="no-key"
        ),
        pytest.param(["--model", "/nowhere.gguf", "--port", "0"], 1, "error: ", id="no-weights"),
    ],
)
def test_it_refuses_in_one_line(flags: list[str], code: int, says: str, tmp_path: Path) -> None:
    status, printed = failed(*ENGINE.argv, *flags, folder=tmp_path)
    assert status == code
    # the engine's own lines come from another thread, before ours or after
    ours = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(ours) == 1
    assert says in ours[0]


def test_F74_a_taken_port(weights: Path, tmp_path: Path, plain: Running) -> None:
    status, _ = failed(*argv(weights, port=plain.port), folder=tmp_path)
    assert status == 1
    assert plain.ask("GET", "/health")[0] == 200


def test_the_folder_it_starts_in_lends_it_no_modules(weights: Path, tmp_path: Path) -> None:
    for name in ("xllamacpp", "signal", "lmctl"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('borrowed')")
    with running(argv(weights), tmp_path) as engine:
        assert "borrowed" not in engine.log.read_text()
