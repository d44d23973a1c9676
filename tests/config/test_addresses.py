"""Addresses of repositories as the Hub and other tools write them: refused, with what to write instead."""

from __future__ import annotations

import pytest

from lmctl.config import names
from lmctl.errors import LmctlError

HUB = "https://huggingface.co/owner/name"
ADDRESSES = {
    "owner/name:Q4_K_M": 'model = "owner/name", quant = "Q4_K_M"',
    "hf.co/owner/name:Q4_K_M": 'model = "owner/name", quant = "Q4_K_M"',
    "https://hf.co/owner/name": 'model = "owner/name"',
    "hf://owner/name": 'model = "owner/name"',
    "owner/name/": 'model = "owner/name"',
    HUB: 'model = "owner/name"',
    f"{HUB}/tree/main": 'model = "owner/name"',
    f"{HUB}/tree/v2/deep": 'model = "owner/name", revision = "v2"',
    f"{HUB}/blob/main/deep/w.gguf": 'model = "owner/name", file = "deep/w.gguf"',
    f"{HUB}/resolve/refs%2Fpr%2F1/w.gguf": 'model = "owner/name", file = "w.gguf", revision = "refs/pr/1"',
    "huggingface.co/owner/name?library=gguf#files": 'model = "owner/name"',
}
OTHERS = [
    "https://huggingface.co/datasets/owner/name",
    "https://example.org/owner/name",
    "hf.co/owner:Q4_K_M",
    "llama3:8b",
    "a/b/c",
    "a/b.git:Q4_K_M",
    "a/b:Q4:K",
    "",
]


def refusal(text: str) -> str:
    with pytest.raises(LmctlError) as caught:
        names.repo(text)
    assert caught.value.code == "E-REPO"
    return str(caught.value)


@pytest.mark.parametrize(("address", "keys"), ADDRESSES.items(), ids=ADDRESSES)
def test_an_address_is_told_as_keys(address, keys):
    assert refusal(address).endswith(f" is no repository — write {keys}")


@pytest.mark.parametrize("text", OTHERS)
def test_what_is_no_address_is_told_the_form(text):
    assert refusal(text).endswith(" is no repository — write owner/name as on the Hub")


@pytest.mark.parametrize(
    "address", ["https://me:hidden@huggingface.co/owner/name", f"{HUB}/resolve/main/w.gguf?token=hidden"]
)
def test_what_may_be_secret_in_an_address_is_not_shown(address):
    assert "hidden" not in refusal(address)


def test_a_repository_s_own_name_is_no_address():
    assert names.repo("owner/name") == "owner/name"
    assert names.is_address("hf.co/owner/name") and not names.is_address("owner/hf.co")
