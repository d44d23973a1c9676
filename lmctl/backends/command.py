"""Any program that serves the OpenAI API: the declared argv with its placeholders filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from lmctl.allowlist import MAX_ARG, MAX_ARGS, allow, check_env
from lmctl.backend import (
    COMMON_KEYS,
    Engine,
    Serve,
    by_name,
    context,
    file_of,
    folder_of,
    no_counters,
    no_environment,
)
from lmctl.errors import LmctlError, Problem, escape
from lmctl.spec import Format, Hardware, Probe, Profile

NAME = "command"
FORMAT: Format = "gguf"
KEYS = COMMON_KEYS | {"quant", "file", "ctx", "command", "health"}
SAMPLING: frozenset[str] = frozenset()
ASKS_KEY = False
BINARIES: tuple[tuple[str, ...], ...] = ()
MODULE: tuple[str, Engine] | None = None
INSTALL = "install the program that `command` names"
environment = no_environment
METRICS: str | None = None
counters = no_counters
served = by_name

_PLACEHOLDER = re.compile(r"\{(port|host|model|ctx|name)\}")


def check(profile: Profile, allowed: frozenset[str], hardware: Hardware) -> tuple[Problem, ...]:
    """Return why the program may not run: it executes whatever it names, so this machine's owner must allow it."""
    problems = list(_malformed(profile))
    if "command" not in allowed:
        problems.append(Problem("E-TRUST", "command runs a program of its own choice", allow("command")))
    return (*problems, *check_env(profile.settings.env, (), "env" in allowed))


def _malformed(profile: Profile) -> list[Problem]:
    argv = profile.command
    if not argv or not argv[0]:
        return [Problem("E-ARG", "command names no program", 'write it as a list: ["program", "--port", "{port}"]')]
    if len(argv) > MAX_ARGS or any(len(arg) > MAX_ARG for arg in argv):
        return [Problem("E-LIMIT", f"command has over {MAX_ARGS} items or {MAX_ARG} characters in one", "shorten it")]
    if any(c < " " or c == "\x7f" or "\ud800" <= c <= "\udfff" for arg in argv for c in arg):
        return [Problem("E-ARG", "command holds a control character", "write each item on one line")]
    if profile.weights is None and any("{model}" in arg for arg in argv):
        return [Problem("E-REF", "command asks for {model}, and no model is declared", "declare `model` or `path`")]
    return []


def command(serve: Serve) -> tuple[str, ...]:
    """Return the declared argv; `{model}` is the file of the weights, or the folder of a repository of safetensors."""
    values: Mapping[str, str] = {
        "port": str(serve.port),
        "host": serve.host,
        "name": serve.profile.name,
        "ctx": str(context(serve)),
        "model": str(_model(serve)),
    }
    return tuple(_PLACEHOLDER.sub(lambda found: values[found[1]], arg) for arg in serve.profile.command)


def _model(serve: Serve) -> Path | str:
    weights = serve.profile.weights
    if weights is None:
        return ""
    artifact = serve.artifacts[weights.id]
    if any(file.path.endswith("config.json") for file in artifact.files):
        return folder_of(serve, weights)
    path = file_of(serve, weights, "weights")
    if path is None:
        raise LmctlError("E-ENGINE", f"{escape(weights.id)} holds no weights", fix="run `lmctl lock`")
    return path


def probe(serve: Serve) -> Probe:
    """Health is the declared path alone: which model such a program serves, only it knows."""
    return Probe(health=serve.profile.health)
