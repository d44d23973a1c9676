"""Bounded reader of safetensors headers, and what a folder of them may hold before an engine opens it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from itertools import pairwise

from lmctl.errors import LmctlError, Place, Problem, escape
from lmctl.record import record
from lmctl.source import PICKLES, Malformed, Source, mistaken, sniff
from lmctl.spec import Json, Shape

MAX_HEADER = 8 << 20  # bytes of JSON; a shard with 18,000 tensors has 2 MiB
MAX_CONFIG = 4 << 20  # bytes of config.json and the like
MAX_DIMS, MAX_LAYERS = 16, 512

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip

# Names of pickled weights. Others that training leaves behind (training_args.bin) are opened by no engine.
_PICKLED = ("pytorch_model*.bin", "adapter_model.bin", "*.pt", "*.pth", "*.pkl", "*.pickle", "*.ckpt")

# config.json's name: the shape's. The left-most that is there counts.
_CONFIG = {
    "num_hidden_layers": "block_count", "n_layers": "block_count", "n_layer": "block_count",
    "num_attention_heads": "attention.head_count", "n_head": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv", "head_dim": "attention.key_length",
    "v_head_dim": "attention.value_length", "kv_lora_rank": "attention.kv_lora_rank",
    "q_lora_rank": "attention.q_lora_rank", "hidden_size": "embedding_length", "n_embd": "embedding_length",
    "intermediate_size": "feed_forward_length", "max_position_embeddings": "context_length",
    "n_positions": "context_length", "vocab_size": "vocab_size", "num_experts": "expert_count",
    "num_local_experts": "expert_count", "n_routed_experts": "expert_count", "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length", "full_attention_interval": "full_attention_interval",
}  # fmt: skip


@record
class Tensor:
    """`begin` and `end` count bytes from the start of the data, which follows the header."""

    name: str
    dtype: str
    dims: tuple[int, ...]
    begin: int
    end: int


def read_header(source: Source, name: str) -> tuple[Tensor, ...]:
    """Read and check the header of the file called `name` (for messages), in the order of the data; no data is read.

    Raises E-PICKLE for a pickle or a zip of pickles, E-SAFETENSORS for all else that is not whole and consistent.
    """
    try:
        return _read(source, name)
    except Malformed as bad:
        raise LmctlError("E-SAFETENSORS", str(bad), fix=bad.fix, place=Place(name)) from None


def _read(source: Source, name: str) -> tuple[Tensor, ...]:
    first = source.read(0, 512)
    length = int.from_bytes(first[:8], "little")
    if first[8:9] != b"{":
        if sniff(first) in PICKLES:
            what = f"it is {sniff(first)}, which can run code when it is loaded"
            raise LmctlError("E-PICKLE", what, fix="choose a repository with safetensors", place=Place(name))
        raise mistaken(first, "safetensors")
    if length > MAX_HEADER or (source.size is not None and length > source.size - 8):
        room = MAX_HEADER if source.size is None else min(MAX_HEADER, source.size - 8)
        raise Malformed(f"the header claims {length} bytes, there can be {room}")
    raw = source.read(8, length)
    if len(raw) < length:
        raise Malformed(f"the file ends inside its header, at byte {8 + len(raw)}")
    entries = _json(raw, "the header")
    tensors = [_tensor(name, entry) for name, entry in entries.items() if name != "__metadata__"]
    tensors.sort(key=lambda tensor: (tensor.begin, tensor.end))
    for left, right in pairwise(tensors):
        if left.end > right.begin:
            raise Malformed(f"tensors {escape(left.name, 80)} and {escape(right.name, 80)} overlap")
    end = 8 + length + max((tensor.end for tensor in tensors), default=0)
    if source.size is not None and end > source.size:
        raise Malformed(f"its tensors end at byte {end}, the file has {source.size}")
    return tuple(tensors)


def _tensor(name: str, entry: Json) -> Tensor:
    shown = escape(name, 80)
    if not isinstance(entry, dict):
        raise Malformed(f"tensor {shown} is not described by a table")
    dtype, dims, span = entry.get("dtype"), _naturals(entry.get("shape")), _naturals(entry.get("data_offsets"))
    if not isinstance(dtype, str) or dims is None or len(dims) > MAX_DIMS or span is None or len(span) != 2:
        raise Malformed(f"tensor {shown} lacks a good dtype, shape or data_offsets")
    begin, end = span
    bits = _BITS.get(dtype)
    if begin > end or (bits is not None and (end - begin) * 8 != math.prod(dims) * bits):
        raise Malformed(f"tensor {shown} has {end - begin} bytes, which do not fit its shape")
    return Tensor(name, dtype, dims, begin, end)


def _naturals(value: Json) -> tuple[int, ...] | None:
    if not isinstance(value, list):
        return None
    found = tuple(item for item in value if type(item) is int and 0 <= item < 1 << 63)
    return found if len(found) == len(value) else None


def _json(raw: bytes, what: str) -> dict[str, Json]:
    """Parse one JSON table; whatever a parser can raise on hostile bytes becomes Malformed."""

    def pairs(items: list[tuple[str, Json]]) -> dict[str, Json]:
        table = dict(items)
        if len(table) < len(items):
            raise Malformed(f"{what} has a key twice")
        return table

    try:
        value = json.loads(raw.decode("utf-8-sig"), object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise Malformed(f"{what} is not JSON: {escape(str(error), 120)}") from None
    if not isinstance(value, dict):
        raise Malformed(f"{what} is not a JSON table")
    return value


def read_config(raw: bytes, name: str) -> dict[str, Json]:
    """Parse config.json, tokenizer_config.json or an index of shards; raises E-SAFETENSORS."""
    try:
        if len(raw) > MAX_CONFIG:
            raise Malformed(f"it is larger than {MAX_CONFIG} bytes")
        return _json(raw, "it")
    except Malformed as bad:
        raise LmctlError("E-SAFETENSORS", str(bad), fix=bad.fix, place=Place(name)) from None


def check_folder(
    names: Collection[str], configs: Mapping[str, Mapping[str, Json]], *, remote_code: bool = False
) -> None:
    """Refuse a folder of weights that an engine must not open; `names` are its files, as the engine will see them.

    `configs` maps config.json, tokenizer_config.json and model.safetensors.index.json, where they exist, to their
    contents. Raises, all at once, E-PICKLE; E-REMOTECODE unless this machine allows `remote_code`; E-SHARD for shards
    that the index names and that are missing; E-SAFETENSORS when there is nothing to load.
    """
    problems: list[Problem] = []
    pickles = sorted(name for name in names if any(fnmatchcase(name.lower(), pattern) for pattern in _PICKLED))
    if pickles:
        what = f"{_some(pickles)}: a pickle, which can run code when it is loaded"
        problems.append(Problem("E-PICKLE", what, "choose a repository with safetensors alone"))
    code = [] if remote_code else _code(names, configs)
    if code:
        fix = 'choose another model, or allow "remote_code" in machine.toml'
        problems.append(Problem("E-REMOTECODE", f"{_some(code)}: code that comes with the weights", fix))
    index = configs.get("model.safetensors.index.json", {}).get("weight_map", {})
    shards = {str(shard) for shard in index.values()} if isinstance(index, dict) else set()
    if missing := sorted(shards - set(names)):
        problems.append(Problem("E-SHARD", f"missing shards: {_some(missing)}", "fetch the repository again"))
    if "config.json" not in names or not any(fnmatchcase(name, "model*.safetensors") for name in names):
        what = "no config.json with model*.safetensors beside it"
        problems.append(Problem("E-SAFETENSORS", what, "name a folder or repository of MLX weights"))
    if problems:
        raise LmctlError.of(problems)


def _code(names: Collection[str], configs: Mapping[str, Mapping[str, Json]]) -> list[str]:
    """Return what would make an engine run code from the folder."""
    found = sorted(name for name in names if name.lower().endswith(".py"))
    for name, config in configs.items():
        found += [f"{key} in {name}" for key in ("auto_map", "model_file") if config.get(key)]
    return found


def _some(names: list[str]) -> str:
    shown = ", ".join(escape(name, 80) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def shape_from_config(config: Mapping[str, Json]) -> Shape:
    """Return what estimates need of config.json, in the words of GGUF headers (gguf.SHAPE_KEYS).

    Beside those: `architecture` is `model_type`, `dtype` that of the weights before any quantization, and
    `attention.sliding_window_pattern` (true: a window) is there only when a layer has one. Models that see keep the
    numbers of their language model under `text_config`; those count.
    """
    text = config.get("text_config")
    known: Mapping[str, Json] = {**config, **text} if isinstance(text, dict) else config
    found: dict[str, Json] = {}
    if isinstance(architecture := known.get("model_type"), str) and re.fullmatch(r"[\w.-]{1,64}", architecture):
        found["architecture"] = architecture
    for theirs, ours in _CONFIG.items():
        value = known.get(theirs)
        numbers = _naturals(value if isinstance(value, list) else [value])
        if ours not in found and numbers is not None and len(numbers) <= MAX_LAYERS:
            found[ours] = value
    dtype = known.get("dtype", known.get("torch_dtype"))
    if dtype in ("float32", "float16", "bfloat16"):
        found["dtype"] = dtype
    layers = known.get("layer_types")
    if isinstance(layers, list) and "sliding_attention" in layers:
        found["attention.sliding_window_pattern"] = [layer == "sliding_attention" for layer in layers[:MAX_LAYERS]]
        if _naturals([known.get("sliding_window")]):
            found["attention.sliding_window"] = known["sliding_window"]
    return found
