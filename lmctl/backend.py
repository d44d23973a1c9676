"""What a serving backend must answer. Pure: no clock, no network, no disk; one module of `backends/` each."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from lmctl.errors import Problem
from lmctl.fit import request_context
from lmctl.record import NOTHING, record
from lmctl.spec import Artifact, Format, Hardware, Probe, Profile, Role, Wanted


@record
class Engine:
    """The program that runs a backend here: the head of its argv, and whether it is the embedded one."""

    argv: tuple[str, ...]  # ("/usr/bin/llama", "serve"), or ("{python}", "-m", "lmctl.embedded")
    embedded: bool = False


@record
class Serve:
    """All that argv depends on; `files` maps an artifact's id and a file's path in it to an absolute path."""

    profile: Profile
    engine: Engine
    host: str
    port: int
    artifacts: Mapping[str, Artifact] = NOTHING  # by id: weights, mmproj, adapters, drafts
    files: Mapping[tuple[str, str], Path] = NOTHING
    hardware: Hardware | None = None
    template: bytes | None = None  # content of the profile's chat template file
    key_file: str | None = None  # that holds the key to ask for; relative to the folder it starts in


@record
class Counters:
    """What an engine counted since its process began: tokens, `tokens_cached` being part of `tokens_in`, and the
    microseconds of writing `tokens_out`."""

    tokens_in: int = 0
    tokens_cached: int = 0
    tokens_out: int = 0
    us_out: int = 0


def words(text: str) -> frozenset[str]:
    """Return the words of a list that reads better as one line of text."""
    return frozenset(text.split())


# Keys of a profile that say what is served, where and when; they mean the same whatever serves.
COMMON_KEYS = words(
    "model path source revision backend port aliases tasks description start ttl fetch protect"
    " start_timeout stop_timeout max_concurrency max_queue fallback env"
)


class Backend(Protocol):
    """Declaring a key that is not in `KEYS` for this backend is E-KEY; one from `[defaults]` is skipped."""

    @property
    def NAME(self) -> str: ...

    @property
    def FORMAT(self) -> Format: ...

    @property
    def KEYS(self) -> frozenset[str]: ...

    # the keys of `sampling` that this engine takes defaults for
    @property
    def SAMPLING(self) -> frozenset[str]: ...

    # refusals that need the profile alone: flags, environment names, platform; texts without a secret's value
    def check(self, profile: Profile, allowed: frozenset[str], hardware: Hardware) -> tuple[Problem, ...]: ...

    # names to look for on PATH, best first, when machine.toml configures no binary; each with the argv that follows it
    @property
    def BINARIES(self) -> tuple[tuple[str, ...], ...]: ...

    # the importable package and argv of an engine that lives in lmctl's own Python, None when there is none
    @property
    def MODULE(self) -> tuple[str, Engine] | None: ...

    # whether it can demand a key
    @property
    def ASKS_KEY(self) -> bool: ...

    # one line: how to get an engine
    @property
    def INSTALL(self) -> str: ...

    # the argv that the launcher will execute; raises LmctlError (E-ENGINE) for what this engine cannot do
    def command(self, serve: Serve) -> tuple[str, ...]: ...

    # environment that the engine needs beside the declared one
    def environment(self, serve: Serve) -> Mapping[str, str]: ...

    # how to see that the right model answers
    def probe(self, serve: Serve) -> Probe: ...

    # the path at which the engine tells its counters, None when it has none, and what its answer says
    @property
    def METRICS(self) -> str | None: ...

    def counters(self, text: str) -> Counters | None: ...

    # the name under which the engine serves the profile's model: what a request's `model` has to say
    def served(self, profile: Profile) -> str: ...


def by_name(profile: Profile) -> str:
    """The default of `Backend.served`: the profile's own name."""
    return profile.name


def no_counters(text: str) -> Counters | None:
    """The default of `Backend.counters`."""
    return None


def no_environment(serve: Serve) -> Mapping[str, str]:
    """The default of `Backend.environment`."""
    return {}


def context(serve: Serve) -> int:
    """Return the tokens one request may use, of which the memory estimate speaks as well."""
    weights = serve.profile.weights
    artifact = serve.artifacts.get(weights.id) if weights else None
    return request_context(serve.profile.settings, artifact.shape if artifact else NOTHING)


def file_of(serve: Serve, wanted: Wanted, role: Role) -> Path | None:
    """Return the path of an artifact's first file of that role (shards: in the order of their names), None if none."""
    artifact = serve.artifacts[wanted.id]
    paths = sorted(file.path for file in artifact.files if file.role == role)
    return serve.files[wanted.id, paths[0]] if paths else None


def folder_of(serve: Serve, wanted: Wanted) -> Path:
    """Return the folder in which an artifact's files lie, for engines that open a folder: that of its config.json."""
    files = serve.artifacts[wanted.id].files
    top = min((file.path for file in files), key=lambda path: (path.count("/"), path != "config.json", path))
    return serve.files[wanted.id, top].parent
