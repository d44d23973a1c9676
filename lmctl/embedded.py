"""llama.cpp's server inside Python, for machines without its binary: it takes the flags that lmctl renders.

The package `xllamacpp` has no argument parser, only the fields that one would fill; this is the parser, no more.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

Set = Callable[[Any, str], None]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Serve until a signal ends the process: exit 2 for a flag it does not know, 1 when the engine does not start.

    Signals keep their default action, so that it ends at once, also while weights load or requests run: freeing the
    engine may hang, and the system frees what a process held.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    settings = pairs(sys.argv[1:] if argv is None else argv)
    try:
        import xllamacpp  # the flags are checked without it
    except ImportError as error:
        _fail(1, f"the embedded engine is not installed ({error}): pip install 'lmctl[engine]'")
    params = xllamacpp.CommonParams()
    params.ui = False
    for flag, value in settings:
        try:
            FLAGS[flag](params, value)
        except (ValueError, KeyError, OSError, OverflowError, TypeError) as error:
            _fail(2, f"invalid value for {flag}: {error}")
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as error:
        _fail(1, str(error))
    print(f"serving on {server.listening_address}", file=sys.stderr, flush=True)
    while True:
        signal.pause()


def pairs(argv: Sequence[str]) -> list[tuple[str, str]]:
    """Return the flags of `argv` with their values, "" for a switch; exits 2 on an unknown flag or a missing value."""
    found, rest = [], iter(argv)
    for flag in rest:
        if flag not in FLAGS:
            _fail(2, f"invalid argument: {flag!r}")
        value = "" if flag in SWITCHES else next(rest, None)
        if value is None:
            _fail(2, f"expected a value for {flag}")
        found.append((flag, value))
    return found


def _fail(code: int, what: str) -> NoReturn:
    print(f"error: {what}", file=sys.stderr, flush=True)
    os._exit(code)  # the engine's threads may still run


def _text(name: str) -> Set:
    return lambda params, value: setattr(params, name, value)


def _number(name: str) -> Set:
    return lambda params, value: setattr(params, name, int(value))


def _switch(name: str, on: bool = True) -> Set:
    return lambda params, _: setattr(params, name, on)


def _enum(name: str, kind: str, prefix: str, names: dict[str, str] | None = None) -> Set:
    def put(params: Any, value: str) -> None:
        import xllamacpp

        member = (names or {}).get(value, value.upper())
        setattr(params, name, getattr(xllamacpp, kind)[prefix + member])

    return put


def _sampled(name: str, read: Callable[[str], int | float], mark: str = "") -> Set:
    def put(params: Any, value: str) -> None:
        import xllamacpp

        setattr(params.sampling, name, read(value))
        if mark:  # else the model's own recommendation wins over what was declared
            bits = xllamacpp.common_params_sampling_config[f"COMMON_PARAMS_SAMPLING_CONFIG_{mark}"]
            params.sampling.user_sampling_config |= bits.value

    return put


def _alias(params: Any, value: str) -> None:
    params.model_alias = {value}


def _model(params: Any, value: str) -> None:
    params.model.path = value


def _host(params: Any, value: str) -> None:
    params.hostnames = [value]


def _origins(params: Any, value: str) -> None:
    params.cors_origins, params.cors_origins_explicit = value, True


def _keys(params: Any, value: str) -> None:
    keys = [line.strip() for line in Path(value).read_text(encoding="utf-8").splitlines()]
    params.api_keys = [key for key in keys if key]
    if not params.api_keys:  # it would then ask nobody for one
        raise ValueError("it holds no key")


def _layers(params: Any, value: str) -> None:
    params.n_gpu_layers = {"auto": -1, "all": -2}[value] if value in ("auto", "all") else int(value)


def _threads(params: Any, value: str) -> None:
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(value)


def _cpu_moe(params: Any, value: str) -> None:
    # the pattern that llama.cpp's parser makes of --n-cpu-moe
    layers = (rf"blk\.{layer}\.ffn_(up|down|gate|gate_up)_(ch|)exps=CPU" for layer in range(int(value)))
    params.tensor_buft_overrides = ",".join(layers)


def _projector(params: Any, value: str) -> None:
    params.mmproj.path = value


def _adapters(params: Any, value: str) -> None:
    import xllamacpp

    scaled = (item.rpartition(":") for item in value.split(","))
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, float(scale)) for path, _, scale in scaled]


def _draft(params: Any, value: str) -> None:
    import xllamacpp

    params.speculative.draft.mparams.path = value
    params.speculative.types = [xllamacpp.common_speculative_type.COMMON_SPECULATIVE_TYPE_DRAFT_SIMPLE]


def _draft_max(params: Any, value: str) -> None:
    params.speculative.draft.n_max = int(value)


def _draft_min(params: Any, value: str) -> None:
    params.speculative.draft.n_min = int(value)


def _template_file(params: Any, value: str) -> None:
    params.chat_template = Path(value).read_text(encoding="utf-8")


def _rerank(params: Any, _: str) -> None:
    params.embedding = True
    _enum("pooling_type", "llama_pooling_type", "LLAMA_POOLING_TYPE_")(params, "rank")


def _seed(value: str) -> int:
    return int(value) & 0xFFFFFFFF  # -1 asks for a random one


FLAGS: dict[str, Set] = {
    "--model": _model,
    "--alias": _alias,
    "--host": _host,
    "--port": _number("port"),
    "--offline": _switch("offline"),
    "--metrics": _switch("endpoint_metrics"),
    "--cors-origins": _origins,
    "--api-key-file": _keys,
    "--ctx-size": _number("n_ctx"),
    "--parallel": _number("n_parallel"),
    "--no-kv-unified": _switch("kv_unified", on=False),
    "--n-gpu-layers": _layers,
    "--threads": _threads,
    "--flash-attn": _enum(
        "flash_attn_type", "llama_flash_attn_type", "LLAMA_FLASH_ATTN_TYPE_", {"on": "ENABLED", "off": "DISABLED"}
    ),
    "--cache-type-k": _enum("cache_type_k", "ggml_type", "GGML_TYPE_"),
    "--cache-type-v": _enum("cache_type_v", "ggml_type", "GGML_TYPE_"),
    "--cache-ram": _number("cache_ram_mib"),
    "--batch-size": _number("n_batch"),
    "--ubatch-size": _number("n_ubatch"),
    "--load-mode": _enum("load_mode", "llama_load_mode", "LLAMA_LOAD_MODE_", {"mmap+mlock": "MMAP_MLOCK"}),
    "--n-cpu-moe": _cpu_moe,
    "--mmproj": _projector,
    "--lora-scaled": _adapters,
    "--spec-draft-model": _draft,
    "--spec-draft-n-max": _draft_max,
    "--spec-draft-n-min": _draft_min,
    "--chat-template": _text("chat_template"),
    "--chat-template-file": _template_file,
    "--embeddings": _switch("embedding"),
    "--reranking": _rerank,
    "--pooling": _enum("pooling_type", "llama_pooling_type", "LLAMA_POOLING_TYPE_"),
    "--temp": _sampled("temp", float, "TEMP"),
    "--top-p": _sampled("top_p", float, "TOP_P"),
    "--top-k": _sampled("top_k", int, "TOP_K"),
    "--min-p": _sampled("min_p", float, "MIN_P"),
    "--repeat-penalty": _sampled("penalty_repeat", float, "PENALTY_REPEAT"),
    "--presence-penalty": _sampled("penalty_present", float),
    "--frequency-penalty": _sampled("penalty_freq", float),
    "--seed": _sampled("seed", _seed),
    "--predict": _number("n_predict"),
}
SWITCHES = frozenset(["--offline", "--metrics", "--no-kv-unified", "--embeddings", "--reranking"])

if __name__ == "__main__":
    main()
