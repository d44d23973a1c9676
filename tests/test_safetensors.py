"""Headers of safetensors and the folders they lie in: good ones are read, hostile ones are refused within bounds."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weights import mlx

from lmctl.errors import LmctlError, escape
from lmctl.gguf import SHAPE_KEYS
from lmctl.safetensors import MAX_CONFIG, Tensor, check_folder, read_config, read_header, shape_from_config
from lmctl.source import open_local

FILES = mlx.files("An answer.")
GOOD = FILES["model.safetensors"]
NAMES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


class Bytes:
    def __init__(self, raw: bytes, size: int | None = None) -> None:
        self.raw, self.size = raw, size

    def read(self, start: int, length: int) -> bytes:
        return self.raw[start : start + length]


def packed(entries: object, data: int = 0, length: int | None = None) -> bytes:
    head = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(head) if length is None else length) + head + bytes(data)


def one(**changed: Any) -> bytes:
    return packed({"t": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changed}}, 16)


def refused(raw: bytes, code: str = "E-SAFETENSORS") -> str:
    """Return the one line with which a file is refused, within 50 MB."""
    tracemalloc.start()
    try:
        with pytest.raises(LmctlError) as caught:
            read_header(Bytes(raw, len(raw)), "model.safetensors")
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
    line = str(caught.value)
    assert caught.value.code == code and line.isprintable() and "model.safetensors: " in line and " — " in line
    return line


def test_a_header_is_read_in_the_order_of_its_data(tmp_path: Path) -> None:
    folder = mlx.write(tmp_path / "m", "An answer.")
    with open_local(folder / "model.safetensors") as source:
        found = read_header(source, "model.safetensors")
    assert found[0] == Tensor("model.embed_tokens.weight", "F16", (64, 64), 0, 8192)
    assert [tensor.begin for tensor in found[1:]] == [tensor.end for tensor in found[:-1]]


def test_it_is_read_as_mlx_reads_it(tmp_path: Path) -> None:
    core = pytest.importorskip("mlx.core")
    folder = mlx.write(tmp_path / "m", "An answer.")
    theirs = core.load(str(folder / "model.safetensors"))
    ours = read_header(Bytes(GOOD), "m")
    assert {tensor.name: tensor.dims for tensor in ours} == {name: array.shape for name, array in theirs.items()}


def test_a_type_that_is_not_known_is_no_error() -> None:
    assert read_header(Bytes(one(dtype="F2_NEW")), "m")[0].dtype == "F2_NEW"


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        pytest.param(b"", "a file of 0 bytes", id="I109-empty"),
        pytest.param(packed(b"{}", length=2**63), "claims 9223372036854775808 bytes, there can be 2", id="I109-2**63"),
        pytest.param(packed(b"{}", length=3), "claims 3 bytes, there can be 2", id="I109-longer-than-the-file"),
        pytest.param(packed(b"{" + b" " * (9 << 20)), "there can be 8388608", id="I109-9-MiB"),
        pytest.param(packed(b"{nonsense}"), "the header is not JSON", id="I109-not-json"),
        pytest.param(packed(b"{\xff\xfe}"), "the header is not JSON", id="I109-not-utf-8"),
        pytest.param(packed(b'{"a":' + b"[" * 100_000), "the header is not JSON", id="I109-nesting"),
        pytest.param(packed(b'{"a":' + b"9" * 5000 + b"}"), "the header is not JSON", id="I109-digits"),
        pytest.param(packed(b'{"a":1,"a":2}'), "the header has a key twice", id="I109-key-twice"),
        pytest.param(packed({"\x1b[31m": 1}), r"tensor \x1b[31m is not described", id="I109-escape"),
        pytest.param(packed({"x" * 500: 1}), "tensor " + "x" * 79 + "…", id="I109-long-name"),
        pytest.param(one(shape=[2, -2]), "lacks a good", id="I109-negative"),
        pytest.param(one(shape=[2, True]), "lacks a good", id="I109-boolean"),
        pytest.param(one(shape=[2, 2.0]), "lacks a good", id="I109-float"),
        pytest.param(one(shape=[1] * 17), "lacks a good", id="I109-dimensions"),
        pytest.param(one(data_offsets=[0]), "lacks a good", id="I109-one-offset"),
        pytest.param(one(dtype=None), "lacks a good", id="I109-no-dtype"),
        pytest.param(one(data_offsets=[16, 0]), "do not fit its shape", id="I109-backwards"),
        pytest.param(one(shape=[2, 3]), "16 bytes, which do not fit", id="I109-size"),
        pytest.param(one(data_offsets=[16, 32]), "the file has", id="I109-past-the-end"),
        pytest.param(
            packed(
                {
                    name: {"dtype": "U8", "shape": [4], "data_offsets": [at, at + 4]}
                    for name, at in (("a", 0), ("b", 3))
                },
                8,
            ),
            "tensors a and b overlap",
            id="I109-overlap",
        ),
        pytest.param(b"<html>Sign in to continue</html>", "not safetensors but HTML", id="I109-html"),
        pytest.param(b"GGUF\3\0\0\0" + bytes(60), "not safetensors but GGUF", id="I109-gguf"),
    ],
)
def test_a_hostile_file_is_refused(raw: bytes, says: str) -> None:
    assert says in refused(raw)


def test_I109_a_length_that_ends_too_early_is_refused_without_a_size() -> None:
    with pytest.raises(LmctlError, match="ends inside its header, at byte 10"):
        read_header(Bytes(packed(b"{}", length=100)), "m")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x80\x02ctorch._utils\n_rebuild", id="I109-pickle"),
        pytest.param(b"PK\3\4" + bytes(40), id="I109-zip-of-pickles"),
    ],
)
def test_a_pickle_under_another_name_is_refused(raw: bytes) -> None:
    assert "can run code" in refused(raw, "E-PICKLE")


def test_a_folder_of_weights_passes() -> None:
    configs = {name: read_config(FILES[name], name) for name in ("config.json", "tokenizer_config.json")}
    check_folder(NAMES, configs)
    check_folder([*NAMES, "training_args.bin", "README.md"], configs)


@pytest.mark.parametrize(
    ("names", "configs", "code", "says"),
    [
        pytest.param(
            [*NAMES, "pytorch_model-00001-of-00002.bin"], {}, "E-PICKLE", "pytorch_model-0", id="I109-pytorch"
        ),
        pytest.param([*NAMES, "consolidated.00.pth"], {}, "E-PICKLE", "consolidated", id="I109-pth"),
        pytest.param(
            NAMES, {"config.json": {"auto_map": {"A": "b.C"}}}, "E-REMOTECODE", "auto_map in config", id="I109-auto_map"
        ),
        pytest.param(
            NAMES,
            {"tokenizer_config.json": {"auto_map": {"A": "b.C"}}},
            "E-REMOTECODE",
            "tokenizer_",
            id="I109-tokenizer",
        ),
        pytest.param(
            NAMES, {"config.json": {"model_file": "m.py"}}, "E-REMOTECODE", "model_file", id="I109-model_file"
        ),
        pytest.param([*NAMES, "Modeling\x1b.PY"], {}, "E-REMOTECODE", r"Modeling\x1b.PY", id="I109-py"),
        pytest.param(
            [*NAMES, *(f"m{index}.py" for index in range(9))], {}, "E-REMOTECODE", "and 4 more", id="I109-many"
        ),
        pytest.param(["config.json"], {}, "E-SAFETENSORS", "no config.json with", id="I109-no-weights"),
        pytest.param(["model.safetensors"], {}, "E-SAFETENSORS", "no config.json with", id="I109-no-config"),
        pytest.param(
            NAMES,
            {"model.safetensors.index.json": {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}},
            "E-SHARD",
            "missing shards: model-2.safetensors",
            id="I109-missing-shard",
        ),
    ],
)
def test_a_folder_that_could_run_code_or_is_not_whole_is_refused(
    names: list[str], configs: dict[str, Any], code: str, says: str
) -> None:
    with pytest.raises(LmctlError) as caught:
        check_folder(names, configs)
    assert caught.value.code == code and says in str(caught.value) and str(caught.value).isprintable()


def test_all_that_is_wrong_with_a_folder_is_told_at_once() -> None:
    with pytest.raises(LmctlError) as caught:
        check_folder(["a.py", "pytorch_model.bin"], {})
    assert [problem.code for problem in caught.value.problems] == ["E-PICKLE", "E-REMOTECODE", "E-SAFETENSORS"]


def test_a_machine_may_allow_code_but_never_pickles() -> None:
    configs = {"config.json": {"auto_map": {"A": "b.C"}}}
    check_folder([*NAMES, "a.py"], configs, remote_code=True)
    with pytest.raises(LmctlError, match="a pickle"):
        check_folder([*NAMES, "pytorch_model.bin"], configs, remote_code=True)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"<html>", id="I109-config-html"),
        pytest.param(b"[1]", id="I109-config-list"),
        pytest.param(b'{"a":' * 100_000, id="I109-config-nesting"),
        pytest.param(b" " * (MAX_CONFIG + 1), id="I109-config-size"),
    ],
)
def test_a_config_that_is_no_table_is_refused(raw: bytes) -> None:
    with pytest.raises(LmctlError, match=r"config\.json") as caught:
        read_config(raw, "config.json")
    assert caught.value.code == "E-SAFETENSORS"


def test_a_shape_speaks_the_words_of_gguf() -> None:
    found = shape_from_config(read_config(FILES["config.json"], "config.json"))
    assert found == {
        "architecture": "qwen3",
        "block_count": 2,
        "attention.head_count": 2,
        "attention.head_count_kv": 2,
        "attention.key_length": 16,
        "embedding_length": 64,
        "feed_forward_length": 32,
        "context_length": 4096,
        "vocab_size": 64,
        "dtype": "float16",
    }
    assert found.keys() - {"architecture", "dtype"} <= SHAPE_KEYS


def test_a_model_that_sees_is_described_by_its_language_model() -> None:
    text = {"model_type": "gemma3_text", "num_hidden_layers": 34, "sliding_window": 1024}
    text["layer_types"] = ["sliding_attention", "full_attention"]
    found = shape_from_config({"model_type": "gemma3", "vocab_size": 9, "num_hidden_layers": 27, "text_config": text})
    assert found == {
        "architecture": "gemma3_text",
        "block_count": 34,
        "vocab_size": 9,
        "attention.sliding_window": 1024,
        "attention.sliding_window_pattern": [True, False],
    }


def test_values_of_a_hostile_config_are_left_out() -> None:
    config: dict[str, Any] = {"model_type": "a b\x1b", "num_hidden_layers": -1, "vocab_size": True, "head_dim": 1.5}
    config |= {"hidden_size": 10**30, "num_key_value_heads": [1, 2], "intermediate_size": [1] * 600}
    assert shape_from_config(config) == {"attention.head_count_kv": [1, 2]}


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=300), st.integers(0, len(GOOD)), st.integers(0, 2000), st.booleans())
def test_damage_ends_in_a_header_or_in_one_error(patch: bytes, cut: int, at: int, known: bool) -> None:
    damaged = GOOD[:at] + patch + GOOD[at + len(patch) :]
    for raw in (patch, struct.pack("<Q", len(patch)) + patch, damaged, GOOD[:cut]):
        try:
            read_header(Bytes(raw, len(raw) if known else None), "m")
        except LmctlError as error:
            assert error.code in ("E-SAFETENSORS", "E-PICKLE") and escape(str(error), 1000) == str(error)
