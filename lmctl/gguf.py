"""Bounded reader of GGUF headers: what a file says about itself, checked before any engine opens it."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise

from lmctl.errors import LmctlError, Place, escape
from lmctl.record import record
from lmctl.source import Cursor, Malformed, Source, mistaken
from lmctl.spec import Json, Shape

# Bounds. The largest headers in use have about 60 keys and 2,000 tensors.
MAX_KEYS, MAX_TENSORS = 1024, 8192
MAX_KEY, MAX_NAME, MAX_DIMS, MAX_ALIGNMENT = 512, 64, 4, 1 << 16
MAX_TEXT, MAX_ARRAY = 4096, 512  # longer strings (bytes) and arrays (elements) are counted, not kept

UINT32, BOOL, STRING, ARRAY = 4, 7, 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", UINT32: "I", 5: "i", 6: "f", BOOL: "B", 10: "Q", 11: "q", 12: "d"}

# id: (name, elements of one block, bytes of one block), as ggml stores them; missing ids were withdrawn
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip

# What a shape keeps, the architecture's prefix stripped: all that a memory estimate or a context limit can ask for.
_NAMES = """
    block_count context_length embedding_length feed_forward_length leading_dense_block_count nextn_predict_layers
    interleave_moe_layer_step full_attention_interval pooling_type vocab_size
    attention.head_count attention.head_count_kv attention.key_length attention.value_length attention.causal
    attention.key_length_swa attention.value_length_swa attention.key_length_mla attention.value_length_mla
    attention.q_lora_rank attention.kv_lora_rank attention.sliding_window attention.sliding_window_pattern
    attention.shared_kv_layers rope.dimension_count expert_count expert_used_count expert_shared_count
    expert_feed_forward_length expert_shared_feed_forward_length shortconv.l_cache
    ssm.conv_kernel ssm.inner_size ssm.state_size ssm.group_count ssm.time_step_rank
"""
SHAPE_KEYS = frozenset(_NAMES.split())


@record
class Counted:
    """A value that was not kept: an array of strings or over MAX_ARRAY elements, or a string over MAX_TEXT bytes."""

    count: int


Number = int | float | bool
Value = Number | str | tuple[Number, ...] | Counted


@record
class Tensor:
    """`dims` in ggml's order, fastest first; `offset` counts from `data_offset`; `size` in bytes without padding."""

    name: str
    dims: tuple[int, ...]
    type: str
    offset: int
    size: int


@record
class Header:
    """A whole header; the tensors' data begins at byte `data_offset`. `vocab_size` is None without a vocabulary."""

    version: int
    metadata: Mapping[str, Value]
    tensors: tuple[Tensor, ...]
    alignment: int
    data_offset: int
    vocab_size: int | None


def read_header(source: Source, name: str) -> Header:
    """Read and check the header of the file called `name` (for messages). Never reads tensor data.

    Raises E-GGUF for anything an engine would stumble over: another format, another version, sizes that do not
    fit the file, duplicates, tensors that overlap, are not aligned or, where the size is known, end past it.
    """
    try:
        return _read(source)
    except Malformed as bad:
        raise LmctlError("E-GGUF", str(bad), fix=bad.fix, place=Place(name)) from None


def _read(source: Source) -> Header:
    cursor = Cursor(source)
    version = _version(cursor)
    tensor_count, key_count = cursor.number("Q"), cursor.number("Q")
    for what, count, limit in (("tensors", tensor_count, MAX_TENSORS), ("keys", key_count, MAX_KEYS)):
        if count > limit:
            raise Malformed(f"the header claims {count} {what}, more than {limit}")
    metadata: dict[str, Value] = {}
    for _ in range(key_count):
        key = _text(cursor, MAX_KEY, "a key")
        if key in metadata:
            raise Malformed(f"duplicate key {escape(key, 80)}")
        metadata[key] = _value(cursor, key, cursor.number("I"))
    alignment = _alignment(metadata.get("general.alignment", 32))
    tensors = tuple(_tensor(cursor) for _ in range(tensor_count))
    data_offset = cursor.at + -cursor.at % alignment
    _check_tensors(tensors, alignment, None if source.size is None else source.size - data_offset)
    tokens = metadata.get("tokenizer.ggml.tokens")
    vocab_size = tokens.count if isinstance(tokens, Counted) else None
    return Header(version, metadata, tensors, alignment, data_offset, vocab_size)


def _version(cursor: Cursor) -> int:
    first = cursor.first(512)
    if first[:4] != b"GGUF" or len(first) < 8:
        raise mistaken(first, "GGUF")
    version = int.from_bytes(first[4:8], "little")
    if version and not version & 0xFFFF:
        raise Malformed("big-endian GGUF, which no engine here reads", "choose a little-endian file")
    if version not in (2, 3):
        raise Malformed(f"GGUF version {version}, expected 2 or 3", "convert it again with a current llama.cpp")
    cursor.skip(8)
    return version


def _text(cursor: Cursor, limit: int, what: str) -> str:
    length = cursor.number("Q")
    if not 0 < length <= limit:
        raise Malformed(f"{what} is {length} bytes long, expected 1 to {limit}")
    return cursor.take(length).decode("utf-8", "backslashreplace")


def _value(cursor: Cursor, key: str, kind: int) -> Value:
    if key == "general.alignment" and kind != UINT32:
        raise Malformed(f"general.alignment has value type {kind}, expected {UINT32}")
    if kind == STRING:
        length = cursor.number("Q")
        if length > MAX_TEXT:
            cursor.skip(length)
            return Counted(length)
        return cursor.take(length).decode("utf-8", "backslashreplace")
    if kind == ARRAY:
        return _array(cursor, key)
    return _numbers(cursor, key, kind, 1)[0]


def _array(cursor: Cursor, key: str) -> Value:
    kind, count = cursor.number("I"), cursor.number("Q")
    if kind == STRING:
        cursor.skip_strings(count)
        return Counted(count)
    if count > MAX_ARRAY and kind in _SCALARS:
        cursor.skip(count * struct.calcsize(_SCALARS[kind]))
        return Counted(count)
    return _numbers(cursor, key, kind, min(count, MAX_ARRAY))


def _numbers(cursor: Cursor, key: str, kind: int, count: int) -> tuple[Number, ...]:
    if kind not in _SCALARS:
        raise Malformed(f"{escape(key, 80)} has the unknown value type {kind}")
    layout = f"<{count}{_SCALARS[kind]}"
    values: tuple[Number, ...] = struct.unpack(layout, cursor.take(struct.calcsize(layout)))
    if kind != BOOL:
        return values
    if any(value > 1 for value in values):
        raise Malformed(f"{escape(key, 80)} holds the boolean {max(values)}, expected 0 or 1")
    return tuple(bool(value) for value in values)


def _alignment(value: Value) -> int:
    if not isinstance(value, int) or not 0 < value <= MAX_ALIGNMENT or value & (value - 1):
        raise Malformed(f"general.alignment is {value}, expected a power of two of at most {MAX_ALIGNMENT}")
    return value


def _tensor(cursor: Cursor) -> Tensor:
    name = _text(cursor, MAX_NAME, "a tensor's name")
    shown = escape(name, 80)
    dim_count = cursor.number("I")
    if dim_count > MAX_DIMS:
        raise Malformed(f"tensor {shown} has {dim_count} dimensions, more than {MAX_DIMS}")
    dims: tuple[int, ...] = struct.unpack(f"<{dim_count}Q", cursor.take(8 * dim_count))
    kind, offset = cursor.number("I"), cursor.number("Q")
    if kind not in TYPES:
        raise Malformed(f"tensor {shown} has the unknown type {kind}", "choose another quant, or upgrade lmctl")
    type_name, block, block_bytes = TYPES[kind]
    elements = math.prod(dims)
    if elements >= 1 << 63 or max(dims, default=0) >= 1 << 63:
        raise Malformed(f"tensor {shown} claims {elements} elements")
    if dims and dims[0] % block:
        raise Malformed(f"tensor {shown} has rows of {dims[0]}, which blocks of {block} ({type_name}) do not fill")
    return Tensor(name, dims, type_name, offset, elements // block * block_bytes)


def _check_tensors(tensors: Sequence[Tensor], alignment: int, room: int | None) -> None:
    """`room`: bytes of the file after the header, None where its size is not known."""
    seen: set[str] = set()
    for tensor in tensors:
        shown = escape(tensor.name, 80)
        if tensor.name in seen:
            raise Malformed(f"duplicate tensor {shown}")
        seen.add(tensor.name)
        if tensor.offset % alignment:
            raise Malformed(f"tensor {shown} lies at {tensor.offset}, not a multiple of {alignment}")
        if room is not None and tensor.offset + tensor.size > room:
            raise Malformed(f"tensor {shown} ends {tensor.offset + tensor.size - room} bytes past the end of the file")
    ordered = sorted(tensors, key=lambda tensor: (tensor.offset, tensor.size))
    for left, right in pairwise(ordered):
        if left.offset + left.size > right.offset:
            raise Malformed(f"tensors {escape(left.name, 80)} and {escape(right.name, 80)} overlap")


def check_split(headers: Sequence[Header], names: Sequence[str]) -> None:
    """Raise E-SHARD unless `headers`, those of the files `names` in order, are all shards of one split, or one file."""

    def bad(what: str, name: str) -> LmctlError:
        return LmctlError("E-SHARD", what, fix="fetch all shards of one revision", place=Place(name))

    counts = [header.metadata.get("split.count", 1) for header in headers]
    tensors = sum(len(header.tensors) for header in headers)
    for index, (header, name) in enumerate(zip(headers, names, strict=True)):
        if counts[index] != len(headers):
            raise bad(f"it is one of {_shown(counts[index])} shards, {len(headers)} are here", name)
        if len(headers) == 1:
            continue
        number = header.metadata.get("split.no")
        if number != index:
            raise bad(f"it says it is shard {_shown(number)} (counting from 0), expected {index}", name)
        total = header.metadata.get("split.tensors.count")
        if total != tensors:
            raise bad(f"the split has {_shown(total)} tensors, its shards hold {tensors}", name)


def _shown(value: Value | None) -> str:
    return "none" if value is None else escape(str(value), 40)


def shape(header: Header) -> Shape:
    """Return what estimates need, as a lock stores it: `architecture`, the numbers named in SHAPE_KEYS, `vocab_size`.

    A key is without its architecture's prefix; arrays have one number per layer. Of shards, ask the first.
    """
    architecture = header.metadata.get("general.architecture")
    if not isinstance(architecture, str):
        return {}
    found: dict[str, Json] = {"architecture": architecture}
    for key, value in header.metadata.items():
        name = key.removeprefix(f"{architecture}.")
        if name == key or name not in SHAPE_KEYS or isinstance(value, str | Counted):
            continue
        numbers = value if isinstance(value, tuple) else (value,)
        if all(math.isfinite(number) for number in numbers):
            found[name] = list(value) if isinstance(value, tuple) else value
    if header.vocab_size is not None:
        found["vocab_size"] = header.vocab_size
    return found
