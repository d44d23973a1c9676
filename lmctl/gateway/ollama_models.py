"""What the gateway knows of its models in the words of Ollama's API. Pure; what is not known is left out or empty."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from lmctl.fit import request_context
from lmctl.record import NOTHING, record
from lmctl.selection import quant_of
from lmctl.spec import Json, Lock, LockedFile, Profile, Wanted

API = "0.12.11"  # the version of Ollama whose API this is: its clients ask whether it is new enough for them
_NEVER = "2300-01-01T00:00:00Z"  # when a model ends that stays: Ollama, too, names a date beyond all plans


@record
class Known:
    """What is known of one profile's model. Bytes and tokens."""

    name: str
    size: int | None = None  # of its files
    digest: str = ""  # sha256 over its files
    format: str = ""
    family: str = ""
    quant: str = ""
    ctx: int | None = None  # of one request
    ttl: float | None = None  # seconds of idling after which it is stopped, None: it stays
    capabilities: tuple[str, ...] = ()
    sampling: Mapping[str, str | int | float | bool | None] = NOTHING  # as declared
    shape: Mapping[str, Json] = NOTHING


@record
class Running:
    """A model that runs, until `expires` (seconds since the epoch; None: until somebody stops it)."""

    known: Known
    expires: float | None = None


def known(profile: Profile, lock: Lock) -> Known:
    """Return what declaration and lock tell of a profile; a command without weights has a name and no more."""
    artifact = lock.artifacts.get(profile.weights.id) if profile.weights else None
    ttl = profile.ttl if profile.start == "on-demand" else None
    if artifact is None:
        return Known(profile.name, capabilities=_capabilities(profile, ()), ttl=ttl)
    architecture = artifact.shape.get("architecture")
    return Known(
        name=profile.name,
        size=artifact.size,
        digest=_digest(artifact.files),
        format=_format(artifact.files),
        family=architecture if isinstance(architecture, str) else "",
        quant=quant_of(artifact.files[0].path) or "",
        ctx=request_context(profile.settings, artifact.shape),
        ttl=ttl,
        capabilities=_capabilities(profile, artifact.files),
        sampling=profile.settings.sampling,
        shape=artifact.shape,
    )


def version() -> dict[str, Json]:
    """Return the answer of /api/version."""
    return {"version": API}


def tags(models: Iterable[Known]) -> dict[str, Json]:
    """Return the answer of /api/tags."""
    return {"models": [_entry(one) for one in models]}


def show(model: Known) -> dict[str, Json]:
    """Return the answer of /api/show."""
    family, shape = model.family, model.shape
    info: dict[str, Json] = {"general.architecture": family} if family else {}
    info |= {f"{family}.{name}": value for name, value in shape.items() if family and name != "architecture"}
    told = {**({} if model.ctx is None else {"num_ctx": model.ctx}), **model.sampling}
    return {
        "modelfile": "",
        "template": "",
        "parameters": "\n".join(f"{name:<30} {value}" for name, value in told.items()),
        "details": _details(model),
        "model_info": info,
        "capabilities": [*model.capabilities],
    }


def ps(models: Iterable[Running]) -> dict[str, Json]:
    """Return the answer of /api/ps."""
    return {"models": [_running(one) for one in models]}


def _running(one: Running) -> Json:
    told: dict[str, Json] = {"expires_at": _NEVER if one.expires is None else _date(one.expires)}
    return {**_entry(one.known), **told, **({} if one.known.ctx is None else {"context_length": one.known.ctx})}


def _entry(model: Known) -> dict[str, Json]:
    size: dict[str, Json] = {} if model.size is None else {"size": model.size}
    return {"name": model.name, "model": model.name, **size, "digest": model.digest, "details": _details(model)}


def _details(model: Known) -> Json:
    return {
        "parent_model": "",
        "format": model.format,
        "family": model.family,
        "families": [model.family] if model.family else [],
        "parameter_size": "",
        "quantization_level": model.quant,
    }


def _capabilities(profile: Profile, files: Sequence[LockedFile]) -> tuple[str, ...]:
    """Return what a profile can do. llama.cpp's server takes tools with every template; of others it is not known."""
    if profile.settings.rerank:
        return ()
    if profile.settings.embeddings:
        return ("embedding",)
    beside = profile.mmproj == "auto" and any(file.role == "mmproj" for file in files)
    vision = ("vision",) if beside or isinstance(profile.mmproj, Wanted) else ()
    return ("completion", *vision, *(("tools",) if profile.backend == "llama.cpp" else ()))


def _digest(files: Sequence[LockedFile]) -> str:
    """Return the sha256 of the file, of a list of their sha256 where there are several."""
    if len(files) == 1:
        return files[0].sha256
    return hashlib.sha256("".join(f"{file.sha256} {file.path}\n" for file in files).encode()).hexdigest()


def _format(files: Sequence[LockedFile]) -> str:
    endings = [file.path.rpartition(".")[2].lower() for file in files]
    return next((ending for ending in endings if ending in ("gguf", "safetensors")), "")


def _date(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").removesuffix("+00:00") + "Z"
