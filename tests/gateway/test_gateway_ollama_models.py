"""What the gateway tells Ollama's clients of its models: what is known, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime

import ollama
import pytest
from locks import CODE, HELLO, LOCK, REASON, WEIGHTS

from lmctl.gateway.ollama_models import Running, known, ps, show, tags, version
from lmctl.record import replace
from lmctl.spec import Artifact, Lock, LockedFile, Profile, Settings, Wanted

SETTINGS = Settings(ctx=4096, sampling={"temperature": 0.7, "seed": 1})


def profile(id: str | None, backend: str = "llama.cpp", **more: object) -> Profile:
    weights = None if id is None else Wanted(id, None, None, "", "gguf")
    return Profile("reason", backend, weights, **{"settings": SETTINGS, **more})  # type: ignore[arg-type]


REASONING = known(profile(REASON), LOCK)
DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "qwen2",
    "families": ["qwen2"],
    "parameter_size": "",
    "quantization_level": "Q4_K_M",
}


def test_profiles_are_the_tags():
    told = tags([REASONING])
    one = {"name": "reason", "model": "reason", "size": 19851335840, "digest": "a" * 64, "details": DETAILS}
    assert told == {"models": [one]}
    typed = ollama.ListResponse(**told).models[0]
    assert (typed.model, typed.size, typed.details.family) == ("reason", 19851335840, "qwen2")


def test_a_model_is_shown_by_what_its_header_and_its_profile_say():
    told = show(REASONING)
    assert told["model_info"] == {
        "general.architecture": "qwen2",
        "qwen2.context_length": 131072,
        "qwen2.block_count": 64,
        "qwen2.attention.head_count_kv": 8,
    }
    assert [line.split() for line in told["parameters"].splitlines()] == [
        ["num_ctx", "4096"],
        ["temperature", "0.7"],
        ["seed", "1"],
    ]
    assert told["details"] == DETAILS
    assert told["capabilities"] == ["completion", "tools"]
    assert ollama.ShowResponse(**told).modelinfo["qwen2.block_count"] == 64


def test_the_context_is_the_one_that_counts():
    assert known(profile(REASON, settings=Settings()), LOCK).ctx == 8192


def test_a_command_without_weights_has_a_name():
    command = known(profile(None, "command", settings=Settings()), LOCK)
    empty = dict.fromkeys(DETAILS, "") | {"families": []}
    assert tags([command]) == {"models": [{"name": "reason", "model": "reason", "digest": "", "details": empty}]}
    told = show(command)
    assert (told["parameters"], told["model_info"], told["capabilities"]) == ("", {}, ["completion"])
    assert ollama.ShowResponse(**told).details.family == ""
    assert ollama.ProcessResponse(**ps([Running(command)])).models[0].size is None


@pytest.mark.parametrize("id", [HELLO.id, "not@locked:"])
def test_what_the_lock_does_not_tell_is_not_invented(id):
    told = known(profile(id), LOCK)
    assert (told.family, told.quant, told.shape) == ("", "", {})
    assert told.size == (9 if id == HELLO.id else None)


def test_several_files_have_one_digest_that_tells_them_all():
    code = known(profile(CODE.id, "mlx"), LOCK)
    assert (code.size, code.format, code.capabilities) == (910, "safetensors", ("completion",))
    other = replace(CODE, files=(CODE.files[0], replace(CODE.files[1], sha256="d" * 64)))
    digests = {code.digest, known(profile(CODE.id, "mlx"), Lock({CODE.id: other})).digest}
    assert len(digests) == 2 and {len(digest) for digest in digests} == {64}


@pytest.mark.parametrize(
    ("more", "capabilities"),
    [
        ({}, ("completion", "vision", "tools")),
        ({"mmproj": None}, ("completion", "tools")),
        ({"backend": "mlx", "mmproj": None}, ("completion",)),
        ({"settings": Settings(embeddings=True)}, ("embedding",)),
        ({"settings": Settings(rerank=True)}, ()),
        ({"id": HELLO.id, "mmproj": Wanted("x", None, None, "", "gguf", "mmproj")}, ("completion", "vision", "tools")),
    ],
    ids=["projector", "no projector", "mlx", "embeddings", "rerank", "own projector"],
)
def test_capabilities_are_those_that_are_known(more, capabilities):
    projector = LockedFile("mmproj-F16.gguf", "mmproj", 5, "f" * 64)
    lock = Lock({REASON: Artifact(REASON, "gguf", None, {}, (WEIGHTS, projector)), HELLO.id: HELLO})
    assert known(profile(**{"id": REASON, **more}), lock).capabilities == capabilities


def test_what_runs_says_until_when():
    told = ps([Running(REASONING, 1_800_000_000.0), Running(REASONING)])
    typed = ollama.ProcessResponse(**told).models
    assert typed[0].expires_at == datetime.fromtimestamp(1_800_000_000, UTC)
    assert typed[1].expires_at.year == 2300
    assert (typed[0].context_length, typed[0].digest) == (4096, "a" * 64)
    assert "size_vram" not in told["models"][0]


def test_the_version_is_that_of_the_api():
    assert [int(part) for part in version()["version"].split(".")] >= [0, 6, 4]  # what editors ask for
