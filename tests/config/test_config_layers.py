"""Layers, weakest first: defaults, the declaration, profiles, blocks, the local file, the environment, --set."""

from __future__ import annotations

from pathlib import Path

import pytest
from declarations import LINUX, PRELUDE

from lmctl.errors import LmctlError
from lmctl.record import replace
from lmctl.spec import Draft, Group, Hardware, Lora, Wanted

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


def test_what_profiles_ask_for(loaded, place):
    text = """
[profiles.x]
model = "o/m"
file = "big.gguf"
mmproj = "mmproj-f16.gguf"
lora = [{ model = "o/l", file = "l.gguf", scale = 0.5 }, { path = "lora/b.gguf" }]
draft = { model = "o/small", quant = "Q8_0", max = 8, min = 1 }
"""
    profile = loaded(text).profiles[0]
    local = Wanted("path=lora/b.gguf", None, None, "", "local", "lora", place.folder / "lora/b.gguf")
    assert profile.artifacts == (
        Wanted("o/m@main:file=big.gguf", "o/m", "main", "file=big.gguf", "gguf"),
        Wanted("o/m@main:file=mmproj-f16.gguf", "o/m", "main", "file=mmproj-f16.gguf", "gguf", "mmproj"),
        Wanted("o/l@main:file=l.gguf", "o/l", "main", "file=l.gguf", "gguf", "lora"),
        local,
        Wanted("o/small@main:Q8_0", "o/small", "main", "Q8_0", "gguf", "draft"),
    )
    assert profile.lora[1] == Lora(local, 1.0)
    assert profile.draft == Draft(profile.artifacts[4], 8, 1)
    assert loaded(text).variants == profile.artifacts


def test_units_become_bytes_and_seconds(loaded):
    text = (
        '[profiles.x]\nmodel = "o/m"\ncache_ram = "1.5 GiB"\nttl = "250ms"\nstop_timeout = "2h"\nstart_timeout = "1m"\n'
    )
    profile = loaded(text + '[prune]\nafter = "1d"\nauto = false\n')
    assert (profile.prune_after, profile.prune_auto) == (86400.0, False)
    one = profile.profiles[0]
    assert (one.settings.cache_ram, one.ttl, one.stop_timeout, one.start_timeout) == (3 << 29, 0.25, 7200.0, 60.0)


def test_auto_is_left_open(loaded):
    text = (
        '[profiles.x]\nmodel = "o/m"\nthreads = "auto"\nflash_attn = "auto"\nmmproj = false\nstart_timeout = "auto"\n'
    )
    one = loaded(text).profiles[0]
    assert (one.settings.threads, one.settings.flash_attn, one.mmproj, one.start_timeout) == (None, None, None, None)


@pytest.mark.parametrize(
    ("template", "name", "file"),
    [("chatml", "chatml", None), ("t/x.txt", None, "t/x.txt"), ("x.jinja", None, "x.jinja")],
)
def test_a_template_is_a_name_or_a_file(loaded, place, template, name, file):
    settings = loaded(f'[profiles.x]\nmodel = "o/m"\nchat_template = "{template}"\n').profiles[0].settings
    assert settings.chat_template == name
    assert settings.chat_template_file == (place.folder / file if file else None)


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


def test_profiles_on_one_port_form_a_group(loaded):
    text = "".join(f'[profiles.{n}]\nmodel = "o/m"\nport = 9001\nstart = "manual"\n' for n in "abc")
    text += '[groups.pair]\nmembers = ["a", "b"]\nexclusive = false\n'
    assert loaded(text).groups == (Group("pair", ("a", "b"), False), Group("port 9001", ("a", "b", "c")))


def test_one_always_among_profiles_on_a_port_is_fine(loaded):
    text = '[profiles.a]\nmodel = "o/m"\nport = 9001\n[profiles.b]\nmodel = "o/m"\nport = 9001\nstart = "manual"\n'
    assert len(loaded(text).profiles) == 2


def test_a_port_of_the_gateway_is_free_when_there_is_none(loaded):
    assert loaded('[gateway]\nenabled = false\n[profiles.a]\nmodel = "o/m"\nport = 8080\n').profiles[0].port == 8080


def test_declared_engine_ports(loaded):
    assert loaded('[gateway]\nengine_ports = "20000-20009"\n[profiles.a]\nmodel = "o/m"\n').engine_ports == (
        20000,
        20009,
    )


def test_every_key_whose_feature_comes_later_is_named(loaded):
    text = """
[defaults]
max_queue = 3
[gateway]
port = 9000
engine_ports = "20000-20009"
[watch]
enabled = true
[cloud.big]
base_url = "https://api.example/v1"
model = "big"
[engines."llama.cpp"]
version = "b6000"
[profiles.x]
model = "o/m"
start = "on-demand"
ttl = "5m"
fallback = ["big"]
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
        "gateway.port",
        "watch.enabled",
        "cloud.big",
        'engines."llama.cpp"',
        "defaults.max_queue",
        "profiles.x.ttl",
        "profiles.x.fallback",
        'profiles.x.start = "on-demand"',
        'profiles.v.backend = "vllm"',
        "profiles.s.source",
        "profiles.s.convert",
    )
    assert [(profile.name, profile.start) for profile in declaration.profiles] == [("x", "manual")]
    assert [wanted.id for wanted in declaration.variants] == ["o/m@main:"]


def test_what_nothing_reads_yet_is_named_like_a_key(place):
    place.write("localmodels.toml", PRELUDE + '[profiles."x.1"]\nmodel = "o/m"\naliases = ["gpt"]\n')
    engines = '[engines]\nvllm = { binary = "v" }\n"llama.cpp" = { binary = "l" }\n'
    place.machine(f'[gateway]\napi_keys_file = "k"\n[watch]\nnotify = ["n"]\n[memory]\nreserve = 1\n{engines}')
    assert place.load().inert == (
        "gateway.api_keys_file (machine.toml)",
        "watch.notify (machine.toml)",
        "engines.vllm (machine.toml)",
        'profiles."x.1".aliases',
    )


@pytest.mark.parametrize("backend", ["vllm", "ollama", "llama-cpp-python", "lmstudio"])
def test_backends_of_later_are_valid_names(loaded, backend):
    declaration = loaded(f'[profiles.x]\nmodel = "o/m"\nbackend = "{backend}"\nctx = 512\n')
    assert declaration.profiles == ()
    with pytest.raises(LmctlError):
        loaded(f'[profiles.x]\nmodel = "o/m"\nbackend = "{backend}"\nctx = 1\n')


PLATFORMS = {
    "I61-mlx-on-intel-macs": ("mlx", Hardware("darwin", "x86_64", "old", 8 << 30)),
    "I61-mlx-on-windows": ("mlx", Hardware("windows", "x86_64", "pc", 8 << 30)),
    "I61-vllm-on-macs": ("vllm", MAC),
}


@pytest.mark.parametrize(("backend", "machine"), PLATFORMS.values(), ids=PLATFORMS)
def test_backends_that_do_not_run_here(loaded, backend, machine):
    with pytest.raises(LmctlError, match=r"localmodels.toml:5:1: backend") as caught:
        loaded(f'[profiles.x]\nmodel = "o/m"\nbackend = "{backend}"\n', hardware=machine)
    assert caught.value.code == "E-PLATFORM"


def test_I58_a_secret_in_a_field_that_names_none_is_a_warning(loaded):
    declaration = loaded('[profiles.x]\nmodel = "o/m"\ndescription = "sk-abcdefghijklmnopqrstuvwxyz"\n')
    assert [(w.code, str(w.place)) for w in declaration.warnings] == [("W-SECRET", "localmodels.toml:5:1")]
    assert "abcdefgh" not in str(declaration.warnings[0])


def test_machine_toml(place):
    place.write("localmodels.toml", PRELUDE + '[profiles.x]\nmodel = "o/m"\n')
    place.machine("""
bind = "10.0.0.7"
[hub]
endpoint = "http://127.0.0.1:9000"
token_file = "~/token"
cache = "hub"
[engines."llama.cpp"]
binary = "/opt/llama-server"
[engines.mlx]
binary = "mlx_lm.server"
[allow]
team = ["flags", "env"]
[weights]
roots = ["/models", "~/w"]
[memory]
reserve = "1 GiB"
gpu = "24 GiB"
[prune]
max_bytes = "1 TB"
[download]
connections = 8
files = 2
rate = "10 MB"
[logs]
max_bytes = 1000
""")
    machine = place.load().machine
    assert (machine.bind, machine.endpoint, machine.token_file) == (
        "10.0.0.7",
        "http://127.0.0.1:9000",
        place.home / "token",
    )
    assert machine.hub_cache == place.folders.config / "hub"
    assert machine.binaries == {"llama.cpp": "/opt/llama-server", "mlx": "mlx_lm.server"}
    assert machine.allow == {"team": ("flags", "env")}
    assert machine.weight_roots == (Path("/models"), place.home / "w")
    assert (machine.memory_reserve, machine.memory_gpu, machine.prune_max_bytes) == (1 << 30, 24 << 30, 10**12)
    assert (machine.connections, machine.files, machine.rate, machine.log_max_bytes) == (8, 2, 10**7, 1000)


@pytest.mark.parametrize(
    "endpoint", ["http://hub.example", "ftp://x", "https://u:secret@x", "x", "http://localhost:1", ""]
)
def test_endpoints_that_a_token_must_not_reach(place, endpoint):
    place.write("localmodels.toml", PRELUDE + '[profiles.x]\nmodel = "o/m"\n')
    place.machine(f'[hub]\nendpoint = "{endpoint}"\n')
    with pytest.raises(LmctlError, match=r"machine.toml:2:1: hub.endpoint") as caught:
        place.load()
    assert caught.value.code == "E-RANGE"
    assert "secret" not in str(caught.value)


COMMAND = '[profiles.x]\nbackend = "command"\ncommand = ["serve", "--port", "{port}"]\n'


@pytest.mark.parametrize("where", ["localmodels.toml", "localmodels.local.toml"])
def test_I79_a_program_needs_trust(place, where):
    place.write("localmodels.toml", PRELUDE + '[profiles.y]\nmodel = "o/m"\n')
    place.write(where, (PRELUDE if where == "localmodels.toml" else "") + COMMAND)
    with pytest.raises(LmctlError, match=f"run: lmctl trust {place.folder}/localmodels.toml") as caught:
        place.load()
    assert (caught.value.code, caught.value.exit_code) == ("E-TRUST", 4)
    place.machine('[allow]\nother = ["command"]\n')
    with pytest.raises(LmctlError):
        place.load()
    place.machine('[allow]\nteam = ["command"]\n')
    program = next(profile for profile in place.load().profiles if profile.backend == "command")
    assert (program.command, program.weights, program.health) == (("serve", "--port", "{port}"), None, "/health")


def test_flags_and_variables_that_the_machine_allows(loaded, place):
    text = '[profiles.x]\nmodel = "o/m"\nextra_args = ["--slot-save-path", "/tmp"]\nenv = { MY_OWN = "1" }\n'
    with pytest.raises(LmctlError) as caught:
        loaded(text)
    assert {problem.code for problem in caught.value.problems} >= {"E-UNSAFE", "E-ENV"}
    place.machine('[allow]\nteam = ["flags", "env"]\n')
    assert loaded(text).profiles[0].settings.env == {"MY_OWN": "1"}
