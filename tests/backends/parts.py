"""What the tests of backends put together: artifacts with their files in one folder, and all that argv depends on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lmctl.backend import Engine, Serve
from lmctl.record import replace
from lmctl.spec import Artifact, Format, Hardware, Json, LockedFile, Profile, Role, Settings, Wanted

BINARY = Engine(("/usr/bin/llama-server",))
LINUX = Hardware("linux", "x86_64", "box", 64 << 30, cores=8)
MAC = Hardware("darwin", "arm64", "mac", 64 << 30, accelerator="metal", gpus=(64 << 30,), cores=12)


def wanted(id: str, format: Format = "gguf", role: Role = "weights") -> Wanted:
    return Wanted(id, None, None, "", format, role)


def artifact(id: str, roles: Mapping[str, Role], format: Format = "gguf", **shape: Json) -> Artifact:
    """An artifact of files by role."""
    files = tuple(LockedFile(path, role, 1, "0" * 64) for path, role in roles.items())
    return Artifact(id, format, None, shape, files)


def serve(
    profile: Profile, *artifacts: Artifact, engine: Engine = BINARY, port: int = 8081, key_file: str | None = None
) -> Serve:
    """Everything in /w/<artifact's id>, on Linux."""
    paths = {(each.id, file.path): Path("/w") / each.id / file.path for each in artifacts for file in each.files}
    known = {each.id: each for each in artifacts}
    return Serve(profile, engine, "127.0.0.1", port, known, paths, LINUX, key_file=key_file)


def placed(content: Serve, folder: Path) -> Serve:
    """The same with every file in `folder` itself."""
    return replace(content, files={key: folder / key[1] for key in content.files})


def profile(backend: str = "llama.cpp", settings: Settings | None = None, **fields: object) -> Profile:
    """A profile called `chat` with weights `w`, unless `fields` say otherwise."""
    format: Format = "mlx" if backend == "mlx" else "gguf"
    plain = Profile("chat", backend, wanted("w", format), settings or Settings())
    return replace(plain, **fields)  # type: ignore[arg-type]


def flag(argv: tuple[str, ...], name: str) -> str | None:
    """The value of a flag that is given once; None when it is not given."""
    assert argv.count(name) <= 1, argv
    return argv[argv.index(name) + 1] if name in argv else None
