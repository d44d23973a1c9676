"""What the llama.cpp server keeps in memory beside weights: caches, recurrent states and logits.

The arithmetic is the server's own (2026), checked against its log; compute buffers are not part of it.
"""

from __future__ import annotations

from collections.abc import Callable

from lmctl.errors import escape
from lmctl.fit.numbers import STEP, Unknown, number, pad
from lmctl.record import record
from lmctl.spec import Shape

MAX_LAYERS = 4096  # a header that claims more is not believed

# elements and bytes of one block
CACHE_TYPES = {
    "f32": (1, 4), "f16": (1, 2), "bf16": (1, 2), "q8_0": (32, 34), "q5_1": (32, 24), "q5_0": (32, 22),
    "q4_1": (32, 20), "q4_0": (32, 18), "iq4_nl": (32, 18),
}  # fmt: skip


@record
class Effective:
    """What the engine makes of its settings, in tokens. `ctx_seq` is what one of its `streams` caches holds."""

    ctx_seq: int
    slots: int
    unified: bool = False
    ubatch: int = 512
    type_k: str = "f16"
    type_v: str = "f16"
    flash_attn: bool = True
    swa_full: bool = False
    embeddings: bool = False

    @property
    def streams(self) -> int:
        return 1 if self.unified else self.slots


def cells(context: int, slots: int, unified: bool) -> int:
    """Return the tokens one cache holds when the server is started with `context` in all."""
    context = pad(context, STEP)
    return context if unified else pad(context // slots, STEP)


def output_bytes(shape: Shape, run: Effective) -> int:
    """Return the bytes of the logits of one token per slot, with its embedding where those are served."""
    embedding = number(shape, "embedding_length") if run.embeddings else 0
    return (number(shape, "vocab_size") + embedding) * 4 * run.slots


def caches(shape: Shape, run: Effective) -> tuple[tuple[int, int], ...]:
    """Return the bytes of every layer's KV cache and recurrent state. Raises for architectures that are not known."""
    architecture = str(shape.get("architecture"))
    if architecture not in _LAYERS:
        raise Unknown(f"no memory formula for architecture {escape(architecture, 40)}")
    count = number(shape, "block_count") - number(shape, "nextn_predict_layers", default=0)
    if not 0 < count <= MAX_LAYERS:
        raise Unknown(f"the header claims {count} layers")
    kinds = [_LAYERS[architecture](shape, layer) for layer in range(count)]
    attending = [layer for layer, (attends, _) in enumerate(kinds) if attends]
    widest = 0 if run.flash_attn else max((_value_width(shape, layer) for layer in attending), default=0)
    kv = dict.fromkeys(range(count), 0) | {layer: _kv(shape, run, layer, widest) for layer in attending}
    state = _state(shape, run) if any(recurrent for _, recurrent in kinds) else 0
    return tuple((kv[layer], state if recurrent else 0) for layer, (_, recurrent) in enumerate(kinds))


def _kv(shape: Shape, run: Effective, layer: int, widest: int) -> int:
    """`widest`: elements every row of V takes without flash attention, 0 with it."""
    rows = run.ctx_seq
    window = _window(shape, layer)
    if window and not run.swa_full:
        rows = pad(min(rows, window * (run.slots if run.unified else 1) + run.ubatch), STEP)
    rows *= run.streams
    if "attention.key_length_mla" in shape:  # one compressed row for all heads, from which V is read too
        return _row(run.type_k, number(shape, "attention.key_length")) * rows
    heads = number(shape, "attention.head_count_kv", "attention.head_count", layer=layer)
    key = heads * head_length(shape, "attention.key_length", layer)
    return (_row(run.type_k, key) + _row(run.type_v, widest or _value_width(shape, layer))) * rows


def _value_width(shape: Shape, layer: int) -> int:
    heads = number(shape, "attention.head_count_kv", "attention.head_count", layer=layer)
    return heads * head_length(shape, "attention.value_length", layer)


def head_length(shape: Shape, key: str, layer: int = 0) -> int:
    """Return the elements of one head; window layers may have a length of their own."""
    if key + "_swa" in shape and _window(shape, layer):
        return number(shape, key + "_swa")
    if key in shape:
        return number(shape, key)
    heads = number(shape, "attention.head_count", layer=layer)
    if not heads:
        raise Unknown("the header gives no attention.head_count")
    return number(shape, "embedding_length") // heads


def _row(type: str, elements: int) -> int:
    if type not in CACHE_TYPES:
        raise Unknown(f"no size is known for cache type {escape(type, 40)}")
    block, block_bytes = CACHE_TYPES[type]
    return pad(elements, block) // block * block_bytes


# architecture: (every how many layers one has full attention, window where the header gives none)
_WINDOWS = {"gemma2": (2, 4096), "gemma3": (6, 0), "gpt-oss": (2, 0), "llama4": (4, 8192)}


def _window(shape: Shape, layer: int) -> int:
    """Return the tokens a layer looks back on, 0 for all. Other architectures' windows are ignored by the engine."""
    architecture = str(shape.get("architecture"))
    if architecture not in _WINDOWS:
        return 0
    period, usual = _WINDOWS[architecture]
    window = number(shape, "attention.sliding_window", default=usual)
    pattern = shape.get("attention.sliding_window_pattern", period)
    if isinstance(pattern, list):
        inside = bool(pattern[layer]) if layer < len(pattern) else False
    else:
        period = number(shape, "attention.sliding_window_pattern", default=period)
        inside = period == 0 or layer % period < period - 1
    if not inside or not window:
        return 0
    return 8192 if architecture == "llama4" else window  # which takes 8192 whatever the header says


def _state(shape: Shape, run: Effective) -> int:
    """Return the bytes of one recurrent layer, f32, one row per slot however long the context."""
    if shape.get("architecture") == "lfm2":
        kept = number(shape, "shortconv.l_cache") - 1
        return kept * number(shape, "embedding_length") * 4 * run.slots
    inner, size = number(shape, "ssm.inner_size"), number(shape, "ssm.state_size")
    channels = inner + 2 * number(shape, "ssm.group_count", default=0) * size
    return ((number(shape, "ssm.conv_kernel") - 1) * channels + size * inner) * 4 * run.slots


def _has_heads(shape: Shape, layer: int) -> bool:
    return number(shape, "attention.head_count_kv", "attention.head_count", layer=layer) > 0


def _by_heads(shape: Shape, layer: int) -> tuple[bool, bool]:
    heads = _has_heads(shape, layer)
    return heads, not heads


def _nemotron(shape: Shape, layer: int) -> tuple[bool, bool]:
    mixer = number(shape, "feed_forward_length", layer=layer) == 0
    heads = _has_heads(shape, layer)
    return mixer and heads, mixer and not heads


def _by_interval(shape: Shape, layer: int) -> tuple[bool, bool]:
    full = (layer + 1) % max(number(shape, "full_attention_interval", default=4), 1) == 0
    return full, not full


# architecture: whether a layer has a KV cache, and whether it has a recurrent state
_LAYERS: dict[str, Callable[[Shape, int], tuple[bool, bool]]] = {
    **dict.fromkeys(("llama", "mistral3", "qwen2", "qwen3", "qwen3moe", "phi3"), lambda shape, layer: (True, False)),
    **dict.fromkeys((*_WINDOWS, "deepseek2"), lambda shape, layer: (True, False)),
    **dict.fromkeys(("mamba", "mamba2"), lambda shape, layer: (False, True)),
    **dict.fromkeys(("bert", "nomic-bert"), lambda shape, layer: (False, False)),
    **dict.fromkeys(("lfm2", "jamba", "granitehybrid"), _by_heads),
    **dict.fromkeys(("qwen3next", "qwen35"), _by_interval),
    "falcon-h1": lambda shape, layer: (True, True),
    "nemotron_h": _nemotron,
}
