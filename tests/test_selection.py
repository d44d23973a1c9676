"""Which files an artifact of GGUF consists of, on listings as the well-known repositories have them."""

from __future__ import annotations

import pytest
from listings import COMMIT, REPO, chosen, gguf, listing, paths, refused, shards

from lmctl.errors import LmctlError
from lmctl.host import Listing, RemoteFile
from lmctl.selection import select_tree

R1 = "DeepSeek-R1-Distill-Qwen-32B"
BARTOWSKI = listing(
    ".gitattributes",
    "README.md",
    *(f"{R1}-{tag}.gguf" for tag in ("IQ2_M", "IQ4_XS", "Q2_K", "Q2_K_L", "Q4_0", "Q4_K_M", "Q4_K_S", "Q6_K", "Q8_0")),
    *shards(f"{R1}-f32/{R1}-f32", 4),
    f"{R1}.imatrix",
)
QWEN3 = "Qwen3-Coder-30B-A3B-Instruct"
UNSLOTH = listing(
    "config.json",
    *shards(f"BF16/{QWEN3}-BF16", 2),
    *(f"{QWEN3}-{tag}.gguf" for tag in ("IQ4_NL", "Q2_K", "Q2_K_L", "Q4_K_M", "Q4_K_S", "Q8_0")),
    *(f"{QWEN3}-UD-{tag}.gguf" for tag in ("IQ2_M", "Q2_K_XL", "Q4_K_M", "Q4_K_XL", "Q8_K_XL")),
    "imatrix_unsloth.dat",
)
GLM = "GLM-4.7"
UNSLOTH_LARGE = listing(
    *shards(f"Q4_K_M/{GLM}-Q4_K_M", 5), *shards(f"UD-Q4_K_XL/{GLM}-UD-Q4_K_XL", 5), *shards(f"Q8_0/{GLM}-Q8_0", 8)
)
GEMMA = "gemma-3-27b-it"
UNSLOTH_VISION = listing(
    *(f"{GEMMA}-{tag}.gguf" for tag in ("BF16", "F16", "Q4_K_M", "Q8_0", "UD-Q4_K_XL")),
    "mmproj-BF16.gguf",
    "mmproj-F16.gguf",
    "mmproj-F32.gguf",
)
GEMMA4 = "gemma-4-26B-A4B-it"
DRAFTS = listing(
    f"{GEMMA4}-Q4_K_M.gguf",
    f"{GEMMA4}-Q8_0.gguf",
    f"MTP/{GEMMA4}-Q8_0-MTP.gguf",
    f"mtp-{GEMMA4}-Q4_K_M.gguf",
    f"eagle3-{GEMMA4}-Q4_K_M.gguf",
    f"dflash-{GEMMA4}-Q4_K_M.gguf",
    f"dspark-{GEMMA4}-Q4_K_M.gguf",
    f"{GEMMA4}-imatrix-Q4_K_M.gguf",
)
GGML_ORG = listing("gpt-oss-20b-mxfp4.gguf", "README.md")
GGML_VISION = listing("SmolVLM-256M-Q8_0.gguf", "SmolVLM-256M-f16.gguf", "mmproj-SmolVLM-256M-Q8_0.gguf")
THEBLOKE = listing(*(f"dolphin-2.1-mistral-7b.{tag}.gguf" for tag in ("Q2_K", "Q4_0", "Q4_K_M", "Q4_K_S", "Q8_0")))
FOLDERS = listing(*shards("Q4_K_M/model", 3), *shards("Q8_0/model", 5), "mmproj-f16.gguf", "Q8_0/mmproj-bf16.gguf")


@pytest.mark.parametrize(
    ("repository", "quant", "expected"),
    [
        pytest.param(BARTOWSKI, "Q4_K_M", [f"{R1}-Q4_K_M.gguf"], id="bartowski"),
        pytest.param(BARTOWSKI, "q4_k_m", [f"{R1}-Q4_K_M.gguf"], id="any-case"),
        pytest.param(BARTOWSKI, "Q2_K", [f"{R1}-Q2_K.gguf"], id="not-the-longer-tag"),
        pytest.param(BARTOWSKI, "f32", shards(f"{R1}-f32/{R1}-f32", 4), id="bartowski-folder"),
        pytest.param(BARTOWSKI, "", [f"{R1}-Q4_K_M.gguf"], id="no-tag-Q4_K_M"),
        pytest.param(UNSLOTH, "Q4_K_M", [f"{QWEN3}-Q4_K_M.gguf"], id="unsloth-plain-before-UD"),
        pytest.param(UNSLOTH, "UD-Q4_K_M", [f"{QWEN3}-UD-Q4_K_M.gguf"], id="unsloth-UD"),
        pytest.param(UNSLOTH, "Q4_K_XL", [f"{QWEN3}-UD-Q4_K_XL.gguf"], id="unsloth-XL"),
        pytest.param(UNSLOTH, "BF16", shards(f"BF16/{QWEN3}-BF16", 2), id="unsloth-folder"),
        pytest.param(UNSLOTH_LARGE, "UD-Q4_K_XL", shards(f"UD-Q4_K_XL/{GLM}-UD-Q4_K_XL", 5), id="unsloth-large"),
        pytest.param(UNSLOTH_LARGE, "", shards(f"Q4_K_M/{GLM}-Q4_K_M", 5), id="no-tag-shards"),
        pytest.param(UNSLOTH_VISION, "F16", [f"{GEMMA}-F16.gguf", "mmproj-F16.gguf"], id="F16-is-not-BF16"),
        pytest.param(UNSLOTH_VISION, "BF16", [f"{GEMMA}-BF16.gguf", "mmproj-F16.gguf"], id="projector-F16"),
        pytest.param(DRAFTS, "Q4_K_M", [f"{GEMMA4}-Q4_K_M.gguf"], id="never-a-companion"),
        pytest.param(DRAFTS, "Q8_0", [f"{GEMMA4}-Q8_0.gguf"], id="tag-at-the-end"),
        pytest.param(GGML_ORG, "mxfp4", ["gpt-oss-20b-mxfp4.gguf"], id="ggml-org"),
        pytest.param(GGML_ORG, "", ["gpt-oss-20b-mxfp4.gguf"], id="no-tag-first"),
        pytest.param(GGML_VISION, "", ["SmolVLM-256M-Q8_0.gguf", "mmproj-SmolVLM-256M-Q8_0.gguf"], id="no-tag-Q8_0"),
        pytest.param(THEBLOKE, "Q4_K_M", ["dolphin-2.1-mistral-7b.Q4_K_M.gguf"], id="tag-after-a-dot"),
        pytest.param(FOLDERS, "Q4_K_M", [*shards("Q4_K_M/model", 3), "mmproj-f16.gguf"], id="tag-in-the-folder-alone"),
        pytest.param(FOLDERS, "Q8_0", [*shards("Q8_0/model", 5), "Q8_0/mmproj-bf16.gguf"], id="projector-nearest"),
        pytest.param(listing("a-MTP-Q4_K_M.gguf"), "", ["a-MTP-Q4_K_M.gguf"], id="a-model-called-MTP"),
    ],
)
def test_a_quant_means_these_files(repository: Listing, quant: str, expected: list[str]):
    assert paths(repository, gguf(quant)) == expected


def test_the_order_of_the_listing_does_not_matter():
    turned = Listing(REPO, "main", COMMIT, UNSLOTH_VISION.files[::-1])
    assert chosen(turned, gguf("")) == chosen(UNSLOTH_VISION, gguf(""))


def test_the_first_shard_is_the_weights_and_the_projector_comes_last():
    assert [role for _, role in chosen(FOLDERS, gguf("Q4_K_M"))] == ["weights", "shard", "shard", "mmproj"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["mmproj-Q8_0.gguf", "mmproj-BF16.gguf", "mmproj-F32.gguf"], "mmproj-BF16.gguf"),
        (["mmproj-Q8_0.gguf", "mmproj-F32.gguf"], "mmproj-Q8_0.gguf"),
        (["mmproj-model-f16.gguf", "m.mmproj-bf16.gguf"], "mmproj-model-f16.gguf"),
        (["mmproj-b.gguf", "mmproj-a.gguf"], "mmproj-a.gguf"),
    ],
    ids=["BF16", "Q8_0", "lower-case", "by-name"],
)
def test_the_best_projector_is_locked_with_the_weights(names: list[str], expected: str):
    assert chosen(listing("m-Q4_K_M.gguf", *names), gguf("Q4_K_M"))[1:] == [(expected, "mmproj")]


def test_a_projector_in_another_folder_belongs_to_another_model():
    assert paths(listing("4b/m-Q4_K_M.gguf", "12b/mmproj-F16.gguf"), gguf("Q4_K_M")) == ["4b/m-Q4_K_M.gguf"]


@pytest.mark.parametrize("role", ["draft", "lora"])
def test_drafts_and_adapters_bring_no_projector(role: str):
    assert chosen(UNSLOTH_VISION, gguf("Q4_K_M", role)) == [(f"{GEMMA}-Q4_K_M.gguf", role)]


@pytest.mark.parametrize(
    ("name", "role", "expected"),
    [
        pytest.param(f"{GEMMA}-Q8_0.gguf", "weights", [f"{GEMMA}-Q8_0.gguf", "mmproj-F16.gguf"], id="exact"),
        pytest.param("*27b-it-Q8_0*", "weights", [f"{GEMMA}-Q8_0.gguf", "mmproj-F16.gguf"], id="glob"),
        pytest.param("mmproj-BF16.gguf", "mmproj", ["mmproj-BF16.gguf"], id="projector"),
        pytest.param("mmproj-F32*", "mmproj", ["mmproj-F32.gguf"], id="projector-glob"),
    ],
)
def test_a_named_file_is_that_file(name: str, role: str, expected: list[str]):
    assert paths(UNSLOTH_VISION, gguf(f"file={name}", role)) == expected


@pytest.mark.parametrize("name", ["Q8_0/GLM-4.7-Q8_0-00002-of-00008.gguf", "Q8_0/*", "*-Q8_0-00003-of-*"])
def test_F49_any_shard_brings_all_of_them_in_order(name: str):
    found = chosen(UNSLOTH_LARGE, gguf(f"file={name}"))
    assert [path for path, _ in found] == shards(f"Q8_0/{GLM}-Q8_0", 8)
    assert found[0][1] == "weights"


def test_F49_missing_shards_are_listed():
    held = [path for path in shards("m-Q4_K_M", 3) if "00002" not in path]
    error = refused(listing(*held), gguf("Q4_K_M"))
    assert error.code == "E-SHARD"
    assert "lacks 1 of 3 shards: m-Q4_K_M-00002-of-00003.gguf" in str(error)


def test_F49_of_many_missing_shards_five_are_listed():
    error = refused(listing("m-Q4_K_M-00002-of-99999.gguf"), gguf("Q4_K_M"))
    assert "and 99993 more" in str(error)


def test_F49_wrongly_numbered_shards_are_refused():
    assert refused(listing(*shards("m", 2), "m-00000-of-00002.gguf"), gguf("")).code == "E-SHARD"


def test_I44_a_glob_that_matches_nothing_says_what_is_there():
    error = refused(THEBLOKE, gguf("file=*.safetensors"))
    assert error.code == "E-MATCH"
    assert "matches no GGUF file" in str(error) and "dolphin-2.1-mistral-7b.Q2_K.gguf" in str(error)


def test_I44_a_glob_that_matches_900_models_lists_five():
    error = refused(listing(*(f"m-{number}.gguf" for number in range(900))), gguf("file=*"))
    assert error.code == "E-MATCH"
    assert "matches 900 models" in str(error) and str(error).count(".gguf") == 5 and "and 895 more" in str(error)


def test_a_misspelt_file_is_met_with_the_near_one():
    error = refused(THEBLOKE, gguf("file=dolphin-2.1-mistral-7b-Q4_K_M.gguf"))
    assert "did you mean dolphin-2.1-mistral-7b.Q4_K_M.gguf?" in str(error)


def test_a_quant_that_is_not_there_is_met_with_the_near_one():
    error = refused(listing("m-Q4_K_S.gguf", "m-Q8_0.gguf", "m-UD-Q2_K_XL.gguf"), gguf("Q4_K_M"))
    assert error.code == "E-MATCH"
    assert "has no quant 'Q4_K_M' — did you mean Q4_K_S? available: Q4_K_S, Q8_0, UD-Q2_K_XL" in str(error)


def test_a_quant_that_several_models_have_lists_them():
    error = refused(listing(*(f"m{number}-Q4_K_M.gguf" for number in range(7))), gguf("Q4_K_M"))
    assert error.code == "E-MATCH"
    assert "fits 7 models" in str(error) and str(error).count(".gguf") == 5 and "file =" in str(error)


def test_a_repository_of_safetensors_is_met_with_the_other_backend():
    assert 'backend = "mlx"' in str(refused(listing("model.safetensors", "config.json"), gguf("")))


@pytest.mark.parametrize("path", ["../x-Q4_K_M.gguf", "/x-Q4_K_M.gguf", "a//x-Q4_K_M.gguf", "a\0-Q4_K_M.gguf"])
def test_F44_a_name_that_leaves_the_repository_is_refused(path: str):
    assert refused(listing(path), gguf("Q4_K_M")).code == "E-HUB"


def test_F64_a_name_that_is_too_long_for_some_system_is_refused():
    assert refused(listing("x" * 250 + "-Q4_K_M.gguf"), gguf("Q4_K_M")).code == "E-HUB"


@pytest.mark.parametrize("pair", [("a.jinja", "A.jinja"), ("caf\u00e9.jinja", "cafe\u0301.jinja")])
def test_F64_files_that_are_one_on_some_system_are_refused(pair):
    files = [RemoteFile(path, 9, None, "b" * 40) for path in ("model.safetensors", "config.json", *pair)]
    with pytest.raises(LmctlError, match="are one file where case or normal form do not count") as caught:
        select_tree(files, "weights", "o/n")
    assert caught.value.code == "E-MATCH"


def test_an_empty_file_is_refused():
    assert refused(listing("m-Q4_K_M.gguf", size=0), gguf("Q4_K_M")).code == "E-GGUF"
