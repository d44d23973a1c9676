"""Write a tiny GGUF that llama.cpp loads and that answers every chat with one fixed sentence.

    python tests/weights/hello.py FILE "A sentence of words that all differ."

The network is a table of successors: embeddings are one-hot, attention and feed-forward weights are zero, and the
output matrix gives each word of the sentence its next one; any other token is followed by the first word. The same
sentence always gives the same bytes.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
F32, F16 = 0, 1
UNK, BOS, EOS = 0, 1, 2
ALIGNMENT = 32
NARROW = 32  # width of the only attention head and of the feed-forward part

Scalar = str | bool | int | float
Value = Scalar | list[Scalar]


def text(value: str) -> bytes:
    """Return a string as GGUF stores it: its length, then its bytes."""
    return struct.pack("<Q", len(value.encode())) + value.encode()


def encoded(value: Value) -> bytes:
    """Return a metadata value with its type in front: integers are uint32, in lists int32, as llama.cpp expects."""
    many = isinstance(value, list)
    first, items = (value[0], value) if many else (value, [value])
    kinds = {str: (STRING, ""), bool: (BOOL, "?"), float: (FLOAT32, "f"), int: (INT32, "i") if many else (UINT32, "I")}
    kind, letter = kinds[type(first)]
    raw = b"".join(map(text, items)) if kind == STRING else struct.pack(f"<{len(items)}{letter}", *items)
    return (struct.pack("<IIQ", ARRAY, kind, len(items)) if many else struct.pack("<I", kind)) + raw


def header(metadata: Mapping[str, Value], tensors: Sequence[tuple[str, Sequence[int], int, int]]) -> bytes:
    """Return a GGUF header; tensors are (name, dims fastest first, type, bytes) and follow each other in the data."""
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    parts += [text(key) + encoded(value) for key, value in metadata.items()]
    offset = 0
    for name, dims, kind, size in tensors:
        parts.append(text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset))
        offset += size + -size % ALIGNMENT
    raw = b"".join(parts)
    return raw + bytes(-len(raw) % ALIGNMENT)


def chain(sentence: str) -> list[str]:
    """Return the sentence's tokens, a word with the space before it each; they must differ to have one successor."""
    words = [("\u2581" if index else "") + word for index, word in enumerate(sentence.split())]
    if len(set(words)) != len(words) or not words:
        raise SystemExit("every word of the sentence must be different")
    return words


def sparse(rows: int, width: int, cells: Mapping[tuple[int, int], float]) -> bytes:
    """Return an f16 matrix that is zero but for `cells`."""
    matrix = bytearray(2 * rows * width)
    for (row, column), value in cells.items():
        struct.pack_into("<e", matrix, 2 * (row * width + column), value)
    return bytes(matrix)


def hello(sentence: str, context_length: int = 4096) -> bytes:
    """Return the bytes of a model that answers `sentence`."""
    words = chain(sentence)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581"]
    tokens += [word for word in words if word not in tokens]
    size = len(tokens) + -len(tokens) % 32  # embedding width: one-hot needs at least the vocabulary
    data = _tensors([tokens.index(word) for word in words], len(tokens), size)
    infos = [(name, dims, kind, len(raw)) for name, dims, kind, raw in data]
    metadata = _metadata(tokens, size, context_length)
    return header(metadata, infos) + b"".join(raw + bytes(-len(raw) % ALIGNMENT) for *_, raw in data)


def _tensors(ids: list[int], vocabulary: int, size: int) -> list[tuple[str, tuple[int, ...], int, bytes]]:
    after = dict.fromkeys(range(size), ids[0]) | dict(zip(ids, [*ids[1:], EOS], strict=True))
    embedding = sparse(vocabulary, size, {(token, token): 1.0 for token in range(vocabulary)})
    output = sparse(vocabulary, size, {(successor, token): 8.0 for token, successor in after.items()})
    ones, zeros = struct.pack("<f", 1.0) * size, bytes(2 * size * NARROW)
    wide, tall = (size, NARROW), (NARROW, size)
    return [
        ("token_embd.weight", (size, vocabulary), F16, embedding),
        ("output_norm.weight", (size,), F32, ones),
        ("output.weight", (size, vocabulary), F16, output),
        ("blk.0.attn_norm.weight", (size,), F32, ones),
        ("blk.0.attn_q.weight", wide, F16, zeros),
        ("blk.0.attn_k.weight", wide, F16, zeros),
        ("blk.0.attn_v.weight", wide, F16, zeros),
        ("blk.0.attn_output.weight", tall, F16, zeros),
        ("blk.0.ffn_norm.weight", (size,), F32, ones),
        ("blk.0.ffn_gate.weight", wide, F16, zeros),
        ("blk.0.ffn_up.weight", wide, F16, zeros),
        ("blk.0.ffn_down.weight", tall, F16, zeros),
    ]


def _metadata(tokens: list[str], size: int, context_length: int) -> dict[str, Value]:
    return {
        "general.architecture": "llama",
        "general.name": "hello",
        "general.file_type": 1,
        "llama.context_length": context_length,
        "llama.embedding_length": size,
        "llama.block_count": 1,
        "llama.feed_forward_length": NARROW,
        "llama.attention.head_count": 1,
        "llama.attention.head_count_kv": 1,
        "llama.attention.key_length": NARROW,
        "llama.attention.value_length": NARROW,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.dimension_count": NARROW,
        "llama.vocab_size": len(tokens),
        **vocabulary(tokens),
    }


def vocabulary(tokens: list[str]) -> dict[str, Value]:
    """Return the tokenizer's metadata; the first tokens are unknown, two controls and 256 bytes."""
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": list(tokens),
        "tokenizer.ggml.scores": [-float(index) for index in range(len(tokens))],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * (len(tokens) - 259)],
        "tokenizer.ggml.bos_token_id": BOS,
        "tokenizer.ggml.eos_token_id": EOS,
        "tokenizer.ggml.unknown_token_id": UNK,
        "tokenizer.chat_template": "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:",
    }


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(hello(sys.argv[2]))
