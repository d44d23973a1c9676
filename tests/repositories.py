"""Small repositories and local files that lock: real headers, a few bytes of weights."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from weights.hello import header, hello
from weights.mlx import safetensors

from lmctl.spec import Wanted

REPO = "owner/Hello-GGUF"
HELLO = hello("Hello from lmctl")
OTHER = hello("Another one")
TENSORS = safetensors({"w": ([2, 2], bytes(8))})
CONFIG = {"model_type": "qwen3", "num_hidden_layers": 2, "vocab_size": 300, "max_position_embeddings": 4096}
TREE = {
    "config.json": json.dumps(CONFIG).encode(),
    "model.safetensors": TENSORS,
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ messages }}",
    "README.md": b"# A model",
    "modeling.py": b"print()",
}


def shard(number: int, total: int) -> bytes:
    """Return one shard of a split with one tensor each, as gguf-split writes them."""
    metadata = {"split.no": number, "split.count": total, "split.tensors.count": total}
    metadata |= {"general.architecture": "llama", "llama.block_count": 1} if number == 0 else {}
    return header(metadata, [(f"t{number}", (4,), 0, 16)]) + bytes(32)


def shards(stem: str, total: int) -> dict[str, bytes]:
    return {f"{stem}-{n + 1:05}-of-{total:05}.gguf": shard(n, total) for n in range(total)}


def gguf(selection: str = "Q4_K_M", repo: str = REPO, revision: str = "main") -> Wanted:
    return Wanted(f"{repo}@{revision}:{selection}", repo, revision, selection, "gguf")


def mlx(repo: str = "owner/Hello-MLX") -> Wanted:
    return Wanted(f"{repo}@main:mlx", repo, "main", "mlx", "mlx")


def local(path: Path, folder: Path) -> Wanted:
    return Wanted(f"path={os.path.relpath(path, folder)}", None, None, "", "local", "weights", path)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
