"""The files of the configuration, as pydantic models."""

from __future__ import annotations

from pydantic import ConfigDict, Field

from lmctl.config import kinds as k
from lmctl.config.models import Defaults, Profile, Table, key


class Gateway(Table):
    """One address for all profiles."""

    enabled: k.Flag = key("run the gateway", True)
    port: k.Port = key("where it listens", 8080)
    default: k.Name = key('profile for requests whose model is absent, "local" or "default"')
    engine_ports: k.PortRange = key("where engines listen behind it", "28000-28999")
    origins: list[k.Word] = key("web origins that may ask", [], max_length=64)
    max_body: k.Bytes = key("largest request", "32 MiB")
    request_timeout: k.Duration = key("longest request", "10m")
    load_timeout: k.Duration = key("longest wait for a profile to load", "5m")
    drain_timeout: k.Duration = key("longest wait for running requests", "30s")


class Watch(Table):
    """Apply edits as they are saved."""

    enabled: k.Flag = key("watch the configuration", False)
    apply: k.WatchApply = key("what may be applied unasked", "safe")
    debounce: k.Duration = key("quiet time after an edit", "300ms")
    interval: k.Duration = key("time between two looks at the world", "60s")


class Usage(Table):
    """Counts of requests and tokens."""

    enabled: k.Flag = key("keep counts", True)
    keep: k.Duration = key("how long single requests are kept", "90d")
    compare: list[k.Word] = key("reference prices to compare with", max_length=64)


class Prune(Table):
    """Removal of what lmctl fetched and nothing declares any more."""

    auto: k.Flag = key("prune at the end of apply", True)
    after: k.Duration = key("unreferenced for this long", "7d")


class GroupTable(Table):
    """Profiles that share something."""

    members: list[k.Name] = Field(description="profiles, two or more", min_length=2, max_length=1000)
    exclusive: k.Flag = key("at most one of them runs", True)


class Cloud(Table):
    """A model elsewhere: `cloud:NAME` for clients, asked only where this machine's owner trusts it."""

    base_url: k.Url = key("https address of an OpenAI-compatible server, up to and with /v1; required, needs trust")
    model: k.Word = key("its name there; required, needs trust")
    key_env: k.EnvName = key("variable that holds the key; needs trust")
    key_file: k.LocalPath = key("file of mode 0600 that holds the key on one line; needs trust")
    price_in: k.Price = key("USD per million tokens read")
    price_out: k.Price = key("USD per million tokens written")


class Router(Table):
    """Which requests stay here and which go to a cloud."""

    threshold: k.Fraction = key("complexity from which a request goes to the cloud", 0.7)
    cloud: k.Name = key("name of a [cloud] entry")
    tasks: dict[k.Word, k.Name] = key("task -> profile")
    max_prompt: k.Count = key("longest prompt that stays here, tokens")
    tools: k.Target = key("where requests with tools go")
    images: k.Target = key("where requests with images go")


class Engine(Table):
    """The engine to install."""

    version: k.Word = key("release such as b6000, locked with asset and digest")


class Tables(Table):
    """The tables that the committed and the local file share."""

    defaults: Defaults = key("values for every profile that does not say itself")
    profiles: dict[k.Name, Profile] = key("profiles by name")
    gateway: Gateway = key("one address for all profiles")
    watch: Watch = key("apply edits as they are saved")
    usage: Usage = key("counts of requests and tokens")
    prune: Prune = key("removal of what nothing declares any more")
    groups: dict[k.Name, GroupTable] = key("profiles that share something")
    cloud: dict[k.Name, Cloud] = key("models elsewhere")
    router: Router = key("which requests stay here")
    engines: dict[k.BackendName, Engine] = key("engines to install")


class LocalFile(Tables):
    """localmodels.local.toml, the environment and --set."""

    version: k.Version = key("version of the format", 1)


class MainFile(Tables):
    """localmodels.toml"""

    model_config = ConfigDict(title="lmctl declaration")

    version: k.Version = Field(description="version of the format")
    name: k.Name = Field(description="identity of this declaration on a machine")
    include: list[k.Include] = key("files with one profile each, globs under this folder", max_length=64)


class HubTable(Table):
    """The Hugging Face Hub."""

    endpoint: k.Url = key("its address")
    token_file: k.LocalPath = key("file that holds the token")
    cache: k.LocalPath = key("folder of the cache")


class EngineBinary(Table):
    """An engine on this machine."""

    binary: k.LocalPath = key("its program")


class Weights(Table):
    """Weights that are here already."""

    roots: list[k.LocalPath] = key("further folders to look in", max_length=64)


class Memory(Table):
    """Memory that lmctl plans with."""

    reserve: k.Bytes = key("kept free for everything else", "4 GiB")
    gpu: k.Bytes = key("memory of the GPUs, where it cannot be found out")


class PruneLimit(Table):
    """How much prune may remove unasked."""

    max_bytes: k.Bytes = key("more needs --yes", "200 GiB")


class Download(Table):
    """Speed of downloads."""

    connections: k.Workers = key("connections per file", 4)
    files: k.Workers = key("files at once", 3)
    rate: k.Bytes = key("bytes per second")


class GatewayKeys(Table):
    """Keys of the gateway."""

    api_keys_file: k.LocalPath = key("file with one key per line")


class WatchNotify(Table):
    """Notices of the watcher."""

    notify: list[k.Argument] = key("program to run, with the notice as JSON on stdin", min_length=1, max_length=64)


class Logs(Table):
    """Logs of programs."""

    max_bytes: k.Bytes = key("per program and file, three files", "20 MiB")


class MachineFile(Table):
    """machine.toml: what a committed file must never decide."""

    model_config = ConfigDict(title="lmctl machine")

    hub: HubTable = key("the Hugging Face Hub")
    engines: dict[k.BackendName, EngineBinary] = key("engines on this machine")
    bind: k.Address = key("address on which programs listen", "127.0.0.1")
    allow: dict[k.Name, list[k.Permission]] = key("what a declaration may do here")
    weights: Weights = key("weights that are here already")
    memory: Memory = key("memory that lmctl plans with")
    prune: PruneLimit = key("how much prune may remove unasked")
    download: Download = key("speed of downloads")
    gateway: GatewayKeys = key("keys of the gateway")
    watch: WatchNotify = key("notices of the watcher")
    logs: Logs = key("logs of programs")
