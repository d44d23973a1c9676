"""Variables are named with their effect; a value is shown only where it cannot be a secret."""

from __future__ import annotations

import pytest

from lmctl.doctor.surroundings import variables

TOKEN = "hf_" + "x" * 34


def told(**environ: str) -> dict[str, tuple[str, str]]:
    return {found.check: (found.state, found.what) for found in variables(environ)}


def test_what_has_no_effect_on_lmctl_is_not_named():
    assert told(PATH="/bin", EDITOR="vi", LMCTL_CONFIG="", HF_HOME="") == {}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("HF_HUB_OFFLINE", "1", "no connection but to this machine"),
        ("HF_HUB_OFFLINE", "0", "no effect"),
        ("HF_ENDPOINT", "https://hub.example", "https://hub.example: the Hub"),
        ("HF_HUB_DISABLE_XET", "1", "lmctl does not read it"),
        ("HF_HOME", "/data/hf", "/data/hf: the folder of the Hugging Face cache"),
        ("HF_TOKEN", TOKEN, "set: the token"),
        ("HF_TOKEN_PATH", "/secrets/hf", "/secrets/hf: the file"),
        ("HUGGING_FACE_HUB_TOKEN", TOKEN, "lmctl does not read it"),
        ("LMCTL_DEFAULTS__CTX", "4096", "set: overrides defaults.ctx"),
        ("LMCTL_OFFLINE", "1", "as --offline"),
        ("https_proxy", "http://me:secret@proxy:3128/x", "http://proxy:3128: the way to the Hub"),
        ("ALL_PROXY", "proxy:1080", "http://proxy:1080"),
        ("NO_PROXY", "a.example,b.example", "a.example,b.example: hosts"),
        ("LLAMA_ARG_HOST", "0.0.0.0", "engines do not get it"),
        ("CUDA_VISIBLE_DEVICES", "0,1", "0,1: engines get it"),
        ("XDG_STATE_HOME", "/data/state", "lmctl's state"),
    ],
    ids=lambda value: f"F50-{value}" if str(value).isidentifier() and str(value).upper() == value else None,
)
def test_F50_F51_each_is_told_with_its_effect(name, value, words):
    ((check, (state, what)),) = told(**{name: value}).items()
    assert (check, state) == (f"${name}", "ok")
    assert words in what


@pytest.mark.parametrize("name", ["HF_HOME", "HF_HUB_CACHE", "XDG_STATE_HOME"])
def test_F50_a_relative_folder_is_a_warning(name):
    assert told(**{name: "here"})[f"${name}"][0] == "warn"


@pytest.mark.parametrize(
    "environ",
    [
        {"HF_TOKEN": TOKEN},
        {"HF_ENDPOINT": f"https://me:{TOKEN}@hub.example"},
        {"HF_ENDPOINT": f"https://hub.example/{TOKEN}"},
        {"http_proxy": f"http://me:{TOKEN}@proxy:1"},
        {"http_proxy": f"http://{TOKEN}:x@proxy:not-a-port"},
        {"no_proxy": f"//{TOKEN}@x"},
        {"LMCTL_PROFILES__X__ENV": TOKEN},
        {"HF_HOME": f"/data/{TOKEN}"},
    ],
    ids=lambda environ: "-".join(environ),
)
def test_F52_a_secret_is_never_shown(environ):
    assert TOKEN not in str(told(**environ))


def test_control_characters_are_escaped():
    assert "\x1b" not in str(told(HF_HOME="/data/\x1b[31m"))
