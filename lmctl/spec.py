"""The vocabulary every layer shares: frozen records of what is declared, locked and there. Bytes and seconds."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from lmctl.errors import Problem
from lmctl.front import Accounts, Cloud, Front, Router
from lmctl.owner import Hardware as Hardware  # a part of the vocabulary that everybody finds here
from lmctl.owner import Machine as Machine
from lmctl.record import NOTHING, record

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]
Start = Literal["always", "on-demand", "manual"]
Format = Literal["gguf", "mlx", "safetensors", "local", "engine"]
Role = Literal["weights", "shard", "mmproj", "lora", "draft", "tokenizer", "config", "template"]
Shape = Mapping[str, Json]
GATEWAY, WATCH = "gateway", "watch"
RESIDENT = (GATEWAY, WATCH)  # lmctl's own programs, by name: no profile can be called so


@record
class Wanted:
    """An artifact as a declaration asks for it, before the lock resolves it to a commit and files.

    `id` is `repository@revision:selection`, or `path=<from the declaration's folder, else absolute>` for a local one.
    `selection` is a quant (free text), `file=<path>`, `mlx` (a whole repository of safetensors) or empty: the first of
    Q4_K_M, Q8_0 and whatever the repository holds.
    """

    id: str
    repo: str | None
    revision: str | None
    selection: str
    format: Format
    role: Role = "weights"
    path: Path | None = None  # absolute; local artifacts alone


@record
class LockedFile:
    """One file of a locked artifact. `blob` is the cache's name of the content where it differs from the sha256."""

    path: str
    role: Role
    size: int
    sha256: str
    blob: str | None = None

    @property
    def etag(self) -> str:
        """The name under which the Hugging Face cache stores the content."""
        return self.blob or self.sha256


@record
class Artifact:
    """A locked artifact; `shape` holds the header's numbers that the memory estimate needs."""

    id: str
    format: Format
    commit: str | None  # 40 hex digits; None for local
    shape: Shape
    files: tuple[LockedFile, ...]

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def repo(self) -> str | None:
        """The `owner/name` on the Hub, None for a local artifact."""
        return None if self.commit is None else self.id.partition("@")[0]


@record
class Lora:
    wanted: Wanted
    scale: float = 1.0


@record
class Draft:
    wanted: Wanted
    max: int = 16
    min: int = 0


@record
class Settings:
    """What an engine is told, in lmctl's own words; a backend renders it. None means: left to the engine."""

    ctx: int | None = None  # tokens one request may use; None: 8192, or less where the model was trained on less
    parallel: int = 1  # requests served at once
    gpu_layers: int | None = None  # -1: all
    threads: int | None = None  # None: performance cores within the cgroup quota
    flash_attn: bool | None = None  # None: auto
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    cache_ram: int = 0  # bytes of old prompts kept in memory
    batch: int = 2048  # tokens
    ubatch: int = 512  # tokens
    load_mode: str = "auto"
    cpu_moe: int | None = None
    devices: tuple[str, ...] = ()
    chat_template: str | None = None  # a name the engine knows
    chat_template_file: Path | None = None
    embeddings: bool = False
    rerank: bool = False
    pooling: str | None = None
    sampling: Mapping[str, str | int | float | bool | None] = NOTHING
    dtype: str = "auto"
    quantization: str | None = None
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    gpu_memory_utilization: float = 0.9
    extra_args: tuple[str, ...] = ()
    env: Mapping[str, str] = NOTHING


@record
class Profile:
    """One profile as it is on this machine, every layer and overlay applied."""

    name: str
    backend: str
    weights: Wanted | None  # None for a command without a model
    settings: Settings
    mmproj: Wanted | Literal["auto"] | None = "auto"
    lora: tuple[Lora, ...] = ()
    draft: Draft | None = None
    port: int | None = None  # as declared; where the engine listens is `listen`, decided by the plan
    start: Start = "always"
    ttl: float = 900.0
    fetch: Literal["apply", "start"] = "apply"
    protect: bool = False
    aliases: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    description: str = ""
    command: tuple[str, ...] = ()
    health: str = "/health"
    start_timeout: float | None = None  # None: 60 s + 5 s per GiB of weights
    stop_timeout: float = 10.0
    max_concurrency: int | None = None  # requests that the gateway lets through at once; None: `parallel`
    max_queue: int = 64  # requests that it keeps waiting beyond that
    fallback: tuple[str, ...] = ()  # clouds, in this order, where the profile cannot answer
    remote_code: bool = False  # this machine's owner lets its weights bring code
    file: str = ""  # the declaring file, as shown to people
    changed: Mapping[str, Json] = NOTHING  # declared keys and values, for causes a person reads

    @property
    def artifacts(self) -> tuple[Wanted, ...]:
        """Everything this profile needs on disk, its weights first."""
        draft = self.draft.wanted if self.draft else None
        found = (self.weights, self.mmproj, *(lora.wanted for lora in self.lora), draft)
        return tuple(one for one in found if isinstance(one, Wanted))


@record
class Group:
    """Profiles of which at most one runs at a time when `exclusive`."""

    name: str
    members: tuple[str, ...]
    exclusive: bool = True


@record
class Declaration:
    """A whole configuration, resolved for this machine. `variants` is what any machine could ask for."""

    name: str
    folder: Path
    file: Path
    profiles: tuple[Profile, ...]
    variants: tuple[Wanted, ...] = ()  # asked for by the committed files
    local_variants: tuple[Wanted, ...] = ()  # asked for only by the local file, the environment or --set
    asked_by: Mapping[str, tuple[str, ...]] = NOTHING  # id of a variant -> profiles that ask for it on some machine
    groups: tuple[Group, ...] = ()
    engine_ports: tuple[int, int] = (28000, 28999)  # first and last, for profiles that declare no port
    front: Front = Front()
    watched: bool = False  # whether the watcher runs under supervision
    clouds: tuple[Cloud, ...] = ()  # those that this machine's owner allows
    untrusted: tuple[str, ...] = ()  # the names of the others: they are asked nothing
    router: Router | None = None
    accounts: Accounts = Accounts()
    sets: tuple[str, ...] = ()  # the `--set` of this run: what lmctl's own programs see has to agree with it
    prune_auto: bool = True
    prune_after: float = 7 * 86400.0
    machine: Machine = Machine()
    inert: tuple[str, ...] = ()  # declared keys that are valid and have no effect yet
    warnings: tuple[Problem, ...] = ()  # what reading it found odd
    hash: str = ""  # sha256 over everything that was read
    sources: Mapping[str, bytes] = NOTHING  # the files of its folder that say so, by their path from there

    def profile(self, name: str) -> Profile | None:
        """Return the profile called `name`, or None."""
        return next((profile for profile in self.profiles if profile.name == name), None)


@record
class Lock:
    """The lock file's artifacts by id."""

    artifacts: Mapping[str, Artifact] = NOTHING


@record
class ProgramSpec:
    """What the launcher is told about one program; the JSON of its file. `argv[0]` may be `{python}`."""

    id: str
    profile: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    hash: str
    listen: str  # "127.0.0.1:8081"
    key_file: str | None = None  # from the state folder; what the engine asks of whoever asks it
    inherit: tuple[str, ...] = ()  # variables that it gets from the environment besides the usual ones, where they are
    autostart: bool = False
    stop_timeout: float = 10.0  # seconds; neither this nor `autostart` is covered by `hash`

    @property
    def stop_seconds(self) -> int:
        """The time to stop as supervisord counts it: in whole seconds."""
        return max(1, math.ceil(self.stop_timeout))


def program_id(profile: str) -> str:
    """Return the id of a profile's program: safe in file names and INI sections, whatever the profile is called.

    lmctl's own programs are called what they are.
    """
    if profile in RESIDENT:
        return profile
    return "p-" + hashlib.sha256(profile.encode("utf-8", "surrogatepass")).hexdigest()[:12]


@record
class Signature:
    """What tells without reading it that a file is still the one that was hashed."""

    size: int
    mtime_ns: int
    inode: int
    device: int


@record
class Process:
    """One program as supervisord shows it. `hash` is the configuration that the running process was started with."""

    id: str
    state: str  # supervisord's own: STOPPED STARTING RUNNING BACKOFF STOPPING EXITED FATAL UNKNOWN
    pid: int | None = None
    started: float | None = None  # seconds since the epoch
    exit_status: int | None = None
    hash: str | None = None
    spawn_error: str = ""
    starts: int = 0  # in the last ten minutes, since the last deliberate one

    @property
    def running(self) -> bool:
        return self.state in {"STARTING", "RUNNING"}


@record
class Health:
    """The answer of a probe: `healthy`, `loading`, `down` (no answer), `wrong` (somebody else answers)."""

    state: Literal["healthy", "loading", "down", "wrong"]
    why: str = ""


@record
class Probe:
    """How to ask a program whether it serves: `models` is where the model's id must stand, when the engine tells it."""

    health: str = "/health"
    models: str | None = None  # path of an OpenAI model list
    expect: str | None = None  # the id that list must hold; of a path, the one behind all links will do
    key_file: str | None = None  # from the state folder; the key to show
