"""Worlds for planning tests: a declaration, a lock and an observed machine, without a machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lmctl import desired
from lmctl.backend import Engine
from lmctl.front import Front
from lmctl.host import Daemon, Found
from lmctl.ledger import Applied, Memory, Owned
from lmctl.record import replace
from lmctl.resource import Case, References, Scope, World
from lmctl.spec import (
    Artifact,
    Declaration,
    Hardware,
    Lock,
    LockedFile,
    Process,
    Profile,
    Settings,
    Signature,
    Wanted,
    program_id,
)

GIB = 1 << 30
NOW = 1_800_000_000.0
DAY = 86400.0
SHAPE = {
    "architecture": "llama",
    "block_count": 32,
    "context_length": 131072,
    "embedding_length": 4096,
    "attention.head_count": 32,
    "attention.head_count_kv": 8,
    "vocab_size": 128256,
}
HARDWARE = Hardware(os="linux", arch="x86_64", host="box", ram=64 * GIB, cores=8)
EVERYTHING = Scope()
DIRECT = Front(enabled=False)  # clients ask the engines themselves
ENGINE = Engine(("/usr/bin/llama-server",))


def wanted(name: str, revision: str = "main") -> Wanted:
    return Wanted(f"org/{name}@{revision}:Q4_K_M", f"org/{name}", revision, "Q4_K_M", "gguf")


def artifact(name: str, commit: str = "a" * 40, size: int = 4 * GIB) -> Artifact:
    file = LockedFile(f"{name}-Q4_K_M.gguf", "weights", size, (name + commit[0]).encode().hex().ljust(64, "0")[:64])
    return Artifact(wanted(name).id, "gguf", commit, SHAPE, (file,))


def profile(name: str, *, settings: Settings | None = None, **how: object) -> Profile:
    settings = settings or Settings(ctx=8192)
    shown = {"model": f"org/{name}", "quant": "Q4_K_M", "ctx": settings.ctx}
    fields: dict = {"port": 9000 + sum(name.encode()) % 900, "file": "localmodels.toml", "changed": shown, **how}
    return Profile(name, "llama.cpp", fields.pop("weights", wanted(name)), settings, **fields)


def blob(artifact: Artifact) -> Path:
    return Path("/hub/blobs") / artifact.files[0].sha256


def found(artifact: Artifact, signature: Signature | None) -> tuple[Found, ...]:
    file = artifact.files[0]
    return (Found(file, Path("/hub/snapshots") / file.path, blob(artifact), signature),)


def signature(artifact: Artifact, mtime: int = 1) -> Signature:
    return Signature(artifact.files[0].size, mtime, 7, 1)


def owned(artifact: Artifact, kind: str = "blob", **how: object) -> Owned:
    file = artifact.files[0]
    return Owned(str(blob(artifact)), kind, artifact.id, signature(artifact), file.sha256, NOW, NOW, **how)


def case(
    *profiles: Profile,
    artifacts: tuple[Artifact, ...] = (),
    here: tuple[Artifact, ...] = (),
    rows: tuple[Owned, ...] = (),
    scope: Scope = EVERYTHING,
    **world: object,
) -> Case:
    """Return a case whose `here` artifacts lie on disk as they were when their `rows` were written."""
    asked = tuple(w for p in profiles for w in p.artifacts)
    declared = Declaration("team", Path("/repo"), Path("/repo/localmodels.toml"), profiles, asked, front=DIRECT)
    on_disk = {a.id: signature(a) for a in here}
    by_path = {row.path: row for row in rows}
    fields: dict = {
        "daemon": Daemon(None, {}, {}),
        "found": {a.id: found(a, on_disk.get(a.id)) for a in artifacts},
        "engines": {"llama.cpp": ENGINE},
        "owned": by_path,
        "there": frozenset(by_path),
        "references": References(frozenset()),
        "memory": Memory(tuple(rows), {}, {}, {}),
        **world,
    }
    return Case(declared, Lock({a.id: a for a in artifacts}), World(hardware=HARDWARE, now=NOW, **fields), scope)


def applied(case: Case, states: Mapping[str, str], *, hashes: Mapping[str, str] | None = None) -> Case:
    """Return `case` as it looks after an apply: program files written, processes in `states`, the ledger filled."""
    ready = desired.programs(case).ready
    specs = {want.spec.id: want.spec for want in ready.values()}
    processes = {
        program_id(name): Process(
            program_id(name),
            state,
            pid=4000 if state in {"RUNNING", "STARTING"} else None,
            hash=(hashes or {}).get(name, ready[name].spec.hash),
        )
        for name, state in states.items()
    }
    memory = replace(
        case.world.memory, applied={f"program:{name}": Applied(w.fields, w.spec.hash) for name, w in ready.items()}
    )
    world = replace(case.world, daemon=Daemon(99, processes, specs), memory=memory)
    return replace(case, world=world)
