"""What lmctl writes for others to read: the lock, saved plans and the envelope of `--json`, as pydantic models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lmctl.classes import Class, Moved
from lmctl.config.models import key
from lmctl.spec import Format, Role

Commit = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Blob = Annotated[str, Field(pattern="^([0-9a-f]{40}|[0-9a-f]{64})$")]
Size = Annotated[int, Field(ge=0)]
Shape = dict[str, str | int | float | bool | list[int | float | bool]]


class Exact(BaseModel):
    """An object without further keys."""

    model_config = ConfigDict(extra="forbid", strict=True)


class LockedFileEntry(Exact):
    """One file of an artifact."""

    path: str = Field(description="path inside the repository, or from the declaration's folder", min_length=1)
    role: Role = Field(description="what the file is for")
    size: int = Field(description="bytes", gt=0)
    sha256: Sha256 = Field(description="of the content")
    blob: Blob = key("the cache's name of the content, where it differs from sha256")


class LockedArtifact(Exact):
    """Everything that one declared model resolves to."""

    id: str = Field(description="repository@revision:selection, or path=…", min_length=1)
    format: Format = Field(description="kind of the weights")
    commit: Commit = key("commit of the repository; absent for local ones")
    shape: Shape = key("numbers of the header that the memory estimate needs")
    file: list[LockedFileEntry] = Field(description="files, weights first", min_length=1)


class LockFile(Exact):
    """localmodels.lock"""

    model_config = ConfigDict(title="lmctl lock")

    version: Literal[1] = Field(description="version of the format")
    artifact: list[LockedArtifact] = key("artifacts, sorted by id")


class CauseEntry(Exact):
    """One field that differs; null stands for absent."""

    field: str
    before: Any
    after: Any


class ChangeEntry(Exact):
    """One thing to do to one address."""

    id: str = Field(description="unique within the plan")
    stage: Literal["lock", "fetch", "serve", "prune"]
    verb: Literal["create", "update", "delete", "restart"]
    address: str = Field(description="what changes, such as program:code")
    cause: list[CauseEntry] = Field(description="why")
    download: Size | None = Field(description="bytes to fetch; null: not known before the lock is")
    free: Size = Field(description="bytes that become free")
    destroys: bool = Field(description="whether something is removed that would have to be fetched again")
    needs: list[str] = Field(description="ids of changes that must succeed before")


class SummaryEntry(Exact):
    """Counts of changes, and bytes."""

    add: Size
    change: Size
    restart: Size
    remove: Size
    download: Size = Field(description="bytes")
    free: Size = Field(description="bytes")


class MemoryEntry(Exact):
    """Whether the profiles that run together fit; bytes."""

    ram: Size = Field(description="main memory that may be used")
    gpu: list[Size] = Field(description="memory per device")
    need: dict[str, Size] = Field(description="by profile")
    fits: bool | None = Field(description="null: not known for every profile")


class ScopeEntry(Exact):
    """What a plan is about; `apply --plan` takes it from here."""

    profiles: list[str] | None = Field(description="the profiles that were named; null: all")
    exclude: list[str] = Field(description="the profiles that were left out")


class PlanFile(Exact):
    """A plan as `plan --json` prints it in `data` and `plan --out` saves it."""

    model_config = ConfigDict(title="lmctl plan")

    name: str = Field(description="the declaration's name")
    scope: ScopeEntry
    fingerprint: str = Field(description="of configuration, lock and observed state")
    changes: list[ChangeEntry] = Field(description="in the order in which they are applied")
    summary: SummaryEntry
    memory: MemoryEntry


Date = Annotated[str, Field(description="local time with its offset, to the second")]


class DriftField(Exact):
    """One thing that differs; null stands for absent, or not known."""

    field: str
    desired: Any = Field(description="as declared")
    applied: Any = Field(description="as it was last applied")
    observed: Any = Field(description="as it is")


class DriftEntry(Exact):
    """One thing that is not as declared."""

    class_: Class = Field(alias="class", description="what kind of difference it is")
    address: str = Field(description="what differs, such as program:code")
    moved: Moved | None = Field(description="your file, the world, or both; null: nothing remembers what was applied")
    fields: list[DriftField]
    mend: str = Field(description="what mends it")
    fingerprint: Sha256 = Field(description="the same for the same drift")
    first_seen: Date | None = Field(description="null: it was never recorded")
    last_seen: Date | None = Field(description="null: it was never recorded")
    count: Size = Field(description="how often `drift --record` saw it")


class DriftFile(Exact):
    """What `drift --json` prints in `data`."""

    model_config = ConfigDict(title="lmctl drift")

    name: str = Field(description="the declaration's name")
    complete: bool = Field(description="whether everything could be compared; `warnings` or `errors` say why not")
    drift: list[DriftEntry] = Field(description="by address")


class GenerationEntry(Exact):
    """One apply."""

    id: Annotated[int, Field(ge=1)] = Field(description="its number")
    at: Date
    result: Literal["done", "partial", "interrupted"]
    restores: int | None = Field(description="the generation that it went back to, for a rollback")
    snapshot: bool = Field(description="whether there is something to go back to")
    summary: SummaryEntry | None = Field(description="null: its plan cannot be read")
    config_hash: str = Field(description="of the configuration, and of the machine that it was resolved for")
    lock_hash: str = Field(description="of the lock")


class HistoryFile(Exact):
    """What `history --json` prints in `data`; with a number, it is one of these generations and its plan."""

    model_config = ConfigDict(title="lmctl history")

    name: str = Field(description="the declaration's name")
    in_force: int | None = Field(description="the generation that a rollback brought back, until the next apply")
    generations: list[GenerationEntry] = Field(description="the newest first")


class ProblemEntry(Exact):
    """Something that was found odd, or went wrong."""

    code: str = Field(pattern="^[EW]-[A-Z-]+$")
    what: str
    file: str = key("where")
    line: Annotated[int, Field(ge=1)] = key("counts from 1")
    column: Annotated[int, Field(ge=1)] = key("in characters, counts from 1")
    fix: str = key("what to do next")
    change: str = key("id of the plan's change that met it")


class ResultEnvelope(Exact):
    """What every command prints with --json."""

    model_config = ConfigDict(title="lmctl result")

    lmctl: str = Field(description="version of lmctl")
    schema_: Literal["result/1"] = Field(alias="schema")
    command: str
    ok: bool
    exit_code: Annotated[int, Field(ge=0, le=255)]
    data: dict[str, Any] = Field(description="the command's own result")
    warnings: list[ProblemEntry]
    errors: list[ProblemEntry]
