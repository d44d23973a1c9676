"""llama.cpp's server: a binary of this machine, else the same server inside lmctl's own Python (xllamacpp)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from lmctl.allowlist import Group, Rules, by_flag, check_args, check_env, names
from lmctl.backend import COMMON_KEYS, Counters, Engine, Serve, by_name, context, file_of, no_environment, words
from lmctl.errors import LmctlError, Problem, escape
from lmctl.spec import Format, Hardware, Probe, Profile, Role, Wanted

_SAMPLING = {
    "temperature": "--temp",
    "top_p": "--top-p",
    "top_k": "--top-k",
    "min_p": "--min-p",
    "repeat_penalty": "--repeat-penalty",
    "presence_penalty": "--presence-penalty",
    "frequency_penalty": "--frequency-penalty",
    "seed": "--seed",
    "max_tokens": "--predict",
}

NAME = "llama.cpp"
FORMAT: Format = "gguf"
KEYS = COMMON_KEYS | words(
    "quant file convert ctx parallel gpu_layers threads flash_attn cache_type_k cache_type_v cache_ram batch ubatch"
    " load_mode cpu_moe devices mmproj lora draft chat_template embeddings rerank pooling sampling extra_args"
)
BINARIES: tuple[tuple[str, ...], ...] = (("llama-server",), ("llama", "serve"))
# -P: the folder it starts in is a stranger's and must not lend it modules
MODULE: tuple[str, Engine] | None = ("xllamacpp", Engine(("{python}", "-P", "-m", "lmctl.embedded"), embedded=True))
INSTALL = "install llama.cpp (brew install llama.cpp, or a release of it), or pip install 'lmctl[engine]'"
SAMPLING = frozenset(_SAMPLING)
ASKS_KEY = True
environment = no_environment
METRICS: str | None = "/metrics"
served = by_name

_COUNTER = re.compile(
    r"llamacpp:(prompt_tokens|prompt_tokens_cached|tokens_predicted|tokens_predicted_seconds)_total ([0-9.e+]{1,32})"
)

_GROUPS = (
    Group(
        "threads and their placement: speed alone",
        names("--threads-batch --threads-http --cpu-mask --cpu-range --cpu-strict --prio --poll --numa", 1),
    ),
    Group(
        "how layers and tensors spread over the devices of this machine: memory and speed",
        names("--main-gpu --split-mode --tensor-split --override-tensor --fit --fit-target --fit-ctx --n-cpu-ffn", 1)
        | names("--cpu-moe --kv-offload --no-kv-offload --op-offload --no-op-offload --repack --no-repack --no-host", 0)
        | names("--no-mmproj-offload --mmproj-offload", 0),
    ),
    Group(
        "how the context is stretched and its cache reused: memory, speed and quality",
        names("--rope-scaling --rope-scale --rope-freq-base --rope-freq-scale --keep --cache-reuse", 1)
        | names("--yarn-orig-ctx --yarn-ext-factor --yarn-attn-factor --yarn-beta-slow --yarn-beta-fast", 1)
        | names("--slot-prompt-similarity --ctx-checkpoints --checkpoint-min-step", 1)
        | names("--swa-full --context-shift --no-context-shift --cache-prompt --no-cache-prompt", 0)
        | names("--cache-idle-slots --no-cache-idle-slots --cont-batching --no-cont-batching", 0),
    ),
    Group(
        "how an answer is sampled: defaults that a request overrides",
        names("--samplers --sampler-seq --sampling-seq --typical --typical-p --top-nsigma --top-n-sigma", 1)
        | names("--repeat-last-n --xtc-probability --xtc-threshold --dynatemp-range --dynatemp-exp", 1)
        | names("--dry-multiplier --dry-base --dry-allowed-length --dry-penalty-last-n --dry-sequence-breaker", 1)
        | names("--mirostat --mirostat-lr --mirostat-ent --adaptive-target --adaptive-decay --logit-bias", 1)
        | names("--ignore-eos --backend-sampling", 0),
    ),
    Group(
        "how chat and reasoning are formatted; templates run in the engine's own sandbox",
        names("--reasoning-format --reasoning --reasoning-budget --reasoning-effort --chat-template-kwargs", 1)
        | names("--jinja --no-jinja --prefill-assistant --no-prefill-assistant --skip-chat-parsing", 0)
        | names("--no-skip-chat-parsing --special --spm-infill --reasoning-preserve --no-reasoning-preserve", 0),
    ),
    Group(
        "how images and embeddings are read",
        names("--image-min-tokens --image-max-tokens --embd-normalize --mtmd-batch-max-tokens", 1),
    ),
    Group(
        "how a draft is made; the model itself is declared as `draft`",
        names("--spec-type --spec-draft-p-min --spec-draft-p-split --spec-draft-ngl --spec-draft-n-cpu-moe", 1)
        | names("--spec-draft-type-k --spec-draft-type-v --spec-draft-device --spec-draft-threads", 1)
        | names("--spec-draft-cpu-moe", 0),
    ),
    Group(
        "how it starts, waits and logs, without the text of requests",
        names("--timeout --sse-ping-interval --log-colors", 1)
        | names("--warmup --no-warmup --check-tensors --no-slots --perf --no-perf", 0)
        | names("--log-prefix --no-log-prefix --log-timestamps --no-log-timestamps --log-jsonl --no-log-jsonl", 0),
    ),
    Group(
        "which devices the drivers show, and how they use memory",
        env=(
            *("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"),
            *("HSA_OVERRIDE_GFX_VERSION", "GGML_VK_VISIBLE_DEVICES", "GGML_CUDA_ENABLE_UNIFIED_MEMORY"),
            *("GGML_CUDA_FORCE_MMQ", "GGML_CUDA_FORCE_CUBLAS", "CUDA_SCALE_LAUNCH_QUEUES", "OMP_NUM_THREADS"),
        ),
    ),
)

# Every spelling of what lmctl writes itself, by the key to declare instead. Opposites are here too: written twice, the
# last one wins.
_MANAGED = {
    "model": "-m --model",
    "quant": "-hf -hfr --hf-repo -hff --hf-file -mu --model-url -dr --docker-repo",
    "port": "--port",
    "": "-h --help --usage --version --host --reuse-port --offline --metrics --cors-origins --cors-methods"
    " --cors-headers --cors-credentials --no-cors-credentials -a --alias --tags --api-key-file --ssl-key-file"
    " --ssl-cert-file --props"
    " -kvu --kv-unified -no-kvu --no-kv-unified --kv-unified-per-slot --completion-bash --list-devices --cache-list",
    "ctx": "-c --ctx-size",
    "parallel": "-np --parallel",
    "gpu_layers": "-ngl --gpu-layers --n-gpu-layers",
    "threads": "-t --threads",
    "flash_attn": "-fa --flash-attn",
    "cache_type_k": "-ctk --cache-type-k",
    "cache_type_v": "-ctv --cache-type-v",
    "cache_ram": "-cram --cache-ram",
    "batch": "-b --batch-size",
    "ubatch": "-ub --ubatch-size",
    "load_mode": "-lm --load-mode",
    "cpu_moe": "-ncmoe --n-cpu-moe",
    "devices": "-dev --device",
    "mmproj": "-mm --mmproj -mmu --mmproj-url --mmproj-auto --no-mmproj --no-mmproj-auto",
    "lora": "--lora --lora-scaled --lora-init-without-apply",
    "draft": "-md --model-draft --spec-draft-model --spec-draft-hf -hfd -hfrd --hf-repo-draft",
    "draft.max": "--draft --draft-n --draft-max --spec-draft-n-max",
    "draft.min": "--draft-min --draft-n-min --spec-draft-n-min",
    "chat_template": "--chat-template --chat-template-file",
    "embeddings": "--embedding --embeddings",
    "rerank": "--rerank --reranking",
    "pooling": "--pooling",
    "sampling.temperature": "--temp --temperature",
    "sampling.top_p": "--top-p",
    "sampling.top_k": "--top-k",
    "sampling.min_p": "--min-p",
    "sampling.repeat_penalty": "--repeat-penalty",
    "sampling.presence_penalty": "--presence-penalty",
    "sampling.frequency_penalty": "--frequency-penalty",
    "sampling.seed": "-s --seed",
    "sampling.max_tokens": "-n --predict --n-predict",
}

RULES = Rules(
    groups=_GROUPS,
    managed=by_flag(_MANAGED),
    secret=frozenset({"--api-key", "--hf-token", "-hft"}),
)

_MIB = 1 << 20


def check(profile: Profile, allowed: frozenset[str], hardware: Hardware) -> tuple[Problem, ...]:
    """Return the flags and variables that are refused; every machine can run llama.cpp."""
    return (
        *check_args(profile.settings.extra_args, RULES, "flags" in allowed),
        *check_env(profile.settings.env, RULES.env, "env" in allowed),
    )


def command(serve: Serve) -> tuple[str, ...]:
    """Return the argv; raises E-ENGINE for what needs a binary or a missing file, E-PATH, E-MATCH for a wrong one."""
    extra = serve.profile.settings.extra_args
    for key, declared in (("extra_args", extra), ("devices", serve.profile.settings.devices)):
        if declared and serve.engine.embedded:
            what = f"profile {escape(serve.profile.name)} declares {key}, which the embedded engine does not take"
            raise LmctlError("E-ENGINE", what, fix="install a binary: brew install llama.cpp, or a release of it")
    parts = (_served(serve), _resources(serve), _companions(serve), _answers(serve))
    return (*serve.engine.argv, *(arg for part in parts for arg in part), *extra)


def probe(serve: Serve) -> Probe:
    """The server names its model by the alias that it was given."""
    return Probe(health="/health", models="/v1/models", expect=serve.profile.name, key_file=serve.key_file)


def counters(text: str) -> Counters | None:
    """Return the counters of an answer of /metrics; the engine counts cached tokens of prompts beside the others."""
    told = {found[1]: float(found[2]) for line in text.splitlines() if (found := _COUNTER.fullmatch(line))}
    if not {"prompt_tokens", "tokens_predicted"} <= told.keys():
        return None
    cached = int(told.get("prompt_tokens_cached", 0))
    seconds = told.get("tokens_predicted_seconds", 0.0)
    return Counters(int(told["prompt_tokens"]) + cached, cached, int(told["tokens_predicted"]), round(seconds * 1e6))


def _served(serve: Serve) -> Iterator[str]:
    if serve.profile.weights is None:
        what = f"profile {escape(serve.profile.name)} has no model"
        raise LmctlError("E-ENGINE", what, fix="declare `model` or `path`")
    yield from ("--model", _path(serve, serve.profile.weights, "weights"), "--alias", serve.profile.name)
    yield from ("--host", serve.host, "--port", str(serve.port))
    yield from ("--offline", "--metrics", "--cors-origins", "")
    if serve.key_file is not None:
        yield from ("--api-key-file", serve.key_file)


def _resources(serve: Serve) -> Iterator[str]:
    settings = serve.profile.settings
    # The engine divides its context among its slots; without --no-kv-unified it may share it instead.
    yield from ("--ctx-size", str(context(serve) * settings.parallel))
    yield from ("--parallel", str(settings.parallel), "--no-kv-unified")
    if settings.gpu_layers is not None:  # giving it turns the engine's own fitting off
        yield from ("--n-gpu-layers", "all" if settings.gpu_layers == -1 else str(settings.gpu_layers))
    threads = settings.threads or (serve.hardware.cores if serve.hardware else None)
    if threads is not None:
        yield from ("--threads", str(threads))
    yield from ("--flash-attn", {None: "auto", True: "on", False: "off"}[settings.flash_attn])
    yield from ("--cache-type-k", settings.cache_type_k, "--cache-type-v", settings.cache_type_v)
    yield from ("--cache-ram", str(-(-settings.cache_ram // _MIB)))  # its own default is 8 GiB
    yield from ("--batch-size", str(settings.batch), "--ubatch-size", str(settings.ubatch))
    yield from ("--load-mode", settings.load_mode)
    if settings.cpu_moe is not None:
        yield from ("--n-cpu-moe", str(settings.cpu_moe))
    if settings.devices:
        yield from ("--device", ",".join(settings.devices))


def _companions(serve: Serve) -> Iterator[str]:
    profile = serve.profile
    if profile.mmproj == "auto" and profile.weights is not None:
        projector = file_of(serve, profile.weights, "mmproj")
        if projector is not None:
            yield from ("--mmproj", str(projector))
    elif isinstance(profile.mmproj, Wanted):
        yield from ("--mmproj", _path(serve, profile.mmproj, "mmproj"))
    if profile.lora:
        yield from ("--lora-scaled", ",".join(_scaled(serve, lora.wanted, lora.scale) for lora in profile.lora))
    if profile.draft is not None:
        yield from ("--spec-draft-model", _path(serve, profile.draft.wanted, "draft"))
        yield from ("--spec-draft-n-max", str(profile.draft.max), "--spec-draft-n-min", str(profile.draft.min))


def _answers(serve: Serve) -> Iterator[str]:
    settings = serve.profile.settings
    if settings.chat_template is not None:
        yield from ("--chat-template", settings.chat_template)
    if settings.chat_template_file is not None:
        yield from ("--chat-template-file", str(settings.chat_template_file))
    if settings.embeddings:
        yield "--embeddings"
    if settings.rerank:
        yield "--reranking"
    if settings.pooling is not None:
        yield from ("--pooling", settings.pooling)
    for key, flag in _SAMPLING.items():
        if settings.sampling.get(key) is not None:
            yield from (flag, str(settings.sampling[key]))


def _path(serve: Serve, wanted: Wanted, role: Role) -> str:
    """Return the first file of that role; a companion that is an artifact of its own may be locked as its weights."""
    path: Path | None = file_of(serve, wanted, role) or file_of(serve, wanted, "weights")
    if path is None:
        raise LmctlError("E-ENGINE", f"{escape(wanted.id)} holds no {role} file", fix="run `lmctl lock`")
    if path.suffix == ".safetensors":
        what = f"{escape(wanted.id)} holds safetensors, and llama.cpp reads GGUF"
        raise LmctlError("E-MATCH", what, fix='declare `backend = "mlx"`, or name a GGUF file')
    return str(path)


def _scaled(serve: Serve, wanted: Wanted, scale: float) -> str:
    path = _path(serve, wanted, "lora")
    if "," in path or ":" in path:  # the flag's own separators, which it cannot escape
        raise LmctlError("E-PATH", f"the adapter's path {escape(path)} holds a comma or colon", fix="rename it")
    return f"{path}:{scale}"
