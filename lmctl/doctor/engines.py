"""Engines and what they run on: which program serves each backend, its version, accelerators, open files."""

from __future__ import annotations

from collections.abc import Iterator

from lmctl.all_backends import BACKENDS
from lmctl.doctor.finding import Finding, fail, ok
from lmctl.errors import LmctlError, escape
from lmctl.host import Engines
from lmctl.spec import Declaration, Hardware
from lmctl.text import human_bytes


def judge(engines: Engines, declaration: Declaration | None) -> Iterator[Finding]:
    """Judge the engine of each backend; one that no profile uses may be missing.

    Only an engine that lmctl itself would start is run, with --version and nothing else.
    """
    used = {profile.backend for profile in declaration.profiles} if declaration else set()
    for backend, answers in BACKENDS.items():
        if answers.BINARIES or answers.MODULE is not None:
            yield _engine(engines, backend, needed=backend in used)


def _engine(engines: Engines, backend: str, *, needed: bool) -> Finding:
    check, fix = f"engine {backend}", BACKENDS[backend].INSTALL
    try:
        engine = engines.find(backend)
        version = engines.ask(backend) if engine else None
    except LmctlError as error:
        return fail(check, error, "fail" if needed else "warn")
    if engine is None and needed:
        return fail(check, LmctlError("E-ENGINE", "none is installed, and a profile needs one", fix=fix))
    if engine is None:
        return ok(check, f"none; {fix}")
    where = "in lmctl's own Python" if engine.argv[0] == "{python}" else escape(engine.argv[0])
    return ok(check, f"{where}, {'version ' + version if version else 'tells no version'}")


def accelerator(hardware: Hardware) -> Finding:
    """Tell memory and accelerators."""
    memory = f"{human_bytes(hardware.ram)} memory, {hardware.cores} cores"
    if hardware.accelerator == "none":
        return ok("hardware", f"{memory}, no accelerator")
    gpus = ", ".join(map(human_bytes, hardware.gpus)) or "memory not known"
    return ok("hardware", f"{memory}, {hardware.accelerator}: {gpus}")


def open_files(declaration: Declaration | None, need: int, most: int | None) -> Finding:
    """Tell whether supervisord may open as many files as its programs take."""
    count = len(declaration.profiles) if declaration else 0
    limit = "no limit" if most is None else f"at most {most}"
    profiles = f"{count} profile{'s' * (count != 1)}"
    if most is None or need <= most:
        return ok("open files", f"{limit}; {need} needed for {profiles}")
    what = f"supervisord needs {need} for {profiles} and may have {most}"
    return fail("open files", LmctlError("E-SUPERVISOR", what, fix="raise the limit (ulimit -Hn)"))
