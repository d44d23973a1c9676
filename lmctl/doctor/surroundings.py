"""Variables of the environment that have an effect: names, harmless values, and never a secret."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from lmctl.doctor.finding import Finding, ok, warn
from lmctl.errors import escape
from lmctl.secret import LOOKS_SECRET

_TRUE = {"1", "ON", "YES", "TRUE"}  # what huggingface_hub takes for true
_OVERRIDE = re.compile(r"LMCTL_[A-Z0-9_]*__[A-Z0-9_]+")
_PROXY = re.compile(r"(?i)(https?|all)_proxy")
_NOT_READ = re.compile(r"HF_.+|HUGGING_FACE_.+|HUGGINGFACE_.+")
_NOT_PASSED = re.compile(r"LLAMA_ARG_.+|LLAMA_.+|VLLM_.+|MLX_.+|OLLAMA_HOST")
_PASSED = re.compile(r"CUDA_VISIBLE_DEVICES|HIP_.+|ROCR_.+|SSL_CERT_.+")
_SWITCHES = {  # anything but true is as if they were not set
    "HF_HUB_OFFLINE": "no connection but to this machine",
    "LMCTL_OFFLINE": "as --offline: no connection but to this machine",
    "LMCTL_DEBUG": "as --debug",
}
_PLACES = {
    "HF_HOME": "the folder of the Hugging Face cache and of partial files",
    "HF_HUB_CACHE": "the Hugging Face cache: weights lie there",
    "HF_TOKEN_PATH": "the file of the Hub's token",
    "LMCTL_CONFIG": "the declaration, unless -C or --config names one",
    "OLLAMA_MODELS": "where Ollama's weights are looked for",
    "XDG_CONFIG_HOME": "machine.toml lies in its folder lmctl",
    "XDG_STATE_HOME": "lmctl's state lies in its folder lmctl",
    "XDG_CACHE_HOME": "lmctl's cache lies in its folder lmctl",
}
_SHOWN = {
    "HF_ENDPOINT": "the Hub, unless machine.toml names one",
    "NO_COLOR": "no colour",
    "no_proxy": "hosts that are asked without the proxy",
}


def variables(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Yield a finding for every variable that lmctl reads or that people expect it to read, sorted by name."""
    for name in sorted(environ):
        found = _variable(name, environ[name])
        if found is not None:
            yield found


def _variable(name: str, value: str) -> Finding | None:
    check = f"${name}"
    if not value:
        return None
    if name in _SWITCHES:
        on = value.upper() in _TRUE if name.startswith("HF_") else value != "0"
        return ok(check, _SWITCHES[name] if on else "set, but not to true: no effect")
    if name in _PLACES:
        return _place(name, value)
    if name in _SHOWN or name.lower() == "no_proxy":
        return ok(check, f"{_harmless(value)}: {_SHOWN.get(name) or _SHOWN['no_proxy']}")
    if name == "HF_TOKEN":
        return ok(check, "set: the token for the Hub; it goes there alone")
    if _OVERRIDE.fullmatch(name):
        return ok(check, f"set: overrides {name.removeprefix('LMCTL_').replace('__', '.').lower()}")
    if _PROXY.fullmatch(name):
        return ok(check, f"{_address(value)}: the way to the Hub, never to this machine")
    if _PASSED.fullmatch(name):
        return ok(check, f"{_harmless(value)}: engines get it")
    if _NOT_READ.fullmatch(name):
        return ok(check, "set: lmctl does not read it, it fetches by itself")
    return ok(check, "set: engines do not get it") if _NOT_PASSED.fullmatch(name) else None


def _place(name: str, value: str) -> Finding:
    check, shown = f"${name}", _harmless(value)
    absolute = value.startswith(("/", "~", "$HOME"))
    if name.startswith("XDG_") and not value.startswith("/"):
        return warn(check, f"{shown} is relative: no effect", "write an absolute path, or unset it")
    if not absolute:
        return warn(check, f"{shown} is relative: it means another place in every folder", "write an absolute path")
    return ok(check, f"{shown}: {_PLACES[name]}")


def _harmless(value: str) -> str:
    """Return a value without what looks like a secret, or like the user of an address."""
    return escape(LOOKS_SECRET.sub("(hidden)", re.sub(r"//[^/@\s]*@", "//", value)), 120)


def _address(value: str) -> str:
    """Return scheme, host and port of a proxy, without user and password."""
    try:
        parts = urlsplit(value if "://" in value else f"http://{value}")
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "set"
    return escape(f"{parts.scheme}://{parts.hostname or ''}{port}", 120)
