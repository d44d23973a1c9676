"""The checks of single values as pydantic types, each with its JSON Schema."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from lmctl.config import names, values
from lmctl.errors import LmctlError

Schema = dict[str, Any]


@dataclass(frozen=True)
class Checked:
    """Makes a pydantic type of a check; the error's type is lmctl's code."""

    check: values.Check
    schema: Schema = field(hash=False)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self.run)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> Schema:
        return dict(self.schema)

    def run(self, value: object) -> object:
        try:
            return self.check(value)
        except LmctlError as error:
            problem = error.problems[0]
            context = {"what": problem.what, "fix": problem.fix or ""}
            raise PydanticCustomError(problem.code, "{what}", context) from error


def _integer(low: int, high: int = 2**31 - 1) -> Checked:
    return Checked(values.integer(low, high), {"type": "integer", "minimum": low, "maximum": high})


def _number(low: float, high: float) -> Checked:
    return Checked(values.number(low, high), {"type": "number", "minimum": low, "maximum": high})


def _choice(*allowed: str) -> Checked:
    return Checked(values.choice(*allowed), {"enum": list(allowed)})


def _text(limit: int = 4096, **how: Any) -> Checked:
    return Checked(values.text(limit, **how), {"type": "string", "maxLength": limit})


_PATTERN_BYTES = r"^\d+(\.\d+)? ?(B|[KMGT]iB|[kMGT]B)?$"
_BYTES: Schema = {"anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": _PATTERN_BYTES}]}
_DURATION: Schema = {"type": "string", "pattern": r"^\d+(\.\d+)?(ms|s|m|h|d)$"}
_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
_CPU_OS, _CPU_ARCH = ("linux", "darwin"), ("x86_64", "arm64")
ACCELERATORS = ("none", "metal", "cuda", "rocm", "vulkan")
BACKEND_NAMES = ("llama.cpp", "mlx", "command", "vllm", "ollama", "llama-cpp-python", "lmstudio")
PERMISSIONS = ("command", "env", "flags", "remote_code", "cloud")

Flag = Annotated[bool, Checked(values.boolean, {"type": "boolean"})]
FlagOrAuto = Annotated[Any, Checked(values.either("auto", other=values.boolean), {"enum": [True, False, "auto"]})]
Count = Annotated[int, _integer(1)]
Natural = Annotated[int, _integer(0)]
Workers = Annotated[int, _integer(1, 64)]
Layers = Annotated[int, _integer(-1, 100_000)]
Seed = Annotated[int, _integer(-1, 2**32 - 1)]
Threads = Annotated[
    Any,
    Checked(
        values.either("auto", other=values.integer(1, 4096)),
        {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 4096}]},
    ),
]
Tokens = Annotated[
    int,
    Checked(
        values.integer(256, 2**31 - 1, text_is_range=True),
        {"type": "integer", "minimum": 256, "maximum": 2**31 - 1},
    ),
]
Slots = Annotated[int, _integer(1, 1024)]
Version = Annotated[int, Checked(values.version, {"const": 1})]
Port = Annotated[int, Checked(values.port, {"type": "integer", "minimum": 1024, "maximum": 65535})]
PortRange = Annotated[str, Checked(values.port_range, {"type": "string", "pattern": r"^\d{4,5}-\d{4,5}$"})]
Fraction = Annotated[float, _number(0, 1)]
Penalty = Annotated[float, _number(-2, 2)]
Temperature = Annotated[float, _number(0, 100)]
Scale = Annotated[float, _number(-1000, 1000)]
Price = Annotated[float, _number(0, 1_000_000)]
Bytes = Annotated[Any, Checked(values.byte_count, _BYTES)]
Duration = Annotated[str, Checked(values.duration, _DURATION)]
DurationOrAuto = Annotated[
    Any, Checked(values.either("auto", other=values.duration), {"anyOf": [{"const": "auto"}, _DURATION]})
]
Comparison = Annotated[str, Checked(values.comparison, {"type": "string", "pattern": r"^(>=|<=|==|>|<) ?\d"})]
Text = Annotated[str, _text()]
Prose = Annotated[str, _text(4096, lines=True)]
Word = Annotated[str, _text(255, empty=False)]
Argument = Annotated[str, _text(32_768, code="E-ARG")]
EnvName = Annotated[str, Checked(names.env_name, {"type": "string", "pattern": "^[A-Z_][A-Z0-9_]*$"})]
Name = Annotated[str, Checked(names.name, {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"})]
Alias = Annotated[str, Checked(names.alias, {"type": "string", "pattern": "^[A-Za-z0-9._:/@+-]{1,128}$"})]
Repo = Annotated[str, Checked(names.repo, {"type": "string", "pattern": "^[^/]+/[^/]+$"})]
Source = Annotated[str, Checked(names.local_path, {"type": "string"})]
Revision = Annotated[str, Checked(names.revision, {"type": "string", "maxLength": 128})]
HubFile = Annotated[str, Checked(names.hub_file, {"type": "string", "maxLength": 1024})]
LocalPath = Annotated[str, Checked(names.local_path, {"type": "string", "maxLength": 4095})]
Mmproj = Annotated[
    Any,
    Checked(values.either("auto", False, other=names.local_path), {"anyOf": [{"const": False}, {"type": "string"}]}),
]
Include = Annotated[str, Checked(names.include, {"type": "string"})]
Url = Annotated[str, Checked(names.url, {"type": "string", "format": "uri"})]
Address = Annotated[str, Checked(names.address, {"type": "string"})]
Start = Annotated[str, _choice("always", "on-demand", "manual")]
Fetch = Annotated[str, _choice("apply", "start")]
BackendName = Annotated[str, Checked(values.backend(*BACKEND_NAMES), {"enum": list(BACKEND_NAMES)})]
CacheType = Annotated[str, _choice(*_CACHE_TYPES)]
LoadMode = Annotated[str, _choice("auto", "none", "mmap", "mlock", "mmap+mlock")]
WatchApply = Annotated[str, _choice("safe", "all", "never")]
Target = Annotated[str, _choice("local", "cloud")]
Permission = Annotated[str, _choice(*PERMISSIONS)]


_MOST_CHOICES = 64


def _one_or_more(check: values.Check) -> values.Check:
    def checked(value: object) -> object:
        listed = value if isinstance(value, list) else [value]
        if len(listed) > _MOST_CHOICES:
            raise LmctlError("E-LIMIT", f"more than {_MOST_CHOICES} entries", fix="use a glob, or another block")
        for item in listed:
            check(item)
        return value

    return checked


def _any_of(check: values.Check, schema: Schema) -> Checked:
    both = [schema, {"type": "array", "items": schema, "minItems": 1, "maxItems": _MOST_CHOICES}]
    return Checked(_one_or_more(check), {"anyOf": both})


Os = Annotated[Any, _any_of(values.choice(*_CPU_OS), {"enum": list(_CPU_OS)})]
Arch = Annotated[Any, _any_of(values.choice(*_CPU_ARCH), {"enum": list(_CPU_ARCH)})]
Accelerator = Annotated[Any, _any_of(values.choice(*ACCELERATORS), {"enum": list(ACCELERATORS)})]
HostGlob = Annotated[Any, _any_of(values.text(253, empty=False), {"type": "string"})]
