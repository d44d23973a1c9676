"""Memory estimates against the engine's own log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as settings_of
from hypothesis import strategies as st
from weights import measure, shapes

from lmctl.fit import Need, need, request_context
from lmctl.fit.llama import Effective, caches, cells, output_bytes
from lmctl.fit.needs import MLX_PLAIN, effective
from lmctl.fit.numbers import Unknown
from lmctl.gguf import SHAPE_KEYS, read_header, shape
from lmctl.source import Source
from lmctl.spec import Format, Json, Settings, Shape

CASES = json.loads((Path(__file__).parent / "cases" / "fit_cases.json").read_text())["cases"]
LLAMA = {"n_embd": 256, "n_layer": 4, "n_head": 8, "n_head_kv": 2, "n_ff": 512, "vocab": 1000}
GiB, MiB = 1 << 30, 1 << 20


class Written:
    """A header as a source whose tensors are not there."""

    def __init__(self, raw: bytes, size: int) -> None:
        self.raw, self.size = raw, size

    def read(self, start: int, length: int) -> bytes:
        return self.raw[start : start + length]


def shape_of(arch: str, hp: dict[str, Any]) -> Shape:
    """Write the header and read it back, as a lock would."""
    source: Source = Written(*shapes.header_of(arch, hp))
    return shape(read_header(source, "m.gguf"))


def run_of(run: dict[str, Any]) -> Effective:
    """Read a case's settings as the server does: slots that are not given are four, over one cache."""
    auto = run["n_parallel"] < 0
    slots, unified = (4, True) if auto else (run["n_parallel"], run["kv_unified"])
    return Effective(
        ctx_seq=cells(run["n_ctx"], slots, unified),
        slots=slots,
        unified=unified,
        ubatch=min(run["n_ctx"], run["n_batch"], run["n_ubatch"]),
        type_k=run["ctk"],
        type_v=run["ctv"],
        flash_attn=run["fa"] != "off",
        swa_full=run["swa_full"],
        embeddings=run.get("embedding", False),
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_cache_state_and_output_are_those_the_engine_logs(case: dict[str, Any]) -> None:
    found, run = shape_of(case["arch"], case["hp"]), run_of(case["run"])
    assert (run.ctx_seq, run.slots) == (case["ctx_seq"], case["slots"])
    layers = caches(found, run)
    ours = (sum(kv for kv, _ in layers), sum(state for _, state in layers), output_bytes(found, run))
    logged = [case["mib"].get(kind, {}).get("CPU", 0.0) for kind in ("KV", "RS", "output")]
    assert [size / MiB for size in ours] == pytest.approx(logged, abs=0.00501)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_the_header_accounts_for_every_byte_of_weights(case: dict[str, Any]) -> None:
    header = read_header(Written(*shapes.header_of(case["arch"], case["hp"])), "m.gguf")
    logged = sum(case["mib"]["model"].values())
    copied = "CPU_REPACK" in case["mib"]["model"]  # the log then counts some matrices twice
    size = sum(tensor.size + -tensor.size % 32 for tensor in header.tensors) / MiB
    assert size < logged if copied else size == pytest.approx(logged, abs=0.00501)


@pytest.mark.parametrize(
    ("arch", "hp", "settings", "engine"),
    [
        pytest.param(
            "llama", LLAMA, Settings(ctx=1500, parallel=3, cache_type_k="q8_0"), {"cache_type_k": 8}, id="llama-3-slots"
        ),
        pytest.param("gemma3", {**LLAMA, "n_layer": 7, "window": 512}, Settings(ctx=4096, parallel=2), {}, id="gemma3"),
        pytest.param(
            "granitehybrid",
            {
                **LLAMA,
                "n_head": [8] * 4,
                "n_head_kv": [0, 0, 4, 0],
                "head_dim": 32,
                "recurrent": [0, 1, 3],
                "d_inner": 512,
                "d_state": 64,
                "d_conv": 4,
                "dt_rank": 8,
                "n_group": 1,
            },
            Settings(parallel=2),
            {},
            id="granitehybrid-default-ctx",
        ),
    ],
)
def test_the_real_engine_takes_what_was_estimated(
    tmp_path: Path, arch: str, hp: dict[str, Any], settings: Settings, engine: dict[str, Any]
) -> None:
    model = shapes.write(tmp_path / "m.gguf", arch, hp)
    found = shape_of(arch, hp)
    ours = need(found, "gguf", model.stat().st_size, settings)
    total = request_context(settings, found) * settings.parallel
    started = {"n_ctx": total, "n_parallel": settings.parallel, "kv_unified": False, **engine}
    assert {"KV": ours.kv / MiB, "RS": ours.state / MiB, "output": ours.output / MiB} == pytest.approx(
        measure.buffers(str(model), started), abs=0.011
    )


def test_the_context_is_per_request_and_the_engine_gets_that_times_its_slots() -> None:
    found = shape_of("llama", LLAMA)
    one, four = need(found, "gguf", 0, Settings(ctx=4096)), need(found, "gguf", 0, Settings(ctx=4096, parallel=4))
    assert four.kv == 4 * one.kv and four.output == 4 * one.output
    assert effective(Settings(ctx=1000, parallel=3), found).ctx_seq == 1024


@pytest.mark.parametrize(
    ("trained", "declared", "tokens"),
    [(131072, None, 8192), (2048, None, 2048), (2048, 4096, 4096), (None, None, 8192), ("many", None, 8192)],
)
def test_the_default_context_is_8192_or_what_the_model_was_trained_on(
    trained: Json, declared: int | None, tokens: int
) -> None:
    found: Shape = {} if trained is None else {"context_length": trained}
    assert request_context(Settings(ctx=declared), found) == tokens


def test_embeddings_and_old_prompts_are_counted() -> None:
    found = shape_of("llama", LLAMA)
    plain = need(found, "gguf", 7, Settings())
    more = need(found, "gguf", 7, Settings(embeddings=True, cache_ram=100))
    assert plain.output == 1000 * 4 and more.output == (1000 + 256) * 4
    assert more.total - plain.total == 256 * 4 + 100 and plain.total == 7 + plain.kv + plain.output


def test_blocks_that_predict_further_tokens_have_no_main_cache() -> None:
    found = shape_of("llama", LLAMA)
    with_nextn = {**found, "nextn_predict_layers": 1}
    assert need(with_nextn, "gguf", 0, Settings()).kv * 4 == need(found, "gguf", 0, Settings()).kv * 3


def test_a_pattern_in_the_header_says_which_layers_have_a_window() -> None:
    found = shape_of("gemma3", {**LLAMA, "window": 512})
    full, window = 8192, 1024
    for pattern, expected in (([True, False, True, False], 2), (2, 2), (4, 3), (1, 0), (0, 4)):
        kv = need({**found, "attention.sliding_window_pattern": pattern}, "gguf", 0, Settings()).kv
        assert kv == 2 * 2 * 2 * 32 * ((4 - expected) * full + expected * window)


def test_window_layers_may_have_heads_of_their_own_length() -> None:
    found = {**shape_of("gemma2", {**LLAMA, "window": 512}), "attention.key_length": 32, "attention.value_length": 32}
    own = {**found, "attention.key_length_swa": 16, "attention.value_length_swa": 16}
    difference = need(found, "gguf", 0, Settings()).kv - need(own, "gguf", 0, Settings()).kv
    assert difference == 2 * 1024 * 2 * (32 - 16) * 2 * 2  # window layers, tokens, heads, elements, bytes, K and V


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"architecture": "rwkv7"}, "no memory formula for architecture rwkv7"),
        ({"architecture": "\x1b[31m"}, r"architecture \x1b[31m"),
        ({"architecture": None}, "architecture None"),
        ({"block_count": None}, "no usable block_count"),
        ({"block_count": 2**32 - 1}, "claims 4294967295 layers"),
        ({"block_count": 0}, "claims 0 layers"),
        ({"block_count": True}, "no usable block_count"),
        ({"attention.head_count": 0, "attention.head_count_kv": 1}, "no attention.head_count"),
        ({"attention.head_count_kv": [1, 2]}, "no usable attention.head_count_kv"),
        ({"attention.head_count_kv": 2**50}, "no usable attention.head_count_kv"),
        ({"embedding_length": -1}, "no usable embedding_length"),
        ({"vocab_size": "many"}, "no usable vocab_size"),
    ],
)
def test_what_is_not_known_is_said_and_the_weights_still_count(changed: dict[str, Json], why: str) -> None:
    found = need({**shape_of("llama", LLAMA), **changed}, "gguf", 5 * GiB, Settings(cache_ram=GiB))
    assert not found.known and why in found.note and found.note.endswith("at least its weights")
    assert found.total == 6 * GiB


def test_an_unknown_cache_type_or_format_is_said() -> None:
    found = shape_of("llama", LLAMA)
    assert "cache type q9" in need(found, "gguf", 1, Settings(cache_type_k="q9")).note
    assert need(found, "safetensors", 1, Settings()) == Need(
        1, known=False, note="no memory formula for safetensors files: at least its weights"
    )


HOSTILE = st.one_of(
    st.integers(-1, 2**64), st.integers(0, 3), st.lists(st.integers(0, 4), max_size=5), st.text(max_size=3)
)


@settings_of(deadline=None, max_examples=300)
@given(
    st.sampled_from(sorted({case["arch"] for case in CASES} | MLX_PLAIN)),
    st.dictionaries(st.sampled_from(sorted(SHAPE_KEYS)), HOSTILE, max_size=20),
    st.sampled_from(["gguf", "mlx"]),
)
def test_a_hostile_shape_ends_in_an_estimate_or_in_a_reason(arch: str, values: dict[str, Json], kind: Format) -> None:
    base = shape_of("gemma3", {**LLAMA, "window": 64})
    found = need({**base, **values, "architecture": arch}, kind, 7, Settings(flash_attn=False, gpu_layers=2))
    assert found.total >= 7 and (found.known or found.note)


class Recording(dict[str, Json]):
    """A shape that remembers which keys were asked for."""

    def __init__(self, values: Mapping[str, Json]) -> None:
        super().__init__(values)
        self.asked: set[str] = set()

    def get(self, key: str, default: Json = None) -> Json:
        self.asked.add(key)
        return super().get(key, default)

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> Json:
        self.asked.add(key)
        return super().__getitem__(key)


def test_a_locked_shape_keeps_every_key_that_estimates_ask_for() -> None:
    asked: set[str] = set()
    for case in CASES:
        recording = Recording(shape_of(case["arch"], case["hp"]))
        need(recording, "gguf", 0, Settings(embeddings=True))
        need(recording, "mlx", 0, Settings())
        asked |= recording.asked
    assert asked - {"architecture", "dtype"} <= SHAPE_KEYS


def test_layers_on_a_gpu_take_their_caches_with_them() -> None:
    found = shape_of("llama", LLAMA)
    host, output, two, every = (need(found, "gguf", 5000, Settings(gpu_layers=layers)) for layers in (0, 1, 2, -1))
    assert need(found, "gguf", 5000, Settings()).gpu is None
    assert host.gpu == 0 and output.gpu == 1000  # of four layers and the output; the output has no cache
    assert two.gpu == 2000 + two.kv // 4 and every.gpu == 5000 + every.kv


def test_caches_of_an_unknown_architecture_raise() -> None:
    with pytest.raises(Unknown):
        caches({"architecture": "new"}, Effective(256, 1))
