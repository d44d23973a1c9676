"""Which models nobody used for a while, and what would free their bytes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from lmctl import adhoc
from lmctl.errors import escape
from lmctl.ledger import Owned
from lmctl.record import record
from lmctl.resource import Case
from lmctl.spec import Profile
from lmctl.text import human_bytes
from lmctl.usage.rows import model_name

Status = Literal["active", "stale", "undeclared"]
_DAY = 86400.0


@record
class Model:
    """One artifact on this machine, or declared for it. `size` is bytes on disk, None: none of it is here.

    `idle` is whole days without a request, as far as requests were counted: None where that cannot be told.
    """

    name: str
    artifact: str
    size: int | None
    last_used: float | None  # seconds since the epoch; None: no request was counted
    idle: int | None
    status: Status
    stale: bool  # unused for longer than the threshold, declared or not
    brought: bool  # by lmctl: nothing else can be removed
    profiles: tuple[str, ...] = ()  # that ask for it, on this machine or another
    files: tuple[str, ...] = ()  # in which they are declared
    runs: tuple[str, ...] = ()  # profiles that only run, undeclared


@record
class Known:
    """What usage.db tells: when each model was last used, and since when requests are counted (None: never).

    `counts`: whether they are counted now; `uncountable` are profiles whose requests never are.
    """

    last: Mapping[str, float]
    since: float | None
    now: float
    threshold: float  # seconds
    counts: bool = True
    uncountable: frozenset[str] = frozenset()


def name_of(artifact: str) -> str:
    """Return what a model is called whose artifact has this id: owner/name:quant, or the file's name."""
    if artifact.startswith("path="):
        return artifact.rpartition("/")[2].removeprefix("path=")
    repo, _, rest = artifact.partition("@")
    selection = rest.rpartition(":")[2]
    return f"{repo}:{selection}" if selection else repo


def models(case: Case, known: Known) -> tuple[Model, ...]:
    """Return every model of the ledger and of the declaration, the largest first."""
    rows: dict[str, list[Owned]] = {}
    for path, row in sorted(case.world.owned.items()):
        if row.kind != "link" and path not in case.world.gone:
            rows.setdefault(row.artifact, []).append(row)
    every = rows.keys() | {wanted.id for profile in case.declaration.profiles for wanted in profile.artifacts}
    found = [_model(case, artifact, rows.get(artifact, []), known) for artifact in every]
    return tuple(sorted(found, key=lambda model: (-(model.size or 0), model.artifact)))


def advice(model: Model) -> str | None:
    """Return what a person could do about a model, None where nothing is to be done."""
    if model.size is None or (model.status == "active"):
        return None
    since = "not known whether it is used" if model.idle is None else f"unused for {_days(model.idle)}"
    size = human_bytes(model.size)
    if model.status == "stale":
        where = ", ".join(map(escape, model.files)) or "another file"
        return f"{since}, {size}, still declared in {where}: remove it there, then `lmctl apply`"
    if model.runs:
        return f"{since}, {size}, runs undeclared: `lmctl stop {escape(model.runs[0])}`, then look again"
    if not model.brought:
        return f"{since}, {size}, not declared; lmctl did not bring it and leaves it"
    return f"{since}, {size}, not declared: `lmctl cleanup --remove {escape(model.name)}`"


def _model(case: Case, artifact: str, rows: list[Owned], known: Known) -> Model:
    declaration = case.declaration
    using = [profile for profile in declaration.profiles if any(one.id == artifact for one in profile.artifacts)]
    asking = tuple(dict.fromkeys((*declaration.asked_by.get(artifact, ()), *(one.name for one in using))))
    written = adhoc.declared(declaration)
    here = {profile.name for profile in declaration.profiles}
    declared = tuple(name for name in asking if name in written or name not in here)
    idle, last = _idle(artifact, rows, using, known)
    stale = idle is not None and idle * _DAY > known.threshold
    return Model(
        name=name_of(artifact),
        artifact=artifact,
        size=sum({row.sha256: row.signature.size for row in rows}.values()) if rows else None,
        last_used=last,
        idle=idle,
        status="undeclared" if not declared else "stale" if stale and rows else "active",
        stale=stale and bool(rows),
        brought=any(row.kind == "blob" for row in rows),
        profiles=declared,
        files=tuple(dict.fromkeys(_file(case, name) for name in declared)),
        runs=tuple(name for name in asking if name not in declared),
    )


def _idle(artifact: str, rows: list[Owned], using: list[Profile], known: Known) -> tuple[int | None, float | None]:
    """Return the days without use, and when the last one was. What is beside a model is used with it."""
    names = {name_of(artifact), *(model_name(profile) for profile in using)}
    last = max((known.last[name] for name in names if name in known.last), default=None)
    if not known.counts or any(profile.name in known.uncountable for profile in using):
        return None, last
    if last is None and known.since is None:
        return None, None
    here = max((row.acquired_at for row in rows), default=0.0)
    begin = last if last is not None else max(here, known.since or 0.0)
    return max(0, int((known.now - begin) // _DAY)), last


def _file(case: Case, name: str) -> str:
    profile = case.declaration.profile(name)
    return profile.file if profile is not None and profile.file else case.declaration.file.name


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count} days"
