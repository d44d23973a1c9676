"""Fields of the embedded engine that no answer shows: what flags become in its parameters."""

from __future__ import annotations

import re
from typing import Any

import pytest

from lmctl import embedded

pytest.importorskip("xllamacpp")


def fields(*flags: str) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    for flag, value in embedded.pairs(flags):
        embedded.FLAGS[flag](params, value)
    return params


def test_fields() -> None:
    params = fields("--n-gpu-layers", "all", "--cache-ram", "5", "--batch-size", "9", "--ubatch-size", "8", "--offline")
    assert (params.n_gpu_layers, params.cache_ram_mib, params.n_batch, params.n_ubatch) == (-2, 5, 9, 8)
    assert params.offline
    params = fields("--load-mode", "mmap+mlock", "--cache-type-k", "iq4_nl", "--flash-attn", "off", "--mmproj", "/p")
    assert (params.load_mode.value, params.flash_attn_type.value, params.mmproj.path) == (3, 0, "/p")
    assert params.cache_type_k.name == "GGML_TYPE_IQ4_NL"
    adapters = fields("--lora-scaled", "/a b.gguf:0.5,/c.gguf:-1.0").lora_adapters
    assert [(adapter.path, adapter.scale) for adapter in adapters] == [("/a b.gguf", 0.5), ("/c.gguf", -1.0)]
    params = fields("--reranking", "--seed", "-1")
    assert (params.embedding, params.pooling_type.name) == (True, "LLAMA_POOLING_TYPE_RANK")
    assert params.sampling.seed == 0xFFFFFFFF


def test_experts_on_the_cpu_are_those_of_the_first_layers() -> None:
    patterns = [part.removesuffix("=CPU") for part in fields("--n-cpu-moe", "2").tensor_buft_overrides.split(",")]
    kept = [layer for layer in range(4) if any(re.search(p, f"blk.{layer}.ffn_up_exps.weight") for p in patterns)]
    assert kept == [0, 1]
    assert not any(re.search(p, "blk.0.attn_q.weight") for p in patterns)


CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


@pytest.mark.parametrize("name", CACHE_TYPES)
def test_cache_types(name: str) -> None:
    assert fields("--cache-type-v", name).cache_type_v.name == f"GGML_TYPE_{name.upper()}"


@pytest.mark.parametrize("name", ["auto", "none", "mmap", "mlock", "mmap+mlock"])
def test_load_modes(name: str) -> None:
    assert fields("--load-mode", name).load_mode.name == f"LLAMA_LOAD_MODE_{name.upper().replace('+', '_')}"
