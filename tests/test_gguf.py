"""Headers of GGUF files: good ones are read as the reference reader does, hostile ones are refused within bounds."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import gguf as reference
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weights import shapes
from weights.hello import F16, F32, encoded, header, hello, text

from lmctl.errors import LmctlError, escape
from lmctl.gguf import Counted, Header, check_split, read_header, shape
from lmctl.source import FIRST_CHUNK, LAST_CHUNK, open_local

ARRAY, BOOL, STRING, UINT32, UINT64 = 9, 7, 8, 4, 10
GOOD = {"general.architecture": "llama", "llama.block_count": 1}
GEMMA = {"n_embd": 64, "n_layer": 7, "n_head": 4, "n_head_kv": 1, "n_ff": 128, "vocab": 400, "head_dim": 32}


class Bytes:
    """A source that remembers what was asked of it; `size` may be unknown, or a lie."""

    def __init__(self, raw: bytes, size: int | None = None) -> None:
        self.raw, self.size = raw, size
        self.asked: list[tuple[int, int]] = []

    def read(self, start: int, length: int) -> bytes:
        self.asked.append((start, length))
        return self.raw[start : start + length]


def read(raw: bytes) -> Header:
    return read_header(Bytes(raw, len(raw)), "m.gguf")


def refused(raw: bytes) -> str:
    """Return the one line with which the header is refused, known size or not, within 50 MB."""
    lines = []
    for size in (len(raw), None):
        tracemalloc.start()
        try:
            with pytest.raises(LmctlError) as caught:
                read_header(Bytes(raw, size), "m.gguf")
            assert tracemalloc.get_traced_memory()[1] < 50 << 20
        finally:
            tracemalloc.stop()
        assert caught.value.code == "E-GGUF" and caught.value.exit_code == 6
        assert all(problem.fix for problem in caught.value.problems)
        lines.append(str(caught.value))
        assert "\n" not in lines[-1] and lines[-1].isprintable() and len(lines[-1]) < 500
    return lines[0]


def raw_header(keys: list[bytes], tensors: list[bytes] = (), count: int | None = None, version: int = 3) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys) if count is None else count)
    raw = head + b"".join(keys) + b"".join(tensors)
    return raw + bytes(-len(raw) % 32)


def key(name: str, value: object) -> bytes:
    return text(name) + encoded(value)


def array(name: str, kind: int, count: int, data: bytes = b"") -> bytes:
    return text(name) + struct.pack("<IIQ", ARRAY, kind, count) + data


def tensor(name: str, dims: list[int], kind: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


def test_a_header_is_read_as_the_reference_reader_reads_it(tmp_path: Path) -> None:
    models = {"hello": hello("One two three.")}
    for arch, hp in (("gemma3", {**GEMMA, "window": 32}), ("llama", {**GEMMA, "wtype": "q4_0"})):
        models[arch] = shapes.write(tmp_path / "m", arch, hp).read_bytes()
    for name, raw in models.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(raw)
        theirs = reference.GGUFReader(path)
        with open_local(path) as source:
            ours = read_header(source, name)
        assert ours.version == 3 and ours.alignment == theirs.alignment and ours.data_offset == theirs.data_offset
        found = [(t.name, t.dims, t.type, t.offset + ours.data_offset, t.size) for t in ours.tensors]
        assert found == [
            (t.name, tuple(t.shape.tolist()), t.tensor_type.name, int(t.data_offset), int(t.n_bytes))
            for t in theirs.tensors
        ]
        fields = {key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")}
        assert fields.keys() == ours.metadata.keys()
        for field, value in fields.items():
            mine = ours.metadata[field]
            assert (mine.count if isinstance(mine, Counted) else mine) == (
                len(value) if isinstance(mine, Counted) else tuple(value) if isinstance(value, list) else value
            )
        assert ours.vocab_size == len(fields["tokenizer.ggml.tokens"])


def test_a_shape_has_what_estimates_need_and_no_more() -> None:
    raw, size = shapes.header_of("gemma3", {**GEMMA, "window": 32, "n_head_kv": [1] * 7})
    found = shape(read_header(Bytes(raw, size), "m.gguf"))
    assert found == {
        "architecture": "gemma3",
        "context_length": 131072,
        "embedding_length": 64,
        "block_count": 7,
        "feed_forward_length": 128,
        "attention.head_count": 4,
        "attention.head_count_kv": [1] * 7,
        "attention.key_length": 32,
        "attention.value_length": 32,
        "attention.sliding_window": 32,
        "rope.dimension_count": 32,
        "vocab_size": 400,
    }


def test_a_shape_leaves_out_what_is_not_a_number() -> None:
    raw = header({**GOOD, "llama.context_length": float("nan"), "llama.embedding_length": "wide", "llama.foo": 1}, [])
    assert shape(read(raw)) == {"architecture": "llama", "block_count": 1}
    assert shape(read(header({"llama.block_count": 1}, []))) == {}


def test_version_2_and_any_order_of_tensors_are_read() -> None:
    tensors = [tensor("b", [8], F32, 32), tensor("a", [8], F32, 0)]
    assert [t.offset for t in read(raw_header([], tensors, version=2) + bytes(64)).tensors] == [32, 0]


def test_the_alignment_a_file_declares_counts() -> None:
    raw = raw_header([key("general.alignment", 64)], [tensor("a", [8], F32, 64)])
    found = read(raw + bytes(256))
    assert found.alignment == 64 and found.data_offset % 64 == 0


def test_a_long_string_or_array_is_counted_and_not_kept() -> None:
    raw = raw_header([key("a", "x" * 5000), key("b", [1] * 600), key("c", [1] * 512), key("d", ["x", "yz"])])
    metadata = read(raw).metadata
    assert [metadata[name] for name in "abd"] == [Counted(5000), Counted(600), Counted(2)]
    assert metadata["c"] == (1,) * 512


def test_the_longest_legal_header_stays_below_50_mb() -> None:
    keys = [key(f"{index:0500}", [70000] * 512) for index in range(1024)]
    tensors = [tensor(f"{index:064}", [0, 1, 1, 1], F32, 0) for index in range(8192)]
    raw = raw_header(keys, tensors)
    tracemalloc.start()
    assert len(read(raw).tensors) == 8192
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 << 20


def test_a_big_vocabulary_is_read_remotely_in_few_growing_chunks() -> None:
    tokens = [f"token-{index}" for index in range(200_000)]
    raw = header({**GOOD, "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.scores": [0.5] * len(tokens)}, [])
    source = Bytes(raw + bytes(1 << 20))
    assert read_header(source, "m.gguf").vocab_size == 200_000
    lengths = [length for _, length in source.asked]
    assert lengths[0] == FIRST_CHUNK and lengths == sorted(lengths) and lengths[-1] <= LAST_CHUNK
    assert len(lengths) < 8 and all(start < len(raw) for start, _ in source.asked)


def test_I110_a_terabyte_of_zeros_after_the_header_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    raw = header({**GOOD}, [("a", [1 << 39], F16, 1 << 40)])
    with path.open("wb") as file:
        file.write(raw)
        file.truncate(len(raw) + (1 << 40))
    with open_local(path) as source:
        recorded = Bytes(source.read(0, FIRST_CHUNK), source.size)
        assert read_header(recorded, "m.gguf").tensors[0].size == 1 << 40
    assert recorded.asked == [(0, FIRST_CHUNK)]


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        pytest.param(b"", "a file of 0 bytes, too short", id="I91-empty"),
        pytest.param(b"GGU", "a file of 3 bytes, too short", id="I91-three-bytes"),
        pytest.param(b"GGUF\3\0\0\0", "the header needs at least 16 bytes", id="I91-magic-alone"),
        pytest.param(b"<!DOCTYPE html><html>Sign in", "not GGUF but HTML: a login or error page", id="I92-html"),
        pytest.param(b"\n  <html>", "HTML", id="I92-html-after-blanks"),
        pytest.param(b'{"error":"Repository not found"}', "JSON", id="I92-json"),
        pytest.param(b"GGML" + bytes(60), "a format from before GGUF", id="I94-ggml"),
        pytest.param(b"tjgg" + bytes(60), "a format from before GGUF", id="I94-ggjt"),
        pytest.param(b"PK\3\4" + bytes(60), "zip", id="I94-zip"),
        pytest.param(b"\x80\x02ctorch._utils\n", "pickle", id="I94-pickle"),
        pytest.param(struct.pack("<Q", 90) + b'{"a":', "safetensors", id="I94-safetensors"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer", id="I94-lfs-pointer"),
        pytest.param(bytes(4096), "unfinished download", id="I94-zeros"),
        pytest.param(b"\x1b[31mred and more", "it begins with 1b 5b 33", id="I94-nothing-known"),
    ],
)
def test_another_format_is_named(raw: bytes, says: str) -> None:
    assert says in refused(raw)


@pytest.mark.parametrize("version", [0, 1, 4, 99], ids="I95-version-{}".format)
def test_another_version_is_refused(version: int) -> None:
    assert f"GGUF version {version}, expected 2 or 3" in refused(raw_header([], version=version))


def test_I95_a_big_endian_file_is_refused() -> None:
    assert "big-endian" in refused(b"GGUF" + struct.pack(">IQQ", 3, 0, 0))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        pytest.param(raw_header([struct.pack("<Q", 2**64 - 1)]), "a key is 18446744073709551615", id="I97-2**64-1"),
        pytest.param(raw_header([struct.pack("<Q", 10**12)]), "a key is 1000000000000", id="I97-1-TB"),
        pytest.param(raw_header([struct.pack("<Q", 0)]), "a key is 0 bytes long", id="I97-empty"),
        pytest.param(raw_header([], count=2**63), "claims 9223372036854775808 keys", id="I97-keys"),
        pytest.param(b"GGUF" + struct.pack("<IQQ", 3, 2**40, 0), "claims 1099511627776 tensors", id="I97-tensors"),
        pytest.param(
            raw_header([text("k") + struct.pack("<IQ", STRING, 2**62)]), "claims to reach past", id="I97-value"
        ),
        pytest.param(raw_header([array("k", STRING, 10**9)]), "1000000000 strings", id="I98-strings-1e9"),
        pytest.param(raw_header([array("k", STRING, 2**20)]), "inside its header|at least", id="I98-strings-1e6"),
        pytest.param(raw_header([array("k", UINT32, 2**63)]), "claims to reach past", id="I98-numbers-2**63"),
        pytest.param(raw_header([array("k", BOOL, 2**30)]), "claims to reach past", id="I98-booleans"),
        pytest.param(
            raw_header([array("k", STRING, 2, struct.pack("<Q", 2**64 - 8))]),
            "claims to reach past",
            id="I98-one-string",
        ),
        pytest.param(raw_header([array("k", ARRAY, 1)]), "unknown value type 9", id="I100-array-of-arrays"),
        pytest.param(raw_header([text("k") + struct.pack("<I", 999)]), "unknown value type 999", id="I100-type-999"),
        pytest.param(raw_header([array("k", 999, 1)]), "unknown value type 999", id="I100-array-of-999"),
        pytest.param(raw_header([text("k") + struct.pack("<IB", BOOL, 7)]), "the boolean 7", id="I100-boolean-7"),
        pytest.param(raw_header([array("k", BOOL, 2, b"\1\7")]), "the boolean 7", id="I100-booleans"),
        pytest.param(raw_header([key("k", 1), key("k", 1)]), "duplicate key k", id="I101"),
    ],
)
def test_a_hostile_key_or_value_is_refused(raw: bytes, says: str) -> None:
    line = refused(raw)
    assert any(part in line for part in says.split("|")), line


@pytest.mark.parametrize(
    ("tensors", "says"),
    [
        pytest.param([tensor("a", [8], F32, 1 << 40)], "tensor a ends 1099511", id="I103-past-the-end"),
        pytest.param(
            [tensor("a", [64], F32, 0), tensor("b", [8], F32, 32)], "tensors a and b overlap", id="I103-overlap"
        ),
        pytest.param(
            [tensor("a", [8], F32, 0), tensor("b", [8], F32, 0)], "tensors a and b overlap", id="I103-same-place"
        ),
        pytest.param([tensor("a", [8], F32, 8)], "lies at 8, not a multiple of 32", id="I103-unaligned"),
        pytest.param([tensor("a", [8], F32, 0), tensor("a", [8], F32, 32)], "duplicate tensor a", id="I103-twice"),
        pytest.param([tensor("a", [2**62, 4], F32, 0)], "claims 18446744073709551616 elements", id="I103-elements"),
        pytest.param([tensor("a", [1] * 5, F32, 0)], "has 5 dimensions", id="I103-dimensions"),
        pytest.param(
            [text("a") + struct.pack("<I", 2**32 - 1)], "has 4294967295 dimensions", id="I103-many-dimensions"
        ),
        pytest.param([tensor("a", [33], 2, 0)], "rows of 33, which blocks of 32 (Q4_0) do not fill", id="I103-rows"),
        pytest.param([tensor("a", [8], 4, 0)], "unknown type 4", id="I103-withdrawn-type"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(tensors: list[bytes], says: str) -> None:
    raw = raw_header([], tensors) + bytes(512)
    if "ends" not in says:
        assert says in refused(raw)
        return
    with pytest.raises(LmctlError, match=says):
        read(raw)


def test_I103_without_a_size_the_end_of_the_file_is_not_guessed() -> None:
    raw = raw_header([], [tensor("a", [8], F32, 1 << 40)])
    assert read_header(Bytes(raw), "m.gguf").tensors[0].offset == 1 << 40


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(encoded(0), id="I104-0"),
        pytest.param(encoded(3), id="I104-3"),
        pytest.param(encoded(2**31), id="I104-2**31"),
        pytest.param(encoded("32"), id="I104-string"),
        pytest.param(encoded(True), id="I104-boolean"),
        pytest.param(struct.pack("<IQ", UINT64, 32), id="I104-64-bit"),
    ],
)
def test_a_bad_alignment_is_refused(value: bytes) -> None:
    assert "general.alignment" in refused(raw_header([text("general.alignment") + value]))


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        pytest.param(b"bad\xff", r"duplicate key bad\xff", id="I106-invalid-utf-8"),
        pytest.param(b"\x1b[31mred\n", r"duplicate key \x1b[31mred\x0a", id="I106-escape"),
        pytest.param("a\u202eb".encode(), r"duplicate key a\u202eb", id="I106-bidirectional"),
        pytest.param(b"x" * 500, "duplicate key " + "x" * 79 + "…", id="I106-long"),
        pytest.param(b"x" * (10 << 20), "a key is 10485760 bytes long", id="I106-10-MB"),
    ],
)
def test_text_of_a_header_is_shown_escaped_and_cut(name: bytes, shown: str) -> None:
    pair = struct.pack("<Q", len(name)) + name + encoded(1)
    assert shown in refused(raw_header([pair, pair]))


def shard(number: object, count: object, total: object, tensors: int = 1) -> Header:
    keys = {"split.no": number, "split.count": count, "split.tensors.count": total}
    infos = [(f"{number}.{index}", [8], F32, 32) for index in range(tensors)]
    raw = header({name: value for name, value in keys.items() if value is not None}, infos)
    return read(raw + bytes(32 * tensors))


def test_whole_splits_and_single_files_pass() -> None:
    check_split([shard(0, 3, 4, 0), shard(1, 3, 4, 2), shard(2, 3, 4, 2)], ["a", "b", "c"])
    check_split([shard(None, None, None)], ["a"])


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        pytest.param([shard(0, 3, 2), shard(1, 3, 2)], "s0: it is one of 3 shards, 2 are here", id="I107-count"),
        pytest.param([shard(0, 2, 1)], "s0: it is one of 2 shards, 1 are here", id="I107-alone"),
        pytest.param([shard(0, 2, 2), shard(0, 2, 2)], "s1: it says it is shard 0", id="I107-number-twice"),
        pytest.param([shard(1, 2, 2), shard(0, 2, 2)], "s0: it says it is shard 1", id="I107-swapped"),
        pytest.param(
            [shard(0, 2, 5), shard(1, 2, 5)], "s0: the split has 5 tensors, its shards hold 2", id="I107-tensors"
        ),
        pytest.param([shard(0, 2, 2), shard(None, None, None)], "s1: it is one of 1 shards", id="I107-no-split"),
        pytest.param([shard(0, "\x1b", 2)], r"one of \x1b shards", id="I107-text"),
    ],
)
def test_shards_that_do_not_belong_together_are_refused(headers: list[Header], says: str) -> None:
    with pytest.raises(LmctlError) as caught:
        check_split(headers, [f"s{index}" for index in range(len(headers))])
    assert caught.value.code == "E-SHARD" and says in str(caught.value)


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "missing"):
        with pytest.raises(LmctlError) as caught, open_local(tmp_path / name):
            pass
        assert caught.value.code == "E-FILE"


def survives(raw: bytes, size: int | None) -> None:
    try:
        found = read_header(Bytes(raw, size), "m.gguf")
    except LmctlError as error:
        assert error.code == "E-GGUF" and escape(str(error), 1000) == str(error)
    else:
        shape(found)


MODEL, MODEL_SIZE = shapes.header_of("gemma3", {**GEMMA, "vocab": 300})


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=400), st.booleans())
def test_random_bytes_end_in_a_header_or_in_one_error(raw: bytes, known: bool) -> None:
    for start in (raw, b"GGUF" + raw, b"GGUF\3\0\0\0" + raw):
        survives(start, len(start) if known else None)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.tuples(st.integers(0, len(MODEL) - 1), st.binary(min_size=1, max_size=9)), min_size=1, max_size=6),
    st.integers(0, len(MODEL)),
    st.booleans(),
)
def test_a_damaged_header_ends_in_a_header_or_in_one_error(
    damage: list[tuple[int, bytes]], cut: int, known: bool
) -> None:
    raw = bytearray(MODEL)
    for at, patch in damage:
        raw[at : at + len(patch)] = patch
    survives(bytes(raw), MODEL_SIZE if known else None)
    survives(bytes(raw[:cut]), cut if known else None)
