"""The keys of a profile, as pydantic models: they only judge, the resolved records are made in `make`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from lmctl.config import kinds as k


def key(text: str, default: Any = None, **limits: Any) -> Any:
    """Return an optional key with its description and documented default; None: there is no default."""
    return Field(default=default, description=text, **limits)


class Table(BaseModel):
    """A table of TOML: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Sampling(Table):
    """Defaults for requests that do not say themselves."""

    temperature: k.Temperature = key("randomness; 0 is greedy")
    top_p: k.Fraction = key("nucleus sampling")
    top_k: k.Natural = key("keep the k likeliest tokens; 0: all")
    min_p: k.Fraction = key("least share of the likeliest token's probability")
    repeat_penalty: k.Temperature = key("penalty of repeated tokens; 1: none")
    presence_penalty: k.Penalty = key("penalty of tokens that occurred")
    frequency_penalty: k.Penalty = key("penalty by how often a token occurred")
    seed: k.Seed = key("seed of the random numbers; -1: random")
    max_tokens: k.Count = key("most tokens of one answer")


class LoraEntry(Table):
    """One adapter: a local file, or a file of a repository."""

    path: k.LocalPath = key("adapter file, relative to this file")
    model: k.Repo = key("owner/name on the Hub")
    file: k.HubFile = key("the adapter's file in that repository")
    scale: k.Scale = key("strength of the adapter", 1.0)


class DraftTable(Table):
    """The small model that guesses ahead."""

    path: k.LocalPath = key("weights file, relative to this file")
    model: k.Repo = key("owner/name on the Hub")
    quant: k.Word = key("quantization, matched against file names")
    file: k.HubFile = key("the weights' file in that repository")
    max: k.Count = key("most tokens guessed at once", 16)
    min: k.Natural = key("fewest tokens guessed at once", 0)


class ConvertTable(Table):
    """How `source` becomes weights."""

    to: k.Word = key("format: gguf or mlx")
    quant: k.Word = key("quantization to make")


class ProfileKeys(Table):
    """Keys of a profile that `[defaults]` may hold too."""

    backend: k.BackendName = key("the engine that serves the profile", "llama.cpp")
    ttl: k.Duration = key("on-demand: stop after idling this long", "15m")
    ctx: k.Tokens = key("tokens that one request may use, whatever `parallel` is", 8192)
    parallel: k.Slots = key("requests served at once", 1)
    gpu_layers: k.Layers = key("layers on the GPU; -1: all; omitted: the engine decides")
    threads: k.Threads = key("processor threads", "auto")
    flash_attn: k.FlagOrAuto = key("flash attention", "auto")
    cache_type_k: k.CacheType = key("type of the key cache", "f16")
    cache_type_v: k.CacheType = key("type of the value cache; quantized ones need flash attention", "f16")
    cache_ram: k.Bytes = key("memory for old prompts", 0)
    batch: k.Count = key("tokens of one logical batch", 2048)
    ubatch: k.Count = key("tokens of one physical batch", 512)
    load_mode: k.LoadMode = key("how weights come into memory", "auto")
    cpu_moe: k.Natural = key("layers whose experts stay on the processor")
    devices: list[k.Word] = key("devices to use", max_length=64)
    chat_template: k.Word = key("a template the engine knows, or a file (with '/' or ending in .jinja)")
    embeddings: k.Flag = key("serve embeddings", False)
    rerank: k.Flag = key("serve reranking", False)
    pooling: k.Word = key("how embeddings are pooled")
    sampling: Sampling = key("defaults for requests that do not say themselves")
    dtype: k.Word = key("type of the weights in memory (vllm)", "auto")
    quantization: k.Word = key("quantization method (vllm)")
    tensor_parallel: k.Count = key("devices that share each layer (vllm)", 1)
    pipeline_parallel: k.Count = key("devices that share the layers (vllm)", 1)
    gpu_memory_utilization: k.Fraction = key("share of the GPU's memory to take (vllm)", 0.9)
    extra_args: list[k.Argument] = key("further arguments of the engine, from its allow-list", max_length=1000)
    env: dict[k.EnvName, k.Argument] = key("environment of the engine, from its allow-list")
    start_timeout: k.DurationOrAuto = key("time to become healthy; auto: 60 s and 5 s per GiB", "auto")
    stop_timeout: k.Duration = key("time to stop before it is killed", "10s")
    max_concurrency: k.Count = key("requests the gateway lets through at once; default: `parallel`")
    max_queue: k.Natural = key("requests the gateway keeps waiting", 64)
    fallback: list[k.Name] = key("names of [cloud] entries to fall back on", max_length=64)


class Defaults(ProfileKeys):
    """Values for every profile that does not say itself."""


class OwnKeys(ProfileKeys):
    """All keys of one profile but `when`."""

    model: k.Repo = key("owner/name on the Hub")
    path: k.LocalPath = key("weights on this machine, relative to this file")
    source: k.Source = key("owner/name or folder to convert")
    quant: k.Word = key("quantization such as Q4_K_M, matched against file names")
    file: k.HubFile = key("one file of the repository")
    revision: k.Revision = key("branch, tag or commit; resolved to a commit in the lock", "main")
    convert: ConvertTable = key("how `source` becomes weights")
    port: k.Port = key("where clients reach the profile; default: a free one, shown by status")
    aliases: list[k.Alias] = key("other model names under which it answers", max_length=256)
    tasks: list[k.Word] = key("what it is good for: code, chat, reasoning, …", max_length=64)
    description: k.Prose = key("a line for people")
    start: k.Start = key("when it runs", "always")
    fetch: k.Fetch = key("when its weights are fetched", "apply")
    protect: k.Flag = key("never prune its weights", False)
    mmproj: k.Mmproj = key("projector of a vision model: auto, a file, or false", "auto")
    lora: list[LoraEntry] = key("adapters", max_length=32)
    draft: DraftTable = key("the small model that guesses ahead")
    command: list[k.Argument] = key(
        "backend command: the program and its arguments; {port} {host} {model} {ctx} {name} are filled in",
        min_length=1,
        max_length=1000,
    )
    health: k.Word = key("backend command: path that answers 200 when it serves", "/health")


class When(OwnKeys):
    """Keys that hold only on machines that meet every condition of the block."""

    os: k.Os = key("linux, darwin")
    arch: k.Arch = key("x86_64, arm64")
    accelerator: k.Accelerator = key("none, metal, cuda, rocm, vulkan")
    host: k.HostGlob = key("host name, with * and ?")
    memory: k.Comparison = key('main memory, e.g. ">= 48 GiB"')
    gpu_memory: k.Comparison = key('memory of all GPUs together, e.g. ">= 24 GiB"')


class Profile(OwnKeys):
    """One profile: what serves, where, with which weights."""

    when: list[When] = key("overlays for machines that meet the conditions, in order", max_length=8)


class ProfileFile(Profile):
    """profiles/X.toml: the keys of profile X."""

    model_config = ConfigDict(title="lmctl profile")
