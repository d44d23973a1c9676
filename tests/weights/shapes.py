"""Write GGUF files of any architecture's shape; their weights are a hole in the file, zeros that take no disk.

A case is {"arch", "hp"} as in tests/cases/fit_cases.json: the numbers of a header, from which the tensors follow that
llama.cpp asks of that architecture. The engine loads the result, so its memory can be measured.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weights.hello import ALIGNMENT, Value, header, vocabulary
from weights.layers import LAYERS, Model


def tensors(arch: str, hp: dict[str, Any]) -> Model:
    """Return the model with every tensor that its architecture asks for."""
    m = Model(arch, hp)
    embd = hp["n_embd"]
    m.matrix("token_embd.weight", embd, hp["vocab"])
    if arch in ("bert", "nomic-bert"):
        m.vector("token_types.weight", embd, 2)
        if arch == "bert":
            m.matrix("position_embd.weight", embd, m.hp["ctx_train"])
        m.vector("token_embd_norm.weight", embd)
        m.vector("token_embd_norm.bias", embd)
    else:
        m.vector("token_embd_norm.weight" if arch == "lfm2" else "output_norm.weight", embd)
        if not hp.get("tied") and arch != "gemma2":
            m.matrix("output.weight", embd, hp["vocab"])
    for i in range(hp["n_layer"]):
        LAYERS[arch](m, i)
    return m


# case's name of a number: the header's
KEYS = {
    "n_embd": "embedding_length", "n_layer": "block_count", "n_head": "attention.head_count", "vocab": "vocab_size",
    "n_head_kv": "attention.head_count_kv", "n_ff": "feed_forward_length", "ctx_train": "context_length",
    "n_expert": "expert_count", "n_used": "expert_used_count", "n_ff_exp": "expert_feed_forward_length",
    "window": "attention.sliding_window", "moe_step": "interleave_moe_layer_step", "rope": "rope.dimension_count",
    "dense_lead": "leading_dense_block_count", "q_lora": "attention.q_lora_rank", "kv_lora": "attention.kv_lora_rank",
    "n_shared": "expert_shared_count", "d_conv": "ssm.conv_kernel", "d_inner": "ssm.inner_size",
    "d_state": "ssm.state_size", "dt_rank": "ssm.time_step_rank", "n_group": "ssm.group_count",
    "l_cache": "shortconv.l_cache", "interval": "full_attention_interval",
    "n_ff_shexp": "expert_shared_feed_forward_length",
}  # fmt: skip


def numbers(m: Model) -> dict[str, Value]:
    """Return the architecture's metadata, keys without its prefix."""
    hp = m.hp
    found: dict[str, Value] = {ours: hp[case] for case, ours in KEYS.items() if hp.get(case) is not None}
    found |= {"attention.layer_norm_rms_epsilon": 1e-5, "attention.layer_norm_epsilon": 1e-5}
    if not hp["n_head"]:
        del found["attention.head_count"], found["attention.head_count_kv"]
    elif m.arch != "deepseek2":
        if isinstance(hp["n_head"], list) or hp["head_dim"] * hp["n_head"] != hp["n_embd"]:
            found |= {"attention.key_length": hp["head_dim"], "attention.value_length": hp["head_dim"]}
        found["rope.dimension_count"] = hp.get("n_rot", hp["head_dim"])
    elif hp["mla"]:
        found |= {"attention.key_length": hp["kv_lora"] + hp["rope"], "attention.value_length": hp["kv_lora"]}
        found |= {"attention.key_length_mla": hp["nope"] + hp["rope"], "attention.value_length_mla": hp["v_dim"]}
    else:
        found |= {"attention.key_length": hp["nope"] + hp["rope"], "attention.value_length": hp["v_dim"]}
    if hp.get("softcap"):
        found |= {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    if m.arch == "qwen35":
        found["rope.dimension_sections"] = [11, 11, 10, 0]
    if m.arch in ("bert", "nomic-bert"):
        found |= {"attention.causal": False, "pooling_type": 1}
    return found


def words(count: int) -> list[str]:
    """Return a vocabulary of `count` tokens."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    return tokens + [f"w{index}" for index in range(count - len(tokens))]


def header_of(arch: str, hp: dict[str, Any]) -> tuple[bytes, int]:
    """Return the header of a model and the bytes of the whole file."""
    m = tensors(arch, hp)
    metadata: dict[str, Value] = {"general.architecture": arch, "general.name": "shape"}
    metadata |= {f"{arch}.{key}": value for key, value in numbers(m).items()}
    if arch in ("bert", "nomic-bert"):
        metadata["tokenizer.ggml.token_type_count"] = 2
    raw = header(metadata | vocabulary(words(hp["vocab"])), m.tensors)
    return raw, len(raw) + sum(size + -size % ALIGNMENT for *_, size in m.tensors)


def write(path: Path, arch: str, hp: dict[str, Any]) -> Path:
    """Write the model as a sparse file; return its path."""
    raw, size = header_of(arch, hp)
    with path.open("wb") as file:
        file.write(raw)
        file.truncate(size)
    return path
