"""Which files of a repository of safetensors are needed, as MLX conversions have them."""

from __future__ import annotations

import pytest
from listings import MLX, REPO, chosen, listing, paths, refused, shards

from lmctl.spec import Wanted

LMSTUDIO = listing(
    ".gitattributes",
    "README.md",
    "added_tokens.json",
    "chat_template.jinja",
    "config.json",
    "generation_config.json",
    "merges.txt",
    *shards("model", 4, "safetensors"),
    "model.safetensors.index.json",
    "qwen3coder_tool_parser.py",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
LMSTUDIO_CHOSEN = [
    ("model-00001-of-00004.safetensors", "weights"),
    ("model-00002-of-00004.safetensors", "shard"),
    ("model-00003-of-00004.safetensors", "shard"),
    ("model-00004-of-00004.safetensors", "shard"),
    ("added_tokens.json", "tokenizer"),
    ("chat_template.jinja", "template"),
    ("config.json", "config"),
    ("generation_config.json", "config"),
    ("merges.txt", "tokenizer"),
    ("model.safetensors.index.json", "config"),
    ("special_tokens_map.json", "tokenizer"),
    ("tokenizer.json", "tokenizer"),
    ("tokenizer_config.json", "tokenizer"),
    ("vocab.json", "tokenizer"),
]


def test_a_repository_in_mlx_format_is_its_needed_files():
    assert chosen(LMSTUDIO, MLX) == LMSTUDIO_CHOSEN


def test_what_an_mlx_repository_holds_beside_stays_there():
    beside = ["original/consolidated.00.pth", "pytorch_model.bin", "m-Q4_K_M.gguf", "original/model.safetensors"]
    beside += ["consolidated.safetensors", "modeling.py", "tokenizer.py", "chat_template.py"]
    assert chosen(listing(*(file.path for file in LMSTUDIO.files), *beside), MLX) == LMSTUDIO_CHOSEN


def test_a_small_mlx_community_repository():
    repository = listing(
        "config.json", "model.safetensors", "tokenizer.model", "preprocessor_config.json", "a.tiktoken"
    )
    assert dict(chosen(repository, MLX)) == {
        "model.safetensors": "weights",
        "config.json": "config",
        "preprocessor_config.json": "config",
        "tokenizer.model": "tokenizer",
        "a.tiktoken": "tokenizer",
    }


def test_weights_under_another_name_are_weights():
    assert paths(listing("config.json", "weights.safetensors"), MLX) == ["weights.safetensors", "config.json"]


def test_an_adapter_is_its_tensors_and_their_configuration():
    wanted = Wanted(MLX.id, REPO, "main", "mlx", "mlx", "lora")
    assert chosen(listing("adapters.safetensors", "adapter_config.json", "README.md"), wanted) == [
        ("adapters.safetensors", "lora"),
        ("adapter_config.json", "config"),
    ]


@pytest.mark.parametrize(
    ("names", "code", "says"),
    [
        pytest.param(["config.json", "pytorch_model.bin"], "E-PICKLE", "pickles", id="I109-pickle"),
        pytest.param(["m-Q4_K_M.gguf"], "E-MATCH", 'backend = "llama.cpp"', id="gguf"),
        pytest.param(["README.md"], "E-MATCH", "no safetensors", id="nothing"),
        pytest.param(["model.safetensors"], "E-MATCH", "no config.json", id="no-config"),
        pytest.param(["adapters.safetensors", "adapter_config.json"], "E-MATCH", "no config.json", id="an-adapter"),
        pytest.param(
            ["config.json", *shards("model", 3, "safetensors")[1:]], "E-SHARD", "model-00001-of-00003", id="F49-shard"
        ),
    ],
)
def test_what_is_no_mlx_repository_is_refused(names: list[str], code: str, says: str):
    error = refused(listing(*names), MLX)
    assert error.code == code
    assert says in str(error)
