"""llama.cpp: the argv of a profile, and that the real engine knows every flag."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
from fakes import llama_server
from parts import BINARY, MAC, artifact, flag, profile, serve, wanted
from syrupy.assertion import SnapshotAssertion

from lmctl import embedded
from lmctl.backend import Engine
from lmctl.backends import llama_cpp
from lmctl.errors import LmctlError
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


KEY_FILE = "keys/p-0123456789ab"


def test_a_rich_profile(snapshot: SnapshotAssertion) -> None:
    assert llama_cpp.command(serve(RICH, *RICH_PARTS)) == snapshot


def test_a_key_is_named_by_its_file_and_only_where_one_is_asked_for() -> None:
    assert flag(llama_cpp.command(serve(profile(), WEIGHTS, key_file=KEY_FILE)), "--api-key-file") == KEY_FILE
    assert "--api-key-file" not in llama_cpp.command(serve(profile(), WEIGHTS))


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


def test_a_folder_of_safetensors_is_none_of_its_models() -> None:
    with pytest.raises(LmctlError, match="reads GGUF") as refused:
        llama_cpp.command(serve(profile(), artifact("w", {"model.safetensors": "weights"})))
    assert refused.value.code == "E-MATCH"


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
    argv = llama_cpp.command(serve(RICH, *RICH_PARTS, key_file=KEY_FILE))[1:]
    assert set(llama_server.parse([*argv])) == _long(argv)


def test_the_embedded_engine_knows_every_flag_but_devices() -> None:
    rich = llama_cpp.command(serve(RICH, *RICH_PARTS, engine=EMBEDDED, key_file=KEY_FILE))[4:]
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
    ours = _long(llama_cpp.command(serve(RICH, *RICH_PARTS, key_file=KEY_FILE))) | {"--device"}
    listed = {*llama_cpp.RULES.flags, *llama_cpp.RULES.managed, *llama_cpp.RULES.secret, *llama_server.FLAGS}
    assert not {name for name in ours | listed if name.startswith("--")} - real_flags


def test_every_rendered_flag_is_managed(real_flags: set[str]) -> None:
    ours = _long(llama_cpp.command(serve(RICH, *RICH_PARTS, key_file=KEY_FILE))) | {"--device"}
    assert ours <= llama_cpp.RULES.managed.keys()
    assert not llama_cpp.RULES.managed.keys() & llama_cpp.RULES.flags.keys()


def test_llama_cpp_runs_everywhere() -> None:
    assert llama_cpp.check(profile(), NOTHING, MAC) == ()
    assert llama_cpp.command(serve(profile(), WEIGHTS, engine=BINARY))[0] == "/usr/bin/llama-server"
