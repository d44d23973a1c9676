"""llama.cpp: the argv of a profile, what is refused, and that the real engine knows every flag."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from fakes import llama_server
from parts import BINARY, LINUX, MAC, artifact, flag, profile, serve, wanted
from syrupy.assertion import SnapshotAssertion

from lmctl import allowlist, embedded
from lmctl.backend import Engine
from lmctl.backends import llama_cpp
from lmctl.errors import EXIT_CODES, LmctlError
from lmctl.spec import Draft, Lora, Probe, Settings

WEIGHTS = artifact("w", {"m.gguf": "weights"}, context_length=131072)
VISION = artifact("w", {"m.gguf": "weights", "mmproj-m.gguf": "mmproj"}, context_length=131072)
EMBEDDED = Engine(("{python}", "-P", "-m", "lmctl.embedded"), embedded=True)
NOTHING: frozenset[str] = frozenset()

RICH = profile(
    settings=Settings(
        ctx=16384,
        parallel=4,
        gpu_layers=-1,
        threads=6,
        flash_attn=True,
        cache_type_k="q8_0",
        cache_type_v="q4_0",
        cache_ram=(1 << 30) + 1,
        batch=1024,
        ubatch=256,
        load_mode="mmap+mlock",
        cpu_moe=3,
        chat_template="chatml",
        chat_template_file=Path("/w/chat.jinja"),
        embeddings=True,
        rerank=True,
        pooling="mean",
        sampling={
            "temperature": 0.7,
            "top_p": 0.9,
            "top_k": 20,
            "min_p": 0.0,
            "repeat_penalty": 1.1,
            "presence_penalty": 0.5,
            "frequency_penalty": 0.25,
            "seed": -1,
            "max_tokens": 512,
        },
    ),
    lora=(Lora(wanted("l1", role="lora"), 0.5), Lora(wanted("l2", role="lora"))),
    draft=Draft(wanted("d", role="draft"), max=8, min=1),
)
RICH_PARTS = (
    VISION,
    artifact("l1", {"a.gguf": "lora"}),
    artifact("l2", {"b.gguf": "lora"}),
    artifact("d", {"small.gguf": "draft"}),
)


def test_a_rich_profile(snapshot: SnapshotAssertion) -> None:
    assert llama_cpp.command(serve(RICH, *RICH_PARTS)) == snapshot


def test_a_plain_profile_says_nothing_it_need_not(snapshot: SnapshotAssertion) -> None:
    assert llama_cpp.command(serve(profile(), WEIGHTS)) == snapshot


@pytest.mark.parametrize(
    ("settings", "trained", "expected"),
    [
        pytest.param(Settings(), 131072, "8192", id="default"),
        pytest.param(Settings(), 2048, "2048", id="trained-on-less"),
        pytest.param(Settings(), None, "8192", id="length-unknown"),
        pytest.param(Settings(ctx=4096), 2048, "4096", id="declared-wins"),
        pytest.param(Settings(ctx=4096, parallel=4), 131072, "16384", id="per-request"),
        pytest.param(Settings(parallel=3), 2048, "6144", id="trained-on-less-per-request"),
    ],
)
def test_context_is_per_request(settings: Settings, trained: int | None, expected: str) -> None:
    weights = artifact("w", {"m.gguf": "weights"}, context_length=trained)
    argv = llama_cpp.command(serve(profile(settings=settings), weights))
    assert flag(argv, "--ctx-size") == expected
    assert flag(argv, "--parallel") == str(settings.parallel)
    assert "--no-kv-unified" in argv


@pytest.mark.parametrize(
    ("settings", "name", "expected"),
    [
        pytest.param(Settings(), "--n-gpu-layers", None, id="layers-are-left-to-the-engine"),
        pytest.param(Settings(gpu_layers=0), "--n-gpu-layers", "0", id="no-layers"),
        pytest.param(Settings(gpu_layers=-1), "--n-gpu-layers", "all", id="all-layers"),
        pytest.param(Settings(), "--threads", "8", id="threads-auto-are-the-performance-cores"),
        pytest.param(Settings(threads=3), "--threads", "3", id="threads"),
        pytest.param(Settings(), "--flash-attn", "auto", id="flash-attention-auto"),
        pytest.param(Settings(flash_attn=False), "--flash-attn", "off", id="flash-attention-off"),
        pytest.param(Settings(), "--cache-ram", "0", id="cache-ram-is-always-written"),
        pytest.param(Settings(cache_ram=1), "--cache-ram", "1", id="cache-ram-is-rounded-up-to-MiB"),
        pytest.param(Settings(devices=("CUDA0", "CUDA1")), "--device", "CUDA0,CUDA1", id="devices"),
        pytest.param(Settings(cpu_moe=0), "--n-cpu-moe", "0", id="no-experts-on-the-cpu"),
        pytest.param(Settings(), "--cors-origins", "", id="no-origins"),
        pytest.param(Settings(), "--host", "127.0.0.1", id="loopback"),
        pytest.param(Settings(), "--alias", "chat", id="alias"),
    ],
)
def test_values(settings: Settings, name: str, expected: str | None) -> None:
    assert flag(llama_cpp.command(serve(profile(settings=settings), WEIGHTS)), name) == expected


def test_a_split_model_is_opened_by_its_first_shard() -> None:
    shards = artifact("w", {"m-00002-of-00002.gguf": "shard", "m-00001-of-00002.gguf": "weights"})
    assert flag(llama_cpp.command(serve(profile(), shards)), "--model") == "/w/w/m-00001-of-00002.gguf"


@pytest.mark.parametrize(
    ("mmproj", "expected"),
    [
        pytest.param("auto", "/w/w/mmproj-m.gguf", id="locked-with-the-weights"),
        pytest.param(None, None, id="not-wanted"),
        pytest.param(wanted("p", role="mmproj"), "/w/p/other.gguf", id="a-file-of-its-own"),
    ],
)
def test_projector(mmproj: object, expected: str | None) -> None:
    own = artifact("p", {"other.gguf": "mmproj"})
    assert flag(llama_cpp.command(serve(profile(mmproj=mmproj), VISION, own)), "--mmproj") == expected


def test_extra_args_come_last() -> None:
    argv = llama_cpp.command(serve(profile(settings=Settings(extra_args=("--keep", "4"))), WEIGHTS))
    assert argv[-2:] == ("--keep", "4")


@pytest.mark.parametrize("settings", [Settings(extra_args=("--jinja",)), Settings(devices=("CUDA0",))], ids=str)
def test_the_embedded_engine_takes_fields_alone(settings: Settings) -> None:
    with pytest.raises(LmctlError) as refused:
        llama_cpp.command(serve(profile(settings=settings), WEIGHTS, engine=EMBEDDED))
    assert refused.value.code == "E-ENGINE"
    assert "brew install llama.cpp" in str(refused.value)


def test_an_adapter_whose_path_the_flag_cannot_hold() -> None:
    odd = artifact("l", {"a,b.gguf": "lora"})
    with pytest.raises(LmctlError) as refused:
        llama_cpp.command(serve(profile(lora=(Lora(wanted("l", role="lora")),)), WEIGHTS, odd))
    assert refused.value.code == "E-PATH"


def test_health_is_the_alias() -> None:
    assert llama_cpp.probe(serve(profile(), WEIGHTS)) == Probe("/health", "/v1/models", "chat")


# ---- flags exist ----


def _long(argv: tuple[str, ...]) -> set[str]:
    return {arg for arg in argv if arg.startswith("--")}


def test_the_stand_in_knows_every_flag() -> None:
    argv = llama_cpp.command(serve(RICH, *RICH_PARTS))[1:]
    assert set(llama_server.parse([*argv])) == _long(argv)


def test_the_embedded_engine_knows_every_flag_but_devices() -> None:
    rich = llama_cpp.command(serve(RICH, *RICH_PARTS, engine=EMBEDDED))[4:]
    assert dict(embedded.pairs(rich)).keys() == _long(rich)
    assert _long(rich) == set(embedded.FLAGS)


@pytest.fixture(scope="module")
def real_flags() -> set[str]:
    """The argument table of llama.cpp's own server, which is compiled into the engine's wheel."""
    spec = importlib.util.find_spec("xllamacpp")
    assert spec is not None and spec.origin is not None
    (library,) = Path(spec.origin).parent.glob("xllamacpp.*so")
    return {found.decode() for found in re.findall(rb"\0(--[a-z][a-z0-9-]+)(?=\0)", library.read_bytes())}


def test_the_wheel_knows_every_flag_rendered_allowed_or_managed(real_flags: set[str]) -> None:
    ours = _long(llama_cpp.command(serve(RICH, *RICH_PARTS))) | {"--device"}
    listed = {*llama_cpp.RULES.flags, *llama_cpp.RULES.managed, *llama_cpp.RULES.secret, *llama_server.FLAGS}
    assert not {name for name in ours | listed if name.startswith("--")} - real_flags


def test_every_rendered_flag_is_managed(real_flags: set[str]) -> None:
    ours = _long(llama_cpp.command(serve(RICH, *RICH_PARTS))) | {"--device"}
    assert ours <= llama_cpp.RULES.managed.keys()
    assert not llama_cpp.RULES.managed.keys() & llama_cpp.RULES.flags.keys()


# ---- refusals ----


def refused(
    args: tuple[str, ...] = (), env: dict[str, str] | None = None, allowed: frozenset[str] = NOTHING
) -> list[str]:
    settings = Settings(extra_args=args, env=env or {})
    problems = llama_cpp.check(profile(settings=settings), allowed, LINUX)
    assert all("s3cr3t" not in str(problem) and "\n" not in str(problem) for problem in problems)
    assert all(problem.fix and problem.code in EXIT_CODES for problem in problems)
    return [problem.code for problem in problems]


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(("--host", "0.0.0.0"), id="I49-host"),
        pytest.param(("--host=0.0.0.0",), id="I49-equals"),
        pytest.param(("--hos", "0.0.0.0"), id="I49-prefix"),
        pytest.param(("--HOST", "0.0.0.0"), id="I49-upper-case"),
        pytest.param(("--ctx_size", "1"), id="I49-underscore"),
        pytest.param(("-h",), id="I49-short"),
        pytest.param(("-ngl", "99"), id="I49-short-of-a-key"),
        pytest.param(("--kv-unified",), id="I49-opposite"),
        pytest.param(("--jinja", "--port", "1"), id="I49-behind-a-harmless-one"),
        pytest.param(("--rope-scale", "--port"), id="I49-as-a-value"),
        pytest.param(("--cors-origins", "*"), id="I49-origins"),
    ],
)
def test_flags_that_lmctl_manages(args: tuple[str, ...]) -> None:
    assert refused(args)[0] == "E-FLAG"
    assert refused(args, allowed=frozenset({"flags"}))[0] == "E-FLAG"


UNSAFE = [
    ("--tools", "all"),
    ("--agent",),
    ("--mcp-servers-json", "{}"),
    ("--video-ffmpeg-dir", "."),
    ("--slot-save-path", "/"),
    ("--path", "/"),
    ("--log-file", "/tmp/x"),
    ("--grammar-file", "/etc/passwd"),
    ("--rpc", "10.0.0.1:1"),
    ("--verbose",),
    ("--no-such-flag",),
]


@pytest.mark.parametrize("args", [pytest.param(args, id=f"I50{args[0]}") for args in UNSAFE])
def test_flags_that_need_consent(args: tuple[str, ...]) -> None:
    assert refused(args)[0] == "E-UNSAFE"
    assert refused(args, allowed=frozenset({"flags"})) == []
    assert refused(args, allowed=frozenset({"env", "command", "remote_code"}))[0] == "E-UNSAFE"


@pytest.mark.parametrize(
    ("args", "code"),
    [
        pytest.param(("--api-key", "s3cr3t"), "E-SECRET", id="I52-key"),
        pytest.param(("--api-key=s3cr3t",), "E-SECRET", id="I52-equals"),
        pytest.param(("--api", "s3cr3t"), "E-SECRET", id="I52-prefix"),
        pytest.param(("--hf-token", "s3cr3t"), "E-SECRET", id="I52-token"),
        pytest.param(("-hft", "s3cr3t"), "E-SECRET", id="I52-short"),
        pytest.param(("--keep", "s3cr3t\n--host"), "E-ARG", id="I53-newline"),
        pytest.param(("--keep\0", "1"), "E-ARG", id="I53-NUL"),
        pytest.param(("--keep", "\udcff"), "E-ARG", id="I53-not-text"),
        pytest.param(("--keep", "1" * (1 << 20)), "E-LIMIT", id="I53-one-MB"),
        pytest.param(("--jinja",) * 100_000, "E-LIMIT", id="I53-100k"),
        pytest.param(("s3cr3t",), "E-ARG", id="I53-no-flag"),
        pytest.param(("--keep", "1", "2"), "E-ARG", id="I53-one-value-too-many"),
        pytest.param(("--keep=1",), "E-ARG", id="I53-harmless-with-equals"),
    ],
)
def test_arguments_that_are_never_passed_on(args: tuple[str, ...], code: str) -> None:
    assert refused(args)[0] == code


@pytest.mark.parametrize(
    "group", [group for group in llama_cpp.RULES.groups if group.flags], ids=lambda group: group.why
)
def test_harmless_flags(group: allowlist.Group) -> None:
    for name, values in group.flags.items():
        assert refused((name, *["-1"] * values)) == []


ALWAYS_REFUSED = ["LLAMA_ARG_TOOLS", "LLAMA_ARG_HOST", "LD_PRELOAD", "PYTHONPATH", "PATH", "HF_TOKEN", "OLLAMA_HOST"]
ALWAYS_REFUSED += ["VLLM_SERVER_DEV_MODE", "HOME", "DYLD_INSERT_LIBRARIES", "GGML_BACKEND_PATH", "https_proxy".upper()]
ALWAYS_REFUSED += ["OPENAI_API_KEY", "BASH_ENV"]


@pytest.mark.parametrize("name", [pytest.param(name, id=f"I55-{name}") for name in ALWAYS_REFUSED])
def test_variables_that_are_never_passed_on(name: str) -> None:
    assert refused(env={name: "s3cr3t"}) == ["E-ENV"]
    assert refused(env={name: "s3cr3t"}, allowed=frozenset({"env"})) == ["E-ENV"]


def test_I55_a_variable_of_ones_own_needs_consent() -> None:
    assert refused(env={"MY_SWITCH": "1"}) == ["E-ENV"]
    assert refused(env={"MY_SWITCH": "1"}, allowed=frozenset({"env"})) == []


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, id=f"I56-{name!r}")
        for name in ("A=B", "A B", "", "lower", "A%B", "A\n", "1A", "Ä", "A" * 200)
    ],
)
def test_names_that_no_variable_has(name: str) -> None:
    assert refused(env={name: "s3cr3t"}, allowed=frozenset({"env"})) == ["E-ENV"]


@pytest.mark.parametrize(
    ("env", "code"),
    [
        pytest.param({"CUDA_VISIBLE_DEVICES": "0\n1"}, "E-ARG", id="newline"),
        pytest.param({"CUDA_VISIBLE_DEVICES": "0" * 5000}, "E-LIMIT", id="long"),
        pytest.param({f"V{n}": "" for n in range(65)}, "E-LIMIT", id="many"),
    ],
)
def test_values_of_variables(env: dict[str, str], code: str) -> None:
    assert refused(env=env, allowed=frozenset({"env"})) == [code]


def test_harmless_variables() -> None:
    assert refused(env=dict.fromkeys(llama_cpp.RULES.env, "1")) == []


def test_llama_cpp_runs_everywhere() -> None:
    assert llama_cpp.check(profile(), NOTHING, MAC) == ()
    assert llama_cpp.command(serve(profile(), WEIGHTS, engine=BINARY))[0] == "/usr/bin/llama-server"
