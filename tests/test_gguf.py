"""Headers of GGUF files: good ones are read as the reference reader does, and shards belong together."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path

import gguf as reference
import pytest
from gguf_headers import (
    GEMMA,
    GOOD,
    Bytes,
    key,
    raw_header,
    read,
    refused,
    tensor,
)
from weights import shapes
from weights.hello import F16, F32, header, hello

from lmctl.errors import LmctlError
from lmctl.gguf import Counted, Header, check_split, read_header, shape
from lmctl.source import FIRST_CHUNK, LAST_CHUNK, open_local


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
