"""mlx: the argv of a profile, what it refuses, and the real server told by exactly that argv."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.ports import free_port
from parts import LINUX, MAC, artifact, flag, placed, profile, serve, wanted
from syrupy.assertion import SnapshotAssertion
from weights import mlx as weights

from lmctl.backend import Engine, Serve
from lmctl.backends import mlx
from lmctl.errors import LmctlError
from lmctl.record import replace
from lmctl.spec import Draft, Hardware, Lora, Profile, Settings, Wanted

SENTENCE = "Hello from a folder of safetensors."
FILES = artifact("w", dict.fromkeys(weights.files(SENTENCE), "weights"), format="mlx")
ENGINE = Engine(("{python}", "-P", "-m", "mlx_lm", "server"))
NOTHING: frozenset[str] = frozenset()
TEMPLATE = Path("/w/chat.jinja")  # nothing is there: what it holds comes with all that argv depends on


def other(id: str) -> Wanted:
    return wanted(id, format="mlx")


def test_a_rich_profile(snapshot: SnapshotAssertion) -> None:
    sampling = {"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "max_tokens": 64, "seed": 1}
    settings = Settings(parallel=3, cache_ram=1 << 20, batch=256, sampling=sampling, chat_template_file=TEMPLATE)
    rich = profile("mlx", settings, lora=(Lora(other("l")),), draft=Draft(other("d"), max=4))
    parts = (artifact(id, {"config.json": "config"}, format="mlx") for id in "ld")
    content = replace(serve(rich, FILES, *parts, engine=ENGINE), template="{{ messages }}\nä".encode())
    assert mlx.command(content) == snapshot


def test_no_old_prompts_are_kept_unless_declared() -> None:
    assert flag(mlx.command(serve(profile("mlx"), FILES)), "--prompt-cache-size") == "0"
    kept = serve(profile("mlx", Settings(cache_ram=4096)), FILES)
    assert flag(mlx.command(kept), "--prompt-cache-size") is None
    assert flag(mlx.command(kept), "--prompt-cache-bytes") == "4096"


def test_a_folder_within_the_declaration() -> None:
    local = artifact("w", {"weights/m/model.safetensors": "weights", "weights/m/config.json": "config"}, format="mlx")
    assert flag(mlx.command(serve(profile("mlx"), local)), "--model") == "/w/w/weights/m"


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"\xff", "E-ENCODING"), (b"a\0b", "E-ENCODING"), (b"x" * 70_000, "E-LIMIT")],
    ids=["not-UTF-8", "NUL", "too-long-for-argv"],
)
def test_templates_that_cannot_be_passed_on(content: bytes, code: str) -> None:
    templated = serve(profile("mlx", Settings(chat_template_file=TEMPLATE)), FILES)
    with pytest.raises(LmctlError) as refused:
        mlx.command(replace(templated, template=content))
    assert refused.value.code == code


# ---- refusals ----


def codes(declared: Profile, hardware: Hardware = LINUX, allowed: frozenset[str] = NOTHING) -> list[str]:
    return [problem.code for problem in mlx.check(declared, allowed, hardware)]


@pytest.mark.parametrize(
    ("hardware", "expected"),
    [
        pytest.param(Hardware("darwin", "x86_64", "old", 1), ["E-PLATFORM"], id="I61-macOS-x64"),
        pytest.param(Hardware("windows", "x86_64", "pc", 1), ["E-PLATFORM"], id="I61-windows"),
        pytest.param(Hardware("linux", "riscv64", "board", 1), ["E-PLATFORM"], id="I61-riscv"),
        pytest.param(LINUX, [], id="linux"),
        pytest.param(MAC, [], id="apple"),
    ],
)
def test_machines(hardware: Hardware, expected: list[str]) -> None:
    assert codes(profile("mlx"), hardware) == expected


@pytest.mark.parametrize(
    ("declared", "code"),
    [
        pytest.param(profile("mlx", Settings(chat_template="chatml")), "E-REF", id="template-by-name"),
        pytest.param(profile("mlx", lora=(Lora(other("a")), Lora(other("b")))), "E-LIMIT", id="two-adapters"),
        pytest.param(profile("mlx", lora=(Lora(other("a"), 0.5),)), "E-RANGE", id="scaled-adapter"),
        pytest.param(profile("mlx", draft=Draft(other("d"), min=1)), "E-RANGE", id="least-draft"),
        pytest.param(profile("mlx", Settings(extra_args=("--hos", "0.0.0.0"))), "E-FLAG", id="I49-prefix"),
        pytest.param(profile("mlx", Settings(extra_args=("--temp=2",))), "E-FLAG", id="I49-equals"),
        pytest.param(profile("mlx", Settings(extra_args=("--pipeline",))), "E-UNSAFE", id="I50-pipeline"),
        pytest.param(profile("mlx", Settings(env={"HF_HUB_OFFLINE": "0"})), "E-ENV", id="I55-HF_HUB_OFFLINE"),
    ],
)
def test_refusals(declared: Profile, code: str) -> None:
    assert codes(declared) == [code]


@pytest.mark.parametrize("arg", ["--trust-remote-code", "--tr", "--trust_remote_code"])
def test_remote_code_needs_a_consent_of_its_own(arg: str) -> None:
    declared = profile("mlx", Settings(extra_args=(arg,)))
    assert codes(declared, allowed=frozenset({"flags"})) == ["E-REMOTECODE"]
    assert codes(declared, allowed=frozenset({"flags", "remote_code"})) == []


def test_harmless_flags_and_variables() -> None:
    args = tuple(word for name, values in mlx.RULES.flags.items() for word in (name, *["1"] * values))
    env = dict.fromkeys(mlx.RULES.env, "1")
    assert codes(profile("mlx", Settings(extra_args=args, env=env))) == []


# ---- the real server ----


@pytest.fixture(scope="module")
def help_text() -> str:
    pytest.importorskip("mlx_lm")
    command = [sys.executable, "-P", "-m", "mlx_lm", "server", "--help"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_the_real_server_knows_every_flag_rendered_allowed_or_managed(help_text: str) -> None:
    known = set(help_text.replace("]", " ").replace("[", " ").replace(",", " ").split())
    named = {*mlx.RULES.flags, *mlx.RULES.managed, "--trust-remote-code"}
    assert not named - known
    rendered = {arg for arg in mlx.command(serve(profile("mlx"), FILES)) if arg.startswith("--")}
    assert rendered <= mlx.RULES.managed.keys()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    pytest.importorskip("mlx_lm")
    folder = weights.write(tmp_path_factory.mktemp("mlx") / "snapshot", SENTENCE)
    link = folder.with_name("link")
    link.symlink_to(folder)
    declared = profile("mlx", Settings(parallel=2, sampling={"temperature": 0.0, "max_tokens": 4}))
    return placed(serve(declared, FILES, engine=ENGINE, port=free_port()), link)


@pytest.fixture(scope="module")
def server(content: Serve, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serve]:
    """mlx_lm's server, run as the launcher would: our argv and environment, in an empty home."""
    argv = [sys.executable, *mlx.command(content)[1:]]
    home = tmp_path_factory.mktemp("home")
    environ = {"HOME": str(home), "PATH": os.environ["PATH"], **mlx.environment(content)}
    log = (home / "log").open("wb")
    process = subprocess.Popen(argv, cwd=home, env=environ, stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    try:
        while ask(content, "GET", "/health")[0] != 200:
            assert process.poll() is None and time.monotonic() < deadline, (home / "log").read_text()
            time.sleep(0.05)
        yield content
    finally:
        process.kill()
        process.wait()
        log.close()


def ask(content: Serve, verb: str, path: str, **body: object) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", content.port, timeout=60)
    headers = {"Content-Type": "application/json", "Origin": "http://evil.example"}
    try:
        connection.request(verb, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read().decode()
    except OSError:
        return 0, {}, ""
    finally:
        connection.close()


def chat(content: Serve, **body: object) -> tuple[int, str]:
    status, _, text = ask(content, "POST", "/v1/chat/completions", messages=[{"role": "user", "content": "hi"}], **body)
    return status, text


def test_the_model_is_named_by_its_real_folder(server: Serve) -> None:
    probe = mlx.probe(server)
    assert probe.models is not None
    models = json.loads(ask(server, "GET", probe.models)[2])["data"]
    assert probe.expect is not None and Path(probe.expect).is_symlink()
    assert [model["id"] for model in models] == [os.path.realpath(probe.expect)]
    assert ask(server, "GET", probe.health)[0] == 200


def test_no_origin_is_allowed(server: Serve) -> None:
    assert "access-control-allow-origin" not in ask(server, "GET", "/v1/models")[1]


def test_it_answers_with_the_declared_defaults_and_keeps_nothing(server: Serve) -> None:
    for _ in range(2):
        status, text = chat(server)
        assert status == 200
        answer = json.loads(text)
        assert answer["choices"][0]["message"]["content"].strip() == "Hello from a folder"
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_a_request_cannot_bring_another_model_from_the_hub(server: Serve) -> None:
    status, text = chat(server, model="owner/name")
    assert status != 200
    assert "offline" in text.lower() or "disabled" in text.lower()
    assert chat(server)[0] == 200
