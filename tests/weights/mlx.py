"""Write a tiny folder of MLX weights that `mlx_lm server` loads and that answers every chat with one fixed sentence.

As in hello.py, the network is a table of successors, here over two layers of Qwen3's kind. The same sentence always
gives the same bytes.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from weights.hello import chain, sparse

LAYERS, HEADS, NARROW = 2, 2, 32
UNKNOWN, END = "<unk>", "</s>"


def safetensors(tensors: dict[str, tuple[list[int], bytes]]) -> bytes:
    """Return a file of f16 tensors."""
    entries: dict[str, Any] = {"__metadata__": {"format": "mlx"}}
    at = 0
    for name, (shape, raw) in tensors.items():
        entries[name] = {"dtype": "F16", "shape": shape, "data_offsets": [at, at + len(raw)]}
        at += len(raw)
    head = json.dumps(entries, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + b"".join(raw for _, raw in tensors.values())


def _weights(ids: list[int], end: int, size: int) -> dict[str, tuple[list[int], bytes]]:
    after = dict.fromkeys(range(size), ids[0]) | dict(zip(ids, [*ids[1:], end], strict=True))
    ones = ([size], struct.pack("<e", 1.0) * size)
    wide, tall = ([NARROW, size], bytes(2 * size * NARROW)), ([size, NARROW], bytes(2 * size * NARROW))
    head = ([NARROW // HEADS], struct.pack("<e", 1.0) * (NARROW // HEADS))
    found = {
        "model.embed_tokens.weight": ([size, size], sparse(size, size, {(t, t): 1.0 for t in range(size)})),
        "model.norm.weight": ones,
        "lm_head.weight": ([size, size], sparse(size, size, {(n, t): 8.0 for t, n in after.items()})),
    }
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        found |= {prefix + f"self_attn.{name}_proj.weight": wide for name in "qkv"}
        found |= {prefix + f"self_attn.{name}_norm.weight": head for name in "qk"}
        found |= {prefix + "self_attn.o_proj.weight": tall, prefix + "mlp.down_proj.weight": tall}
        found |= {prefix + f"mlp.{name}_proj.weight": wide for name in ("gate", "up")}
        found |= {prefix + f"{name}_layernorm.weight": ones for name in ("input", "post_attention")}
    return found


def _tokenizer(tokens: list[str]) -> dict[str, Any]:
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": tokens.index(token), "content": token, **special} for token in (UNKNOWN, END)],
        "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "never", "split": True},
        "decoder": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "never", "split": True},
        "model": {"type": "WordLevel", "vocab": {t: index for index, t in enumerate(tokens)}, "unk_token": UNKNOWN},
    }


def _config(size: int, end: int) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        "hidden_size": size,
        "num_hidden_layers": LAYERS,
        "intermediate_size": NARROW,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": NARROW // HEADS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "vocab_size": size,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "eos_token_id": end,
        "torch_dtype": "float16",
    }


def files(sentence: str) -> dict[str, bytes]:
    """Return the files of a model that answers `sentence`, by name."""
    words = chain(sentence)
    tokens = [UNKNOWN, END, *words]
    tokens += [f"<pad{index}>" for index in range(-len(tokens) % 64)]
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    tables = {
        "config.json": _config(len(tokens), tokens.index(END)),
        "tokenizer.json": _tokenizer(tokens),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": UNKNOWN,
            "eos_token": END,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 4096,
            "chat_template": template,
        },
    }
    found = {name: json.dumps(table, indent=2).encode() + b"\n" for name, table in tables.items()}
    weights = _weights([tokens.index(word) for word in words], tokens.index(END), len(tokens))
    return found | {"model.safetensors": safetensors(weights)}


def write(folder: Path, sentence: str) -> Path:
    """Write the model into `folder`, made when it is missing; return it."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files(sentence).items():
        (folder / name).write_bytes(content)
    return folder
