"""Hostile and damaged headers of GGUF files are refused within bounds."""

from __future__ import annotations

import struct

import pytest
from gguf_headers import (
    ARRAY,
    BOOL,
    GEMMA,
    STRING,
    UINT32,
    UINT64,
    Bytes,
    array,
    key,
    raw_header,
    read,
    refused,
    tensor,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from weights import shapes
from weights.hello import F32, encoded, text

from lmctl.errors import LmctlError, escape
from lmctl.gguf import read_header, shape


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
