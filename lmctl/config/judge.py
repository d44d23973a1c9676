"""pydantic's verdict on each layer, as lmctl's errors with file, line, column and the near miss."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from lmctl.config.file_models import LocalFile, MachineFile, MainFile
from lmctl.config.layers import Inputs, Layer
from lmctl.config.models import ProfileFile
from lmctl.config.positions import Path
from lmctl.config.sound import Fault
from lmctl.config.values import kind_of
from lmctl.errors import Problem, escape
from lmctl.secret import LOOKS_SECRET, NAMES_SECRET

MODELS: dict[str, type[BaseModel]] = {
    "main": MainFile,
    "profile": ProfileFile,
    "local": LocalFile,
    "environment": LocalFile,
    "set": LocalFile,
    "machine": MachineFile,
}
_BIND = frozenset(["host", "hostname", "bind", "listen", "address", "interface"])
_MACHINE = {"allow", "binary", "endpoint", "engine_path", "hf_endpoint", "hub", "logs", "memory", "download"}
_MACHINE |= {"token_file", "state_dir", "cache_dir", "trust", "trusted", "trust_remote_code", "yes", "weights"}
_MACHINE |= {"roots", "reserve", "notify", "api_keys_file", "max_bytes"}


def judge(inputs: Inputs) -> tuple[list[Problem], list[Problem], list[Fault]]:
    """Return the errors and the warnings of every layer, and where the errors lie."""
    errors: list[Problem] = []
    warnings: list[Problem] = []
    faults: list[Fault] = []
    for layer in [*inputs.layers, *([inputs.machine] if inputs.machine else [])]:
        secrets = dict(_secrets(layer.own, ()))
        for path, severe in secrets.items():
            (errors if severe else warnings).append(_secret(layer, path, severe))
            faults += [(layer, (*layer.prefix, *path))] if severe else []
        try:
            MODELS[layer.kind].model_validate(layer.own)
        except ValidationError as error:
            found = [item for item in error.errors(include_url=False) if not secrets.get(item["loc"])]
            errors += [_problem(layer, item) for item in found]
            faults += [(layer, (*layer.prefix, *_path(item))) for item in found]
    return list(dict.fromkeys(errors)), warnings, faults


def _path(error: Any) -> Path:
    return tuple(part for part in error["loc"] if part != "[key]")


def _problem(layer: Layer, error: Any) -> Problem:
    path = _path(error)
    place = layer.place((*layer.prefix, *path))
    code, what, fix = _worded(layer, path, error)
    shown = ".".join(escape(str(part), 70) for part in path)
    return Problem(code, LOOKS_SECRET.sub("(hidden)", f"{shown}: {what}"), fix, place)


def _worded(layer: Layer, path: Path, error: Any) -> tuple[str, str, str | None]:
    kind, value = error["type"], error["input"]
    if kind.startswith("E-"):
        what = error["ctx"]["what"]
        if "[key]" in error["loc"] and kind == "E-TYPE":
            kind = "E-NAME"
        return kind, what, error["ctx"]["fix"] or None
    if kind == "extra_forbidden":
        return _unknown(layer, path)
    if kind == "missing":
        return "E-KEY", "is required", _missing(str(path[-1]))
    if kind == "too_long":
        return "E-LIMIT", f"more than {error['ctx']['max_length']} entries", "remove some"
    if kind == "too_short":
        return "E-RANGE", f"fewer than {error['ctx']['min_length']} entries", "add some"
    expected = "array" if kind == "list_type" else "table"
    return "E-TYPE", f"expected {expected}, got {kind_of(value)}", None


def _missing(key: str) -> str:
    return "add `version = 1`" if key == "version" else f"add `{key}`"


def _unknown(layer: Layer, path: Path) -> tuple[str, str, str | None]:
    key = str(path[-1])
    if NAMES_SECRET.search(key):
        return "E-SECRET", "a secret does not belong in a configuration file", "put it in a key file (machine.toml)"
    if layer.kind == "profile" and path in {("profiles",), layer.prefix[1:]}:
        return "E-KEY", "in a file of its own a profile's keys stand at top level", "leave the table's header out"
    fields = fields_at(MODELS[layer.kind], path[:-1])
    if layer.kind != "machine":
        if key.lower() in _BIND:
            return "E-BIND", "only loopback in project files", "remove it; `bind` belongs in machine.toml"
        if key in _MACHINE or (path[0] == "engines" and key == "binary"):
            return "E-MACHINE", "this key belongs in machine.toml", "move it there"
        if len(path) == 1 and key in MainFile.model_fields:
            return "E-KEY", "this key belongs in localmodels.toml", "move it there"
    near = difflib.get_close_matches(key, fields, n=1)
    known = f"known keys: {', '.join(fields[:8])}, …" if len(fields) > 8 else f"known keys: {', '.join(fields)}"
    return "E-KEY", "unknown key", f"did you mean `{near[0]}`?" if near else known


def fields_at(model: Any, path: Path) -> list[str]:
    """Return the keys that may stand at `path` of `model`."""
    here: Any = model
    for part in path:
        if isinstance(here, type) and issubclass(here, BaseModel):
            here = here.model_fields[str(part)].annotation
        else:  # dict[name, table] or list[table]: the part is the name or the index
            here = get_args(here)[-1]
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []


def _secrets(value: Any, path: Path) -> Iterator[tuple[Path, bool]]:
    """Yield where something looks like a secret; severe where the key says that it is one."""
    if isinstance(value, str):
        if LOOKS_SECRET.search(value):
            named = next((part for part in reversed(path) if isinstance(part, str)), "")
            yield path, bool(NAMES_SECRET.search(named)) or named in {"key_env", "key_file"}
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _secrets(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _secrets(item, (*path, index))


def _secret(layer: Layer, path: Path, severe: bool) -> Problem:
    shown = ".".join(escape(str(part), 70) for part in path)
    place = layer.place((*layer.prefix, *path))
    code = "E-SECRET" if severe else "W-SECRET"
    fix = "put it in a key file (machine.toml), and revoke it if it was committed"
    return Problem(code, f"{shown}: this looks like a secret", fix, place)
