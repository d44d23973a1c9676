"""A lock with an artifact of each kind, and its text as it is documented."""

from __future__ import annotations

from lmctl.spec import Artifact, Lock, LockedFile

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REASON = "bartowski/DeepSeek-R1-Distill-Qwen-32B-GGUF@main:Q4_K_M"
SHAPE = {"architecture": "qwen2", "context_length": 131072, "block_count": 64, "attention.head_count_kv": 8}
WEIGHTS = LockedFile("DeepSeek-R1-Distill-Qwen-32B-Q4_K_M.gguf", "weights", 19851335840, "a" * 64)
CONFIG = LockedFile("config.json", "config", 900, "c" * 64, "d" * 40)
HELLO = Artifact("path=weights/hello.gguf", "local", None, {}, (LockedFile("hello.gguf", "weights", 9, "e" * 64),))
CODE = Artifact(
    "mlx-community/Code-4bit@main:mlx",
    "mlx",
    COMMIT,
    {"architecture": "qwen3", "layers": [1, 2.5, True], "tied": False},
    (LockedFile("model.safetensors", "weights", 10, "b" * 64), CONFIG),
)
LOCK = Lock({a.id: a for a in (HELLO, Artifact(REASON, "gguf", COMMIT, SHAPE, (WEIGHTS,)), CODE)})
TEXT = f"""\
# Written by `lmctl lock`. Do not edit.
version = 1

[[artifact]]
id       = "{REASON}"
format   = "gguf"
commit   = "{COMMIT}"
shape    = {{ architecture = "qwen2", block_count = 64, context_length = 131072, "attention.head_count_kv" = 8 }}
[[artifact.file]]
path     = "DeepSeek-R1-Distill-Qwen-32B-Q4_K_M.gguf"
role     = "weights"
size     = 19851335840
sha256   = "{"a" * 64}"

[[artifact]]
id       = "mlx-community/Code-4bit@main:mlx"
format   = "mlx"
commit   = "{COMMIT}"
shape    = {{ architecture = "qwen3", layers = [1, 2.5, true], tied = false }}
[[artifact.file]]
path     = "model.safetensors"
role     = "weights"
size     = 10
sha256   = "{"b" * 64}"
[[artifact.file]]
path     = "config.json"
role     = "config"
size     = 900
sha256   = "{"c" * 64}"
blob     = "{"d" * 40}"

[[artifact]]
id       = "path=weights/hello.gguf"
format   = "local"
[[artifact.file]]
path     = "hello.gguf"
role     = "weights"
size     = 9
sha256   = "{"e" * 64}"
"""
