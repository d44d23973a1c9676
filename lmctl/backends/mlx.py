"""mlx_lm.server: Apple's engine for folders of safetensors; on Linux it runs on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lmctl.allowlist import Group, Rules, abbreviates, allow, by_flag, check_args, check_env, names
from lmctl.backend import COMMON_KEYS, Engine, Serve, folder_of, no_counters, words
from lmctl.errors import LmctlError, Problem, escape
from lmctl.spec import Format, Hardware, Probe, Profile

NAME = "mlx"
FORMAT: Format = "mlx"
KEYS = COMMON_KEYS | words("convert ctx parallel cache_ram batch lora draft chat_template sampling extra_args")
BINARIES: tuple[tuple[str, ...], ...] = (("mlx_lm.server",),)
# -P: the folder it starts in is a stranger's and must not lend it modules
MODULE: tuple[str, Engine] | None = ("mlx_lm", Engine(("{python}", "-P", "-m", "mlx_lm", "server")))
INSTALL = "install it beside lmctl: pip install 'lmctl[mlx]'"
METRICS: str | None = None
counters = no_counters

_SAMPLING = {
    "temperature": "--temp",
    "top_p": "--top-p",
    "top_k": "--top-k",
    "min_p": "--min-p",
    "max_tokens": "--max-tokens",
}
SAMPLING = frozenset(_SAMPLING)
ASKS_KEY = False
_TEMPLATE_LIMIT = 64 << 10  # bytes; it travels in argv, of which Linux passes on 128 KiB per item

RULES = Rules(
    groups=(
        Group("how prompts are batched", names("--prompt-concurrency", 1)),
        Group("how keys and values are quantized", names("--kv-bits --kv-group-size --quantized-kv-start", 1)),
        Group("arguments of the model's own chat template", names("--chat-template-args", 1)),
        Group("the template of the tokenizer's class, for models without", names("--use-default-chat-template", 0)),
        Group("threads of the libraries below it", env=("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM")),
        Group("how much goes to the GPU at once", env=("MLX_MAX_OPS_PER_BUFFER", "MLX_MAX_MB_PER_BUFFER")),
    ),
    managed=by_flag(
        {
            "": "-h --help --host --allowed-origins --log-level",
            "model": "--model",
            "port": "--port",
            "lora": "--adapter-path",
            "draft": "--draft-model",
            "draft.max": "--num-draft-tokens",
            "chat_template": "--chat-template",
            "parallel": "--decode-concurrency",
            "batch": "--prefill-step-size",
            "cache_ram": "--prompt-cache-bytes --prompt-cache-size",
            **{f"sampling.{key}": flag for key, flag in _SAMPLING.items()},
        }
    ),
)


def check(profile: Profile, allowed: frozenset[str], hardware: Hardware) -> tuple[Problem, ...]:
    """Return what mlx cannot do with this profile or on this machine, and flags or variables that are refused."""
    settings = profile.settings
    return (
        *_unable(profile, hardware),
        *_remote_code(settings.extra_args, "remote_code" in allowed),
        *check_args(settings.extra_args, RULES, "flags" in allowed),
        *check_env(settings.env, RULES.env, "env" in allowed),
    )


def _unable(profile: Profile, hardware: Hardware) -> Iterator[Problem]:
    if (hardware.os, hardware.arch) not in {("darwin", "arm64"), ("linux", "x86_64"), ("linux", "arm64")}:
        fix = 'use llama.cpp here: backend = "llama.cpp" in a `when` block'
        yield Problem("E-PLATFORM", f"backend: mlx does not run on {hardware.os} {hardware.arch}", fix)
    if profile.settings.chat_template is not None:
        yield Problem("E-REF", "chat_template: mlx knows no templates by name", "name a template file")
    if len(profile.lora) > 1:
        yield Problem("E-LIMIT", f"lora: mlx takes one adapter, {len(profile.lora)} are declared", "keep one")
    if any(lora.scale != 1.0 for lora in profile.lora):
        yield Problem("E-RANGE", "lora: mlx reads the scale from adapter_config.json", "remove `scale`")
    if profile.draft is not None and profile.draft.min:
        yield Problem("E-RANGE", "draft: mlx has no minimum of drafted tokens", "remove `min`")


def _remote_code(args: tuple[str, ...], trusted: bool) -> Iterator[Problem]:
    if not trusted and any(abbreviates(arg.partition("=")[0], "--trust-remote-code") for arg in args):
        what = "extra_args: --trust-remote-code runs programs from the model's folder"
        yield Problem("E-REMOTECODE", what, allow("remote_code"))


def command(serve: Serve) -> tuple[str, ...]:
    """Return the argv; raises E-ENGINE without weights, E-LIMIT or E-ENCODING for the template."""
    return (*serve.engine.argv, *_flags(serve), *serve.profile.settings.extra_args)


def _flags(serve: Serve) -> Iterator[str]:
    profile, settings = serve.profile, serve.profile.settings
    yield from ("--model", _model(serve), "--host", serve.host, "--port", str(serve.port))
    yield from ("--allowed-origins", "")  # one empty origin, which no browser sends; its own default is any
    yield from ("--decode-concurrency", str(settings.parallel), "--prefill-step-size", str(settings.batch))
    yield from ("--prompt-cache-bytes", str(settings.cache_ram))
    if settings.cache_ram == 0:  # the limit in bytes is enforced at the next request only: keep none in between
        yield from ("--prompt-cache-size", "0")
    for lora in profile.lora:
        yield from ("--adapter-path", str(folder_of(serve, lora.wanted)))
    if profile.draft is not None:
        yield from ("--draft-model", str(folder_of(serve, profile.draft.wanted)))
        yield from ("--num-draft-tokens", str(profile.draft.max))
    if serve.template is not None:  # it takes the template's text, not a path
        yield from ("--chat-template", _text(serve.template))
    for key, flag in _SAMPLING.items():
        if settings.sampling.get(key) is not None:
            yield from (flag, str(settings.sampling[key]))


def _text(template: bytes) -> str:
    if len(template) > _TEMPLATE_LIMIT:
        what = f"chat_template: mlx takes {_TEMPLATE_LIMIT} bytes, the file has {len(template)}"
        raise LmctlError("E-LIMIT", what, fix="shorten it")
    try:
        text = template.decode()
    except UnicodeDecodeError as error:
        what = f"chat_template: the file is not UTF-8 at byte {error.start}"
        raise LmctlError("E-ENCODING", what, fix="save it as UTF-8") from error
    if "\0" in text:
        raise LmctlError("E-ENCODING", "chat_template: the file holds a NUL", fix="save it as text")
    return text


def _model(serve: Serve) -> str:
    weights = serve.profile.weights
    if weights is None:
        raise LmctlError(
            "E-ENGINE", f"profile {escape(serve.profile.name)} has no model", fix="declare `model` or `path`"
        )
    return str(folder_of(serve, weights))


def environment(serve: Serve) -> Mapping[str, str]:
    """Keep the server off the Hub and away from other models: a request's `model` names whatever it likes to load.

    Its model list is a scan of the Hugging Face cache, which fails where there is none: it is given the model's folder.
    """
    return {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": _model(serve), "HF_HUB_DISABLE_TELEMETRY": "1"}


def probe(serve: Serve) -> Probe:
    """The server names its model by the folder behind all links: whoever probes follows those of `expect`."""
    return Probe(health="/health", models="/v1/models", expect=_model(serve))


def served(profile: Profile) -> str:
    """Its word for the model that it was started with; any other name in a request is a model to load."""
    return "default_model"
