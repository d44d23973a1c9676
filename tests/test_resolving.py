"""From what is asked for to commit, files, sha256 and shape: a real client and a loopback Hub, files on a real disk."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.hub import Hub
from repositories import CONFIG, HELLO, OTHER, REPO, TENSORS, TREE, gguf, local, mlx, sha256, shards

from lmctl.errors import LmctlError
from lmctl.host import Listing, RemoteFile
from lmctl.hosts.endpoint import Endpoint
from lmctl.hosts.hub import HuggingFace
from lmctl.record import replace
from lmctl.resolving import resolve
from lmctl.spec import LockedFile, Wanted


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub() as held:
        yield held


@pytest.fixture
def hub(server: Hub) -> HuggingFace:
    return HuggingFace(Endpoint(server.url), backoff=0.01)


def refused(wanted: Wanted, hub: HuggingFace) -> LmctlError:
    with pytest.raises(LmctlError) as caught:
        resolve(wanted, hub)
    assert "\n" not in str(caught.value.problems[0])
    return caught.value


def test_a_quant_is_locked_to_commit_file_sha256_and_shape(server: Hub, hub: HuggingFace):
    commit = server.add(REPO, {"hello-Q4_K_M.gguf": HELLO, "hello-Q8_0.gguf": OTHER, "README.md": b"hello"})
    found = resolve(gguf(), hub)
    assert found.commit == commit
    assert found.files == (LockedFile("hello-Q4_K_M.gguf", "weights", len(HELLO), sha256(HELLO)),)
    assert found.shape["architecture"] == "llama"
    assert found.shape["block_count"] == 1
    assert found.shape["vocab_size"]


def test_locking_reads_the_header_and_not_the_weights(server: Hub, hub: HuggingFace):
    server.add(REPO, {"hello-Q4_K_M.gguf": HELLO})
    resolve(gguf(), hub)
    ranges = [one.headers["range"] for one in server.asked("resolve", "GET")]
    assert sum(int(r.partition("-")[2]) - int(r[6:].partition("-")[0]) + 1 for r in ranges) < len(HELLO)


def test_the_projector_is_locked_with_the_weights(server: Hub, hub: HuggingFace):
    server.add(REPO, {"hello-Q4_K_M.gguf": HELLO, "mmproj-F16.gguf": OTHER, "mmproj-BF16.gguf": OTHER})
    assert [(file.path, file.role) for file in resolve(gguf(), hub).files] == [
        ("hello-Q4_K_M.gguf", "weights"),
        ("mmproj-F16.gguf", "mmproj"),
    ]


def test_F49_shards_are_locked_together_whichever_is_named(server: Hub, hub: HuggingFace):
    server.add(REPO, shards("Q4_K_M/m", 3))
    first = resolve(gguf(), hub)
    assert [file.role for file in first.files] == ["weights", "shard", "shard"]
    assert first.shape["block_count"] == 1
    assert resolve(gguf("file=Q4_K_M/m-00002-of-00003.gguf"), hub).files == first.files


def test_F49_a_missing_shard_is_refused_before_anything_is_locked(server: Hub, hub: HuggingFace):
    held = shards("m-Q4_K_M", 3)
    del held["m-Q4_K_M-00002-of-00003.gguf"]
    server.add(REPO, held)
    error = refused(gguf(), hub)
    assert error.code == "E-SHARD" and "00002-of-00003" in str(error)


def test_F49_shards_of_different_splits_are_refused(server: Hub, hub: HuggingFace):
    held = shards("m-Q4_K_M", 3)
    names = sorted(held)
    held[names[1]], held[names[2]] = held[names[2]], held[names[1]]
    server.add(REPO, held)
    assert refused(gguf(), hub).code == "E-SHARD"


@pytest.mark.parametrize("content", [b"<html>log in</html>" * 10, b"GGUF", HELLO[:900]], ids=["html", "short", "cut"])
def test_what_is_no_gguf_is_refused_before_it_is_locked(server: Hub, hub: HuggingFace, content: bytes):
    server.add(REPO, {"hello-Q4_K_M.gguf": content})
    assert refused(gguf(), hub).code == "E-GGUF"


def test_an_mlx_repository_is_locked_to_its_needed_files(server: Hub, hub: HuggingFace):
    server.add("owner/Hello-MLX", TREE)
    found = resolve(mlx(), hub)
    assert [(file.path, file.role) for file in found.files] == [
        ("model.safetensors", "weights"),
        ("tokenizer.json", "tokenizer"),
        ("config.json", "config"),
        ("chat_template.jinja", "template"),
    ]
    assert found.shape == {"architecture": "qwen3", "block_count": 2, "context_length": 4096, "vocab_size": 300}


def test_small_files_are_fetched_hashed_and_named_as_the_cache_names_them(server: Hub, hub: HuggingFace):
    server.add("owner/Hello-MLX", TREE)
    files = {file.path: file for file in resolve(mlx(), hub).files}
    assert files["config.json"].sha256 == sha256(TREE["config.json"])
    assert files["config.json"].blob == server.file("owner/Hello-MLX", "config.json").blob
    assert files["model.safetensors"].blob is None


def test_a_small_file_that_is_not_what_the_hub_lists_is_refused(server: Hub, hub: HuggingFace):
    server.add("owner/Hello-MLX", TREE)
    server.fault("owner/Hello-MLX", "config.json", flip=True)
    assert refused(mlx(), hub).code == "E-HASH"


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        pytest.param(
            {"config.json": json.dumps({**CONFIG, "auto_map": {"A": "b"}}).encode()}, "E-REMOTECODE", id="I109-auto-map"
        ),
        pytest.param(
            {"config.json": json.dumps({**CONFIG, "model_file": "m.py"}).encode()}, "E-REMOTECODE", id="I109-model-file"
        ),
        pytest.param({"config.json": b"<html>"}, "E-SAFETENSORS", id="I109-config"),
        pytest.param({"model.safetensors": b"\xff" * 8 + b"{" + bytes(99)}, "E-SAFETENSORS", id="I109-header-length"),
        pytest.param({"model.safetensors": b"\x80\x04" + bytes(99)}, "E-PICKLE", id="I109-renamed-pickle"),
    ],
)
def test_an_mlx_repository_that_an_engine_must_not_open_is_refused(
    server: Hub, hub: HuggingFace, changed: dict[str, bytes], code: str
):
    server.add("owner/Hello-MLX", {**TREE, **changed})
    assert refused(mlx(), hub).code == code


def test_code_is_locked_where_the_machine_allows_it(server: Hub, hub: HuggingFace):
    server.add("owner/Hello-MLX", {**TREE, "config.json": json.dumps({**CONFIG, "auto_map": {"A": "b"}}).encode()})
    assert resolve(mlx(), hub, remote_code=True).files


def test_a_commit_is_final(server: Hub, hub: HuggingFace):
    first = server.add(REPO, {"hello-Q4_K_M.gguf": HELLO})
    server.add(REPO, {"hello-Q4_K_M.gguf": OTHER})
    found = resolve(gguf(revision=first), hub)
    assert (found.commit, found.files[0].sha256) == (first, sha256(HELLO))


@pytest.mark.parametrize(
    ("wanted", "code"),
    [(gguf(repo="owner/none"), "E-MISSING"), (gguf(revision="none"), "E-MISSING"), (gguf("Q9"), "E-MATCH")],
    ids=["F41-repository", "F41-revision", "quant"],
)
def test_what_the_hub_does_not_have_is_told_in_its_own_words(server: Hub, hub: HuggingFace, wanted: Wanted, code: str):
    server.add(REPO, {"hello-Q4_K_M.gguf": HELLO})
    assert refused(wanted, hub).code == code


def test_F48_a_listed_file_that_is_gone_is_the_hubs_error(server: Hub, hub: HuggingFace):
    server.add(REPO, {"hello-Q4_K_M.gguf": HELLO})
    server.fault(REPO, "hello-Q4_K_M.gguf", status=404, headers={"X-Error-Code": "EntryNotFound"})
    assert refused(gguf(), hub).code == "E-MISSING"


class Contradicting:
    """A Hub that lists one file; only a faulty one would do so."""

    def __init__(self, file: RemoteFile, commit: str = "a" * 40) -> None:
        self.file, self.commit = file, commit

    def list(self, repo: str, revision: str) -> Listing:
        return Listing(repo, revision, self.commit, (self.file,))

    def read(self, repo: str, commit: str, path: str, start: int, length: int) -> bytes:
        raise AssertionError("nothing is read before the listing is believed")


@pytest.mark.parametrize(
    ("file", "commit", "revision", "code"),
    [
        pytest.param(RemoteFile("m-Q4_K_M.gguf", 9, None, "b" * 40), "main", "main", "E-UPSTREAM", id="F44-commit"),
        pytest.param(
            RemoteFile("m-Q4_K_M.gguf", 9, None, "b" * 40), "a" * 40, "c" * 40, "E-UPSTREAM", id="other-commit"
        ),
        pytest.param(RemoteFile("m-Q4_K_M.gguf", 9, "../x", "b" * 40), "a" * 40, "main", "E-HUB", id="F44-sha256"),
        pytest.param(
            RemoteFile("m-Q4_K_M.gguf", 17 << 20, None, "b" * 40), "a" * 40, "main", "E-HUB", id="large-unhashed"
        ),
        pytest.param(RemoteFile("m-Q4_K_M.gguf", 1 << 60, "a" * 64, "b" * 40), "a" * 40, "main", "E-HUB", id="size"),
    ],
)
def test_a_hub_that_contradicts_itself_is_not_believed(file: RemoteFile, commit: str, revision: str, code: str):
    with pytest.raises(LmctlError) as caught:
        resolve(gguf(revision=revision), Contradicting(file, commit))
    assert caught.value.code == code


def test_a_local_file_is_locked_by_its_sha256(tmp_path: Path, hub: HuggingFace):
    (tmp_path / "weights").mkdir()
    path = tmp_path / "weights" / "hello.gguf"
    path.write_bytes(HELLO)
    found = resolve(local(path, tmp_path), hub)
    assert (found.format, found.commit) == ("local", None)
    assert found.files == (LockedFile("hello.gguf", "weights", len(HELLO), sha256(HELLO)),)
    assert found.shape["block_count"] == 1


def test_F49_a_local_shard_brings_the_shards_beside_it(tmp_path: Path, hub: HuggingFace):
    for name, content in shards("m", 3).items():
        (tmp_path / name).write_bytes(content)
    found = resolve(local(tmp_path / "m-00002-of-00003.gguf", tmp_path), hub)
    assert [(file.path, file.role) for file in found.files] == [
        ("m-00001-of-00003.gguf", "weights"),
        ("m-00002-of-00003.gguf", "shard"),
        ("m-00003-of-00003.gguf", "shard"),
    ]
    (tmp_path / "m-00003-of-00003.gguf").unlink()
    error = refused(local(tmp_path / "m-00002-of-00003.gguf", tmp_path), hub)
    assert error.code == "E-SHARD" and "m-00003-of-00003.gguf" in str(error)


def test_a_local_folder_is_what_an_engine_reads_of_it(tmp_path: Path, hub: HuggingFace):
    folder = tmp_path / "mlx"
    folder.mkdir()
    for name, content in TREE.items():
        (folder / name).write_bytes(content)
    assert refused(local(folder, tmp_path), hub).code == "E-REMOTECODE"
    (folder / "modeling.py").unlink()
    found = resolve(local(folder, tmp_path), hub)
    assert [file.path for file in found.files] == [
        "model.safetensors",
        "tokenizer.json",
        "config.json",
        "chat_template.jinja",
    ]
    assert found.shape["architecture"] == "qwen3"
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04")
    assert refused(local(folder, tmp_path), hub).code == "E-PICKLE"
    os.mkfifo(folder / "generation_config.json")
    assert refused(local(folder, tmp_path), hub).code == "E-FILE"


def test_a_local_folder_of_gguf_files_is_told_with_those_that_could_be_meant(tmp_path: Path, hub: HuggingFace):
    for name in ("b-00001-of-00002.gguf", "b-00002-of-00002.gguf", "a.gguf", "mmproj-a.gguf"):
        (tmp_path / name).write_bytes(b"")
    error = refused(local(tmp_path, tmp_path.parent), hub)
    assert (error.code, error.problems[0].fix) == ("E-MATCH", "name it: a.gguf, b-00001-of-00002.gguf")


def test_a_local_adapter_needs_no_model_of_its_own(tmp_path: Path, hub: HuggingFace):
    (tmp_path / "adapters.safetensors").write_bytes(TENSORS)
    (tmp_path / "adapter_config.json").write_text("{}")
    found = resolve(replace(local(tmp_path, tmp_path.parent), role="lora"), hub)
    assert [file.role for file in found.files] == ["lora", "config"]


@pytest.mark.parametrize(
    ("content", "code"), [(None, "E-FILE"), (b"", "E-GGUF"), (b"PK\x03\x04" + bytes(99), "E-GGUF")], ids=str
)
def test_a_local_file_that_is_no_model_is_refused(tmp_path: Path, hub: HuggingFace, content: bytes | None, code: str):
    if content is not None:
        (tmp_path / "m.gguf").write_bytes(content)
    assert refused(local(tmp_path / "m.gguf", tmp_path), hub).code == code


def test_a_fifo_is_refused_without_waiting(tmp_path: Path, hub: HuggingFace):
    os.mkfifo(tmp_path / "m.gguf")
    assert refused(local(tmp_path / "m.gguf", tmp_path), hub).code == "E-FILE"
