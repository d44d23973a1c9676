"""Memory estimates of MLX against its real caches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lmctl.fit import need
from lmctl.fit.needs import MLX_PLAIN
from lmctl.safetensors import shape_from_config
from lmctl.spec import Json, Settings

QWEN3 = {"model_type": "qwen3", "num_hidden_layers": 64, "num_attention_heads": 64, "num_key_value_heads": 8}
QWEN3 |= {"head_dim": 128, "hidden_size": 5120, "max_position_embeddings": 40960, "vocab_size": 151936}


def test_mlx_takes_keys_and_values_in_steps_of_256_tokens() -> None:
    found = shape_from_config(QWEN3)
    small = need(found, "mlx", 0, Settings(ctx=1000, parallel=2))
    assert small.known and small.kv == 64 * 2 * 8 * 128 * 2 * 1024 * 2 and "no limit of context" in small.note
    assert need({**found, "dtype": "float32"}, "mlx", 0, Settings(ctx=1000, parallel=2)).kv == 2 * small.kv


@pytest.mark.parametrize(
    "changed", [{"model_type": "deepseek_v3"}, {"layer_types": ["full_attention", "sliding_attention"]}]
)
def test_mlx_caches_of_another_kind_are_not_guessed(changed: dict[str, Json]) -> None:
    found = need(shape_from_config({**QWEN3, **changed}), "mlx", 7, Settings())
    assert not found.known and found.total == 7


@pytest.fixture(scope="module")
def mlx_loader() -> Iterator[Any]:
    utils = pytest.importorskip("mlx_lm.utils")
    yield utils._get_classes


@pytest.mark.parametrize("architecture", sorted(MLX_PLAIN))
def test_the_real_mlx_caches_are_as_estimated(architecture: str, mlx_loader: Any) -> None:
    import mlx.core as mx
    from mlx_lm.models.cache import make_prompt_cache

    config = {
        "model_type": architecture,
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "intermediate_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "rms_norm_eps": 1e-5,
        "layer_norm_eps": 1e-5,
        "norm_epsilon": 1e-5,
        "vocab_size": 64,
        "max_position_embeddings": 512,
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.5,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    experts = {"num_experts": 2, "num_local_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
    experts |= {"decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True}
    experts |= {"shared_expert_intermediate_size": 32}
    granite = {"attention_bias": False, "mlp_bias": False, "logits_scaling": 1.0, "attention_multiplier": 1.0}
    granite |= {"embedding_multiplier": 1.0, "residual_multiplier": 1.0, "logit_scale": 1.0}
    model_class, arguments = mlx_loader({**config, **experts, **granite})[:2]
    model = model_class(arguments.from_dict({**config, **experts, **granite}))
    cache = make_prompt_cache(model)
    mx.eval(model(mx.zeros((1, 300), dtype=mx.int32), cache=cache))
    measured = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache)
    assert measured == need(shape_from_config(config), "mlx", 0, Settings(ctx=300)).kv
