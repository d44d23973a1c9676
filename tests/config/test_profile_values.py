"""What the keys of a profile become: artifacts, bytes, seconds, templates, ports and platforms."""

from __future__ import annotations

import pytest

from lmctl.errors import LmctlError
from lmctl.spec import Draft, Group, Hardware, Lora, Wanted

MAC = Hardware("darwin", "arm64", "mini", 64 << 30, "metal", (48 << 30,))


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
