"""Layers, weakest first: defaults, the declaration, profiles, blocks, the local file, the environment, --set."""

from __future__ import annotations

from pathlib import Path

import pytest
from declarations import LINUX, PRELUDE

from lmctl.errors import LmctlError
from lmctl.record import replace
from lmctl.spec import Hardware

MAC = Hardware("darwin", "arm64", "mini", 64 << 30, "metal", (48 << 30,))
GPU = Hardware("linux", "x86_64", "gpu-01.example", 128 << 30, "cuda", (24 << 30, 24 << 30))


def ctx(declaration):
    return declaration.profiles[0].settings.ctx


def test_each_layer_beats_the_one_before(place):
    main = PRELUDE + 'include = ["p/*.toml"]\n'
    steps = [
        (lambda: place.write("p/x.toml", 'model = "o/m"\n'), None),
        (lambda: place.write("localmodels.toml", main + "[defaults]\nctx = 1000\n"), 1000),
        (lambda: place.write("localmodels.local.toml", "[defaults]\nctx = 1500\n"), 1500),
        (lambda: place.write("p/x.toml", 'model = "o/m"\nctx = 2000\n'), 2000),
        (lambda: place.write("p/x.toml", 'model = "o/m"\nctx = 2000\n[[when]]\nos = "linux"\nctx = 3000\n'), 3000),
        (lambda: place.write("localmodels.local.toml", "[profiles.x]\nctx = 4000\n"), 4000),
    ]
    place.write("localmodels.toml", main)
    for write, expected in steps:
        write()
        assert ctx(place.load()) == expected
    variable = {"LMCTL_PROFILES__X__CTX": "5000"}
    assert ctx(place.load(environ=variable)) == 5000
    assert ctx(place.load("profiles.x.ctx=6000", environ=variable)) == 6000
    assert ctx(place.load("profiles.x.ctx=6000", "profiles.x.ctx=7000")) == 7000


def test_tables_merge_and_arrays_replace(loaded):
    text = """
[profiles.x]
model = "o/m"
tasks = ["code", "chat"]
sampling = { seed = 1, top_k = 3 }
[[profiles.x.when]]
tasks = ["vision"]
sampling = { seed = 2 }
"""
    profile = loaded(text).profiles[0]
    assert profile.tasks == ("vision",)
    assert profile.settings.sampling == {"seed": 2, "top_k": 3}


def test_blocks_apply_in_the_order_of_the_file(loaded):
    text = '[profiles.x]\nmodel = "o/m"\n'
    text += "".join(f"[[profiles.x.when]]\nmemory = '>= {n} GiB'\nctx = {n * 1000}\n" for n in (1, 8, 4, 32))
    assert ctx(loaded(text)) == 4000


BLOCKS = {
    "os": ('os = "darwin"', MAC),
    "os-list": ('os = ["darwin", "linux"]', GPU),
    "arch": ('arch = "arm64"', MAC),
    "accelerator": ('accelerator = ["cuda", "rocm"]', GPU),
    "host": ('host = "GPU-*"', GPU),
    "host-list": ('host = ["a", "gpu-0[0-3]*"]', GPU),
    "memory": ('memory = "> 100 GiB"', GPU),
    "gpu-memory-of-all": ('gpu_memory = ">= 48 GiB"', GPU),
    "all-conditions": ('os = "linux"\narch = "x86_64"\ngpu_memory = "== 48 GiB"', GPU),
}


@pytest.mark.parametrize(("condition", "machine"), BLOCKS.values(), ids=BLOCKS)
def test_a_block_holds_where_all_of_its_conditions_do(loaded, condition, machine):
    text = f'[profiles.x]\nmodel = "o/m"\n[[profiles.x.when]]\n{condition}\nctx = 3000\n'
    assert ctx(loaded(text, hardware=machine)) == 3000
    other = replace(LINUX, os="linux", arch="x86_64", host="b") if machine is not MAC else LINUX
    assert ctx(loaded(text, hardware=other)) == (3000 if condition.startswith('os = ["') else None)


PLAYBOOK = """
[defaults]
gpu_layers = 12
[profiles.reason]
model = "o/m-GGUF"
quant = "Q4_K_M"
revision = "v1"
gpu_layers = 99
lora = [{ path = "a.gguf" }]
port = 8084
[[profiles.reason.when]]
os = "darwin"
backend = "mlx"
model = "o/m-4bit"
"""


def test_a_block_that_names_other_weights_and_backend_leaves_what_belongs_to_the_first(loaded):
    linux, mac = loaded(PLAYBOOK).profiles[0], loaded(PLAYBOOK, hardware=MAC).profiles[0]
    assert (linux.weights.id, linux.settings.gpu_layers, len(linux.lora)) == ("o/m-GGUF@v1:Q4_K_M", 99, 1)
    assert (mac.weights.id, mac.weights.format, mac.lora) == ("o/m-4bit@main:mlx", "mlx", ())
    assert mac.settings.gpu_layers is None
    assert mac.port == 8084


def test_a_default_that_the_backend_lacks_is_skipped(loaded):
    text = (
        '[defaults]\ngpu_layers = 3\nsampling = { seed = 1, top_k = 2 }\n[profiles.x]\nmodel = "o/m"\nbackend = "mlx"\n'
    )
    settings = loaded(text).profiles[0].settings
    assert (settings.gpu_layers, dict(settings.sampling)) == (None, {"top_k": 2})


def test_the_local_file_adds_profiles_and_may_name_any_path(place):
    place.write("localmodels.toml", PRELUDE + '[profiles.x]\nmodel = "o/m"\n')
    place.write("localmodels.local.toml", '[profiles.y]\npath = "/models/y.gguf"\n[profiles.z]\npath = "~/z.gguf"\n')
    declaration = place.load()
    paths = [profile.weights.path for profile in declaration.profiles[1:]]
    assert paths == [Path("/models/y.gguf"), place.home / "z.gguf"]
    assert [wanted.id for wanted in declaration.variants] == ["o/m@main:"]
    assert [wanted.path for wanted in declaration.local_variants] == paths


def test_what_stronger_layers_ask_for_is_kept_out_of_the_committed_lock(loaded):
    text = '[profiles.x]\nmodel = "o/m"\nquant = "Q4"\n'
    declaration = loaded(text, "profiles.x.quant=Q8")
    assert declaration.profiles[0].weights.id == "o/m@main:Q8"
    assert [wanted.id for wanted in declaration.variants] == ["o/m@main:Q4"]
    assert [wanted.id for wanted in declaration.local_variants] == ["o/m@main:Q8"]


VALUES = {
    "number": ("ctx=4096", "ctx", 4096),
    "text-without-quotes": ("quant=Q4_K_M", "quant", "Q4_K_M"),
    "text-with-quotes": ('quant="Q4"', "quant", "Q4"),
    "text-that-looks-like-two-lines": ("description=1\nversion = 2", "description", "1\nversion = 2"),
    "array": ('tasks=["a"]', "tasks", ["a"]),
    "table": ("sampling={ seed = 3 }", "sampling", {"seed": 3}),
    "one-key-of-a-table": ("sampling.seed=3", "sampling", {"seed": 3}),
}


@pytest.mark.parametrize(("said", "key", "value"), VALUES.values(), ids=VALUES)
def test_values_of_the_command_line(loaded, said, key, value):
    declaration = loaded('[profiles.x]\nmodel = "o/m"\n', f"profiles.x.{said}")
    assert declaration.profiles[0].changed[key] == value


def test_variables_name_profiles_as_a_shell_can(loaded):
    text = '[profiles."My-code.v2"]\nmodel = "o/m"\n'
    assert ctx(loaded(text, environ={"LMCTL_PROFILES__MY_CODE_V2__CTX": "512"})) == 512
    assert ctx(loaded(text, environ={"LMCTL_DEFAULTS__CTX": "300", "LMCTL_DEBUG": "1", "LMCTL_HASH": "x"})) == 300


@pytest.mark.parametrize(
    ("sets", "environ", "code", "says"),
    [
        (("profiles.x.ctxx=1",), {}, "E-KEY", "--set profiles.x.ctxx: profiles.x.ctxx: unknown key"),
        (("ctx",), {}, "E-USAGE", "ctx has no value"),
        (("a b=1",), {}, "E-KEY", "names no key"),
        (("hub.endpoint=https://x",), {}, "E-MACHINE", "belongs in machine.toml"),
        (("bind=0.0.0.0",), {}, "E-BIND", "only loopback"),
        (("name=other",), {}, "E-KEY", "belongs in localmodels.toml"),
        (("x=" + "[" * 100,), {}, "E-LIMIT", "nesting"),
        ((), {"LMCTL_HUB__ENDPOINT": "https://x"}, "E-MACHINE", "LMCTL_HUB__ENDPOINT"),
        ((), {"LMCTL_GATEWAYY__PORT": "1"}, "E-KEY", "did you mean `gateway`?"),
        ((), {"LMCTL_GATEWAY__": "1"}, "E-KEY", "LMCTL_GATEWAY__"),
    ],
)
def test_what_command_line_and_environment_may_not_say(loaded, sets, environ, code, says):
    with pytest.raises(LmctlError) as caught:
        loaded('[profiles.x]\nmodel = "o/m"\n', *sets, environ=environ)
    assert caught.value.code == code
    assert says in str(caught.value)
