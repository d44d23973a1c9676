"""Every wrong value of a lock file is refused with its line."""

from __future__ import annotations

import pytest
from locks import COMMIT, LOCK, REASON, TEXT

from lmctl.errors import EXIT_CODES, LmctlError
from lmctl.lock_reader import parse


def refused(text: str | bytes) -> LmctlError:
    with pytest.raises(LmctlError) as caught:
        parse(text.encode() if isinstance(text, str) else text, "localmodels.lock")
    return caught.value


SHA = f'sha256   = "{"a" * 64}"'
SIZE = "size     = 19851335840"


@pytest.mark.parametrize(
    ("old", "new", "code", "line"),
    [
        pytest.param("version = 1", "version = 999", "E-LOCK-NEWER", None, id="I82-newer"),
        pytest.param("version = 1", "version = 2\nnovel = 1", "E-LOCK-NEWER", None, id="F33-newer-schema"),
        pytest.param("version = 1", "version = 0", "E-LOCK", None, id="version-0"),
        pytest.param("version = 1", "version = true", "E-LOCK", None, id="version-boolean"),
        pytest.param("version = 1", "", "E-LOCK", None, id="version-missing"),
        pytest.param(SHA + "\n", "", "E-HASH", 9, id="I83-missing"),
        pytest.param(SHA, f'sha256 = "{"a" * 40}"', "E-HASH", 13, id="I83-short"),
        pytest.param(SHA, f'sha256 = "{"b" * 64}"', "E-HASH", 24, id="I83-of-another-file"),
        pytest.param(SIZE, "size = -1", "E-LOCK", 12, id="I85-negative"),
        pytest.param(SIZE, "size = 0", "E-LOCK", 12, id="I85-zero"),
        pytest.param(SIZE, "size = 1000000000000000000", "E-LOCK", 12, id="I85-huge"),
        pytest.param(SIZE, "size = 1.0", "E-LOCK", 12, id="I85-float"),
        pytest.param(SIZE, "size = true", "E-LOCK", 12, id="I85-boolean"),
        pytest.param(SIZE, "size = " + "9" * 5000, "E-LOCK", None, id="I85-endless-digits"),
        pytest.param(f'"{COMMIT}"', '"main"', "E-LOCK", 7, id="I86-branch"),
        pytest.param(f'"{COMMIT}"', f'"{COMMIT[:7]}"', "E-LOCK", 7, id="I86-short"),
        pytest.param(f'"{COMMIT}"', f'"{COMMIT.upper()}"', "E-LOCK", 7, id="I86-uppercase"),
        pytest.param(f'commit   = "{COMMIT}"\nshape', "shape", "E-LOCK", 4, id="I86-missing"),
        pytest.param(SIZE, SIZE + '\nurl = "https://evil.example/x"', "E-LOCK", 13, id="I88-https"),
        pytest.param(SIZE, SIZE + '\nurl = "file:///etc/passwd"', "E-LOCK", 13, id="I88-file"),
        pytest.param(SIZE, SIZE + '\nurl = "http://x"', "E-LOCK", 13, id="I88-http"),
        pytest.param("version = 1", 'version = 1\nurl = "x"', "E-LOCK", None, id="I88-top"),
        pytest.param(SHA, f'sha256 = "{"a" * 63}"', "E-HASH", 13, id="I46-63-digits"),
        pytest.param(SHA, f'sha256 = "{"A" * 64}"', "E-HASH", 13, id="I46-uppercase"),
        pytest.param(SHA, f'sha256 = "sha256:{"a" * 64}"', "E-HASH", 13, id="I46-prefix"),
        pytest.param(SHA, f'sha256 = "{"a" * 64}\\n"', "E-HASH", 13, id="I46-newline"),
        pytest.param(f'blob     = "{"d" * 40}"', 'blob = "../x"', "E-HASH", 30, id="I46-blob"),
        pytest.param('"weights"', '"weight"', "E-LOCK", 11, id="role"),
        pytest.param('"weights"', '["weights"]', "E-LOCK", 11, id="role-a-list"),
        pytest.param('"gguf"', '"onnx"', "E-LOCK", 6, id="format"),
        pytest.param('"gguf"', '["gguf"]', "E-LOCK", 6, id="format-a-list"),
        pytest.param('"gguf"', '"local"', "E-LOCK", 5, id="id-of-another-format"),
        pytest.param(REASON, "../x@main:Q4_K_M", "E-LOCK", 5, id="id-repository"),
        pytest.param(REASON, "a/b@../x:Q4_K_M", "E-LOCK", 5, id="id-revision"),
        pytest.param(REASON, f"a/b@{'f' * 40}:Q4_K_M", "E-LOCK", 7, id="commit-not-the-asked-one"),
        pytest.param(REASON, "a/b@main:Q4\\u202eK", "E-LOCK", 5, id="id-invisible"),
        pytest.param(REASON, "mlx-community/Code-4bit@main:mlx", "E-LOCK", 16, id="id-twice"),
        pytest.param('"config.json"', '"model.safetensors"', "E-LOCK", 26, id="path-twice"),
        pytest.param('"config.json"', '"../config.json"', "E-LOCK", 26, id="path-parent"),
        pytest.param('"config.json"', f'"{"x" * 255}"', "E-LOCK", 26, id="F64-name-of-255"),
        pytest.param('"config.json"', '"Model.safetensors"', "E-LOCK", 15, id="F64-twins"),
        pytest.param('"config.json"', '"/etc/passwd"', "E-LOCK", 26, id="path-absolute"),
        pytest.param('"config.json"', '"a//b"', "E-LOCK", 26, id="path-empty-part"),
        pytest.param('"config.json"', '"a/./b"', "E-LOCK", 26, id="path-dot"),
        pytest.param('"config.json"', "'a\\b'", "E-LOCK", 26, id="path-backslash"),
        pytest.param('"config.json"', '"C:/x"', "E-LOCK", 26, id="path-drive"),
        pytest.param('"config.json"', '"a\\u0000b"', "E-LOCK", 26, id="path-nul"),
        pytest.param('"hello.gguf"\nrole', '"../hello.gguf"\nrole', "E-LOCK", 36, id="local-path-elsewhere"),
        pytest.param('"hello.gguf"\nrole', '"/etc/passwd"\nrole', "E-LOCK", 36, id="local-path-absolute"),
        pytest.param(SIZE, SIZE + '\nshaa256 = "x"', "E-LOCK", 13, id="unknown-key"),
        pytest.param("block_count = 64", "block_count = nan", "E-LOCK", 8, id="shape-nan"),
        pytest.param("block_count = 64", "block_count = 1979-05-27", "E-LOCK", 8, id="shape-date"),
        pytest.param("block_count = 64", "block_count = [[1]]", "E-LOCK", 8, id="shape-nested"),
        pytest.param("[[artifact.file]]", "[artifact.file]", "E-LOCK", None, id="file-a-table"),
        pytest.param("version = 1", "version = 1\nartifact = 3", "E-LOCK", None, id="artifact-a-number"),
        pytest.param("version = 1", "version = ", "E-LOCK", 2, id="no-toml"),
        pytest.param("version = 1", "version = 1\nx = " + "[" * 5000, "E-LOCK", None, id="deep"),
        pytest.param("version = 1", "version = 1\n" + "a." * 20000 + "a = 1", "E-LOCK", 3, id="long-dotted-key"),
        pytest.param("version = 1", "<<<<<<< HEAD\nversion = 1", "E-LOCK", 2, id="merge-conflict"),
    ],
)
def test_a_wrong_value_is_refused_with_its_line(old: str, new: str, code: str, line: int | None):
    assert old in TEXT
    error = refused(TEXT.replace(old, new, 1))
    first = error.problems[0]
    assert first.code == code
    assert first.place is not None and first.place.file == "localmodels.lock"
    assert line is None or (first.place.line == line and first.place.column)
    assert first.fix and "\n" not in str(first)
    assert EXIT_CODES[code] in (66, 6)


@pytest.mark.parametrize(
    "content", [b"", b"\xff", TEXT.encode("utf-16"), b"{}"], ids=["empty", "bytes", "utf-16", "json"]
)
def test_what_is_no_lock_file_is_refused(content: bytes):
    assert refused(content).code == "E-LOCK"


def test_a_place_is_line_and_column():
    def at(text: str | bytes) -> list[int | None]:
        place = refused(text).problems[0].place
        assert place is not None
        return [place.line, place.column]

    assert at(TEXT.replace(SIZE, "   size = 0")) == [12, 4]
    assert at(TEXT.replace("version = 1", "version = 999")) == [2, 1]
    assert at(TEXT.replace("version = 1", "version = 0")) == [2, 1]
    assert at(TEXT.encode().replace(b'"gguf"', b'"\xc3\xa9\xff"')) == [6, 14]
    assert at(TEXT.replace("version = 1", "<<<<<<< HEAD")) == [2, 1]


def test_a_size_beyond_all_files_is_told_the_bound():
    says = "size must be 1 to 2^50 bytes, not 1000000000000000000"
    assert says in str(refused(TEXT.replace(SIZE, "size = 1000000000000000000")))


def test_all_problems_are_reported_at_once():
    error = refused(TEXT.replace(SIZE, "size = 0").replace('"config.json"', '"../x"').replace("e" * 64, "e"))
    assert [(p.code, p.place.line) for p in error.problems if p.place] == [
        ("E-LOCK", 12),
        ("E-LOCK", 26),
        ("E-HASH", 39),
    ]


def test_a_thousand_problems_are_cut():
    assert len(refused("version = 1\n" + "[[artifact]]\n" * 1000).problems) == 20


def test_line_endings_of_another_system_are_read():
    assert parse(TEXT.replace("\n", "\r\n").encode(), "localmodels.lock") == LOCK
