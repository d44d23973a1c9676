"""Keys and backends whose feature comes later: accepted, named, and without effect."""

from __future__ import annotations

import pytest
from declarations import PRELUDE

from lmctl.errors import LmctlError


def test_every_key_whose_feature_comes_later_is_named(loaded):
    text = """
[defaults]
max_queue = 3
[gateway]
port = 9000
load_timeout = "1m"
engine_ports = "20000-20009"
[watch]
enabled = true
apply = "never"
debounce = "1s"
interval = "5m"
[usage]
keep = "30d"
compare = ["gpt-5"]
[engines."llama.cpp"]
version = "b6000"
[profiles.x]
model = "o/m"
start = "on-demand"
ttl = "5m"
[profiles.v]
model = "o/v"
backend = "vllm"
tensor_parallel = 2
[profiles.s]
source = "o/s"
convert = { to = "gguf", quant = "Q4_K_M" }
"""
    declaration = loaded(text)
    assert declaration.inert == (
        'engines."llama.cpp"',
        'profiles.v.backend = "vllm"',
        "profiles.s.source",
        "profiles.s.convert",
    )
    assert [(profile.name, profile.start) for profile in declaration.profiles] == [("x", "on-demand")]
    assert [wanted.id for wanted in declaration.variants] == ["o/m@main:"]


def test_what_nothing_reads_yet_is_named_like_a_key(place):
    place.write("localmodels.toml", PRELUDE + '[profiles."x.1"]\nsource = "o/m"\n')
    engines = '[engines]\nvllm = { binary = "v" }\n"llama.cpp" = { binary = "l" }\n'
    place.machine(f'[gateway]\napi_keys_file = "k"\n[watch]\nnotify = ["n"]\n[memory]\nreserve = 1\n{engines}')
    assert place.load().inert == (
        "engines.vllm (machine.toml)",
        'profiles."x.1".source',
    )


@pytest.mark.parametrize("backend", ["vllm", "ollama", "llama-cpp-python", "lmstudio"])
def test_backends_of_later_are_valid_names(loaded, backend):
    declaration = loaded(f'[profiles.x]\nmodel = "o/m"\nbackend = "{backend}"\nctx = 512\n')
    assert declaration.profiles == ()
    with pytest.raises(LmctlError):
        loaded(f'[profiles.x]\nmodel = "o/m"\nbackend = "{backend}"\nctx = 1\n')
