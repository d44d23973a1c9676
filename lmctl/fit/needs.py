"""The bytes one server needs, from the shape of its weights and its settings."""

from __future__ import annotations

from lmctl.errors import escape
from lmctl.fit.llama import Effective, caches, cells, head_length, output_bytes
from lmctl.fit.numbers import STEP, Unknown, number, pad
from lmctl.record import record
from lmctl.spec import Format, Settings, Shape

DEFAULT_CTX = 8192  # tokens one request may use, where nothing is declared

# `model_type` of config.json for which MLX keeps a plain cache in every layer
_PLAIN = """
    llama mistral mixtral qwen2 qwen2_moe qwen3 qwen3_moe phi3 gemma gemma2 cohere granite olmo2 smollm3 starcoder2
    glm4 seed_oss
"""
MLX_PLAIN = frozenset(_PLAIN.split())


@record
class Need:
    """Bytes one server uses. Where `known` is False, `total` is the least it can be, and `note` says why.

    `weights` are the files' bytes: a mapped file may show up again while it is copied into another layout, but those
    pages can be reclaimed. `gpu` is the part of `total` on GPUs, None where that is left to the engine.
    """

    weights: int
    kv: int = 0
    state: int = 0
    output: int = 0
    prompt_cache: int = 0
    known: bool = True
    note: str = ""
    gpu: int | None = None

    @property
    def total(self) -> int:
        return self.weights + self.kv + self.state + self.output + self.prompt_cache


def request_context(settings: Settings, shape: Shape) -> int:
    """Return the tokens one request may use: as declared, else 8192 or what the model was trained on, if less."""
    if settings.ctx is not None:
        return settings.ctx
    trained = shape.get("context_length")
    return min(DEFAULT_CTX, trained) if isinstance(trained, int) and trained > 0 else DEFAULT_CTX


def effective(settings: Settings, shape: Shape) -> Effective:
    """Return what the engine makes of `settings`: slots are always given, so that they never share one cache."""
    context = request_context(settings, shape) * settings.parallel
    return Effective(
        ctx_seq=cells(context, settings.parallel, unified=False),
        slots=settings.parallel,
        ubatch=min(context, settings.batch, settings.ubatch),
        type_k=settings.cache_type_k,
        type_v=settings.cache_type_v,
        flash_attn=settings.flash_attn is not False,
        embeddings=settings.embeddings or settings.rerank,
    )


def need(shape: Shape, format: Format, weights_bytes: int, settings: Settings) -> Need:
    """Return what a server needs. `format` is what the backend reads, "gguf" or "mlx"; `weights_bytes` all its files.

    An architecture that is not in the table is not guessed: its weights alone are counted, and `known` is False.
    """
    try:
        if format == "gguf":
            return _llama_need(shape, weights_bytes, settings)
        if format == "mlx":
            return _mlx_need(shape, weights_bytes, settings)
        raise Unknown(f"no memory formula for {format} files")
    except Unknown as unknown:
        return Need(
            weights_bytes, prompt_cache=settings.cache_ram, known=False, note=f"{unknown}: at least its weights"
        )


def _llama_need(shape: Shape, weights_bytes: int, settings: Settings) -> Need:
    run = effective(settings, shape)
    layers = caches(shape, run)
    blocks, offloaded = number(shape, "block_count"), settings.gpu_layers
    gpu = None
    if offloaded is not None:
        on_gpu = blocks + 1 if offloaded < 0 else min(offloaded, blocks + 1)  # the last one is the output
        first = blocks + 1 - on_gpu
        # layers are of about one size; which tensors a layer has is not in the shape
        gpu = weights_bytes * on_gpu // (blocks + 1) + sum(kv + state for kv, state in layers[first:])
    return Need(
        weights_bytes,
        kv=sum(kv for kv, _ in layers),
        state=sum(state for _, state in layers),
        output=output_bytes(shape, run),
        prompt_cache=settings.cache_ram,
        gpu=gpu,
    )


def _mlx_need(shape: Shape, weights_bytes: int, settings: Settings) -> Need:
    """MLX takes keys and values in steps of 256 tokens, and has no limit of its own: the gateway keeps it at `ctx`."""
    architecture = shape.get("architecture")
    if architecture not in MLX_PLAIN or "attention.sliding_window_pattern" in shape:
        raise Unknown(f"no memory formula for {escape(str(architecture), 40)} in MLX")
    width = number(shape, "attention.head_count_kv", "attention.head_count") * head_length(
        shape, "attention.key_length"
    )
    element = 4 if shape.get("dtype") == "float32" else 2
    tokens = pad(request_context(settings, shape), STEP) * settings.parallel
    kv = number(shape, "block_count") * 2 * width * element * tokens
    note = "MLX has no limit of context; assumed is that no request exceeds ctx"
    return Need(weights_bytes, kv=kv, prompt_cache=settings.cache_ram, note=note)
