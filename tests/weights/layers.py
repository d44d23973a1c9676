"""The tensors that llama.cpp asks of each architecture, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lmctl.gguf import TYPES

IDS = {name: kind for kind, (name, *_) in TYPES.items()}


class Model:
    """Collects the tensors of one model; dims are in ggml's order, fastest first."""

    def __init__(self, arch: str, hp: dict[str, Any]) -> None:
        heads = hp.get("n_head", 0)
        width = hp["n_embd"] // heads if isinstance(heads, int) and heads else 0
        self.arch = arch
        self.hp = {"n_head": heads, "n_head_kv": heads, "head_dim": width, "ctx_train": 131072, **hp}
        self.tensors: list[tuple[str, tuple[int, ...], int, int]] = []

    def of(self, key: str, layer: int) -> int:
        """Return a number that may differ from layer to layer."""
        value = self.hp[key]
        return value[layer] if isinstance(value, list) else value

    def matrix(self, name: str, *dims: int) -> None:
        """Add a weight of the case's type, f16 where its rows do not fill that type's blocks."""
        wanted = self.hp.get("wtype", "f16").upper()
        self._add(name, dims, wanted if dims[0] % TYPES[IDS[wanted]][1] == 0 else "F16")

    def vector(self, name: str, *dims: int) -> None:
        """Add an f32 tensor: norms, biases and what is small."""
        self._add(name, dims, "F32")

    def _add(self, name: str, dims: tuple[int, ...], kind: str) -> None:
        _, block, block_bytes = TYPES[IDS[kind]]
        self.tensors.append((name, dims, IDS[kind], math.prod(dims) // block * block_bytes))


def attention(m: Model, i: int, *, gated: bool = False) -> None:
    """Add one attention layer; what it has beside Q, K and V follows from the architecture."""
    embd, width, b = m.hp["n_embd"], m.hp["head_dim"], f"blk.{i}."
    q, kv = m.of("n_head", i) * width, m.of("n_head_kv", i) * width
    biased = m.arch in ("qwen2", "gpt-oss", "bert")
    if m.arch in ("phi3", "nomic-bert"):
        m.matrix(b + "attn_qkv.weight", embd, q + 2 * kv)
    else:
        for name, out in (("q", 2 * q if gated else q), ("k", kv), ("v", kv)):
            m.matrix(f"{b}attn_{name}.weight", embd, out)
            if biased:
                m.vector(f"{b}attn_{name}.bias", out)
    m.matrix(b + "attn_output.weight", q, embd)
    if m.arch in ("gpt-oss", "bert"):
        m.vector(b + "attn_output.bias", embd)
    if m.arch in ("qwen3", "qwen3moe", "gemma3", "lfm2", "qwen3next", "qwen35"):
        m.vector(b + "attn_q_norm.weight", width)
        m.vector(b + "attn_k_norm.weight", width)


def feed_forward(m: Model, i: int) -> None:
    embd, width, b = m.hp["n_embd"], m.of("n_ff", i), f"blk.{i}."
    if m.arch not in ("bert", "nemotron_h", "phi3"):
        m.matrix(b + "ffn_gate.weight", embd, width)
    m.matrix(b + "ffn_up.weight", embd, 2 * width if m.arch == "phi3" else width)
    m.matrix(b + "ffn_down.weight", width, embd)
    if m.arch == "bert":
        m.vector(b + "ffn_up.bias", width)
        m.vector(b + "ffn_down.bias", embd)


def experts(m: Model, i: int, shared: int = 0) -> None:
    """Add a mixture of experts, with `shared` the width of the expert that every token uses."""
    embd, count, b = m.hp["n_embd"], m.hp["n_expert"], f"blk.{i}."
    width = m.hp.get("n_ff_exp") or m.hp["n_ff"]
    m.vector(b + "ffn_gate_inp.weight", embd, count)
    if m.arch == "gpt-oss":
        m.vector(b + "ffn_gate_inp.bias", count)
    for name, rows, columns in (("gate", embd, width), ("up", embd, width), ("down", width, embd)):
        m.matrix(f"{b}ffn_{name}_exps.weight", rows, columns, count)
        if m.arch == "gpt-oss":
            m.vector(f"{b}ffn_{name}_exps.bias", columns, count)
    if shared:
        m.matrix(b + "ffn_gate_shexp.weight", embd, shared)
        m.matrix(b + "ffn_up_shexp.weight", embd, shared)
        m.matrix(b + "ffn_down_shexp.weight", shared, embd)
    if m.arch == "qwen3next":
        m.vector(b + "ffn_gate_inp_shexp.weight", embd)


def mamba(m: Model, i: int) -> None:
    hp, b = m.hp, f"blk.{i}."
    embd, inner, state, rank = hp["n_embd"], hp["d_inner"], hp["d_state"], hp["dt_rank"]
    m.matrix(b + "ssm_in.weight", embd, 2 * inner)
    m.vector(b + "ssm_conv1d.weight", hp["d_conv"], inner)
    m.vector(b + "ssm_conv1d.bias", inner)
    m.matrix(b + "ssm_x.weight", inner, rank + 2 * state)
    if m.arch == "jamba":
        for name, size in (("dt", rank), ("b", state), ("c", state)):
            m.vector(f"{b}ssm_{name}_norm.weight", size)
    m.matrix(b + "ssm_dt.weight", rank, inner)
    m.vector(b + "ssm_dt.bias", inner)
    m.vector(b + "ssm_a", state, inner)
    m.vector(b + "ssm_d", inner)
    m.matrix(b + "ssm_out.weight", inner, embd)


def mamba2(m: Model, i: int) -> None:
    hp, b = m.hp, f"blk.{i}."
    embd, inner, rank, groups = hp["n_embd"], hp["d_inner"], hp["dt_rank"], hp["n_group"]
    convolved = inner + 2 * groups * hp["d_state"]
    m.matrix(b + "ssm_in.weight", embd, inner + convolved + rank)
    m.vector(b + "ssm_conv1d.weight", hp["d_conv"], convolved)
    m.vector(b + "ssm_conv1d.bias", convolved)
    m.vector(b + "ssm_dt.bias", rank)
    m.vector(b + "ssm_a", 1, rank)
    m.vector(b + "ssm_d", 1, rank)
    m.vector(b + "ssm_norm.weight", inner // groups, groups)
    m.matrix(b + "ssm_out.weight", inner, embd)


def delta_net(m: Model, i: int) -> None:
    hp, b = m.hp, f"blk.{i}."
    embd, state, ranks = hp["n_embd"], hp["d_state"], hp["dt_rank"]
    key, value = state * hp["n_group"], state * ranks
    m.matrix(b + "attn_qkv.weight", embd, 2 * key + value)
    m.matrix(b + "attn_gate.weight", embd, value)
    m.vector(b + "ssm_conv1d.weight", hp["d_conv"], 2 * key + value)
    m.vector(b + "ssm_dt.bias", ranks)
    m.vector(b + "ssm_a", ranks)
    for name, columns in (("beta", ranks), ("alpha", ranks)) if m.arch == "qwen35" else (("ba", 2 * ranks),):
        m.matrix(f"{b}ssm_{name}.weight", embd, columns)
    m.vector(b + "ssm_norm.weight", state)
    m.matrix(b + "ssm_out.weight", value, embd)


def latent_attention(m: Model, i: int) -> None:
    hp, b = m.hp, f"blk.{i}."
    embd, heads, lora, rope = hp["n_embd"], hp["n_head"], hp["kv_lora"], hp["rope"]
    m.matrix(b + "attn_q_a.weight", embd, hp["q_lora"])
    m.vector(b + "attn_q_a_norm.weight", hp["q_lora"])
    m.matrix(b + "attn_q_b.weight", hp["q_lora"], heads * (hp["nope"] + rope))
    m.matrix(b + "attn_kv_a_mqa.weight", embd, lora + rope)
    m.vector(b + "attn_kv_a_norm.weight", lora)
    if hp["mla"]:
        m.matrix(b + "attn_k_b.weight", hp["nope"], lora, heads)
        m.matrix(b + "attn_v_b.weight", lora, hp["v_dim"], heads)
    else:
        m.matrix(b + "attn_kv_b.weight", lora, heads * (hp["nope"] + hp["v_dim"]))
    m.matrix(b + "attn_output.weight", heads * hp["v_dim"], embd)


def _norms(*names: str) -> Callable[[Model, int], None]:
    def add(m: Model, i: int) -> None:
        for name in names:
            m.vector(f"blk.{i}.{name}", m.hp["n_embd"])

    return add


_pre, _post = _norms("attn_norm.weight"), _norms("post_attention_norm.weight")
_ffn = _norms("ffn_norm.weight")


def _bert(m: Model, i: int) -> None:
    attention(m, i)
    _norms("attn_output_norm.weight", "attn_output_norm.bias", "layer_output_norm.weight", "layer_output_norm.bias")(
        m, i
    )
    feed_forward(m, i)


def _plain(m: Model, i: int) -> None:
    _pre(m, i)
    attention(m, i)
    _ffn(m, i)
    (experts if m.hp.get("n_expert") else feed_forward)(m, i)


def _gemma(m: Model, i: int) -> None:
    _plain(m, i)
    _norms("post_attention_norm.weight", "post_ffw_norm.weight")(m, i)


def _gpt_oss(m: Model, i: int) -> None:
    _pre(m, i)
    attention(m, i)
    _post(m, i)
    m.vector(f"blk.{i}.attn_sinks.weight", m.hp["n_head"])
    experts(m, i)


def _llama4(m: Model, i: int) -> None:
    _pre(m, i)
    attention(m, i)
    _ffn(m, i)
    if (i + 1) % m.hp["moe_step"] == 0:
        experts(m, i, shared=m.hp["n_ff_exp"])
    else:
        feed_forward(m, i)


def _deepseek2(m: Model, i: int) -> None:
    _pre(m, i)
    latent_attention(m, i)
    _ffn(m, i)
    if i < m.hp["dense_lead"]:
        feed_forward(m, i)
    else:
        experts(m, i, shared=m.hp["n_ff_exp"] * m.hp["n_shared"])


def _recurrent(mixer: Callable[[Model, int], None]) -> Callable[[Model, int], None]:
    def add(m: Model, i: int) -> None:
        _pre(m, i)
        mixer(m, i)

    return add


def _falcon_h1(m: Model, i: int) -> None:
    _pre(m, i)
    mamba2(m, i)
    attention(m, i)
    m.vector(f"blk.{i}.ffn_norm", m.hp["n_embd"])
    feed_forward(m, i)


def _short_convolution(m: Model, i: int) -> None:
    embd, b = m.hp["n_embd"], f"blk.{i}."
    m.vector(b + "shortconv.conv.weight", m.hp["l_cache"], embd)
    m.matrix(b + "shortconv.in_proj.weight", embd, 3 * embd)
    m.matrix(b + "shortconv.out_proj.weight", embd, embd)


def _hybrid(m: Model, i: int) -> None:
    """Add a layer that is recurrent or has attention: lfm2, jamba, granitehybrid."""
    mixer = {"lfm2": _short_convolution, "jamba": mamba, "granitehybrid": mamba2}[m.arch]
    _pre(m, i)
    (mixer if i in m.hp["recurrent"] else attention)(m, i)
    _ffn(m, i)
    (experts if m.hp.get("n_expert") and i % 2 else feed_forward)(m, i)


def _nemotron_h(m: Model, i: int) -> None:
    _pre(m, i)
    if i in m.hp["recurrent"]:
        mamba2(m, i)
    elif m.of("n_ff", i):
        feed_forward(m, i)
    else:
        attention(m, i)


def _qwen_hybrid(m: Model, i: int) -> None:
    _pre(m, i)
    _post(m, i)
    if i in m.hp["recurrent"]:
        delta_net(m, i)
    else:
        attention(m, i, gated=True)
    if m.arch == "qwen35":
        feed_forward(m, i)
    else:
        experts(m, i, shared=m.hp["n_ff_shexp"])


LAYERS: dict[str, Callable[[Model, int], None]] = {
    **dict.fromkeys(("llama", "mistral3", "qwen2", "qwen3", "qwen3moe", "phi3"), _plain),
    **dict.fromkeys(("bert", "nomic-bert"), _bert),
    **dict.fromkeys(("gemma2", "gemma3"), _gemma),
    **dict.fromkeys(("lfm2", "jamba", "granitehybrid"), _hybrid),
    **dict.fromkeys(("qwen3next", "qwen35"), _qwen_hybrid),
    "gpt-oss": _gpt_oss,
    "llama4": _llama4,
    "deepseek2": _deepseek2,
    "mamba": _recurrent(mamba),
    "mamba2": _recurrent(mamba2),
    "falcon-h1": _falcon_h1,
    "nemotron_h": _nemotron_h,
}
