"""What a report to the maintainers needs, as one JSON file: facts and findings, redacted, no prompts."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from lmctl import __version__, census, crash, logbook
from lmctl.doctor import clients
from lmctl.doctor.finding import Finding
from lmctl.doctor.look import Patient
from lmctl.errors import LmctlError, escape
from lmctl.paths import write_atomic
from lmctl.redact import Redactor, tokens
from lmctl.spec import Declaration, Hardware, Json

_LINES = 100  # of the log of each declaration
_DEFECTS = 3  # reports of defects, the latest
_PACKAGES = ("supervisor", "huggingface_hub", "urllib3", "pydantic", "psutil", "xllamacpp", "mlx-lm", "mlx")


def refuse(path: Path) -> None:
    """Raise E-USAGE where there is a file already, or no folder for one."""
    if os.path.lexists(path):
        raise LmctlError("E-USAGE", f"{escape(str(path))} is there already", fix="name a new file")
    if not path.parent.is_dir():
        raise LmctlError("E-USAGE", f"{escape(str(path.parent))} is no folder", fix="name a file in one that there is")


def write(path: Path, patient: Patient, findings: Iterable[Finding]) -> None:
    """Write the file, for this user's eyes alone until it is sent. Raises as `refuse`, and E-SPACE, E-PERM or E-IO."""
    refuse(path)
    facts, folders, environ = _facts(patient, findings), patient.context.folders, patient.context.environ
    instead = {**clients.names(patient, json.dumps(facts, ensure_ascii=False)), **_declarations(patient)}
    redactor = Redactor(environ, folders.home, tokens(environ, folders), instead)
    write_atomic(path, json.dumps(redactor.plain(facts), indent=1).encode() + b"\n")


def _facts(patient: Patient, findings: Iterable[Finding]) -> dict[str, Json]:
    system, folders = os.uname(), patient.context.folders
    return {
        "schema": "bundle/1",
        "lmctl": __version__,
        "python": sys.version,
        "system": [system.sysname, system.release, system.machine],
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "hardware": _hardware(patient.host.hardware),
        "declaration": _declaration(patient.declaration),
        "findings": [found.plain() for found in findings],
        "log": [*_log(patient)],
        "defects": [crash.read(path) for path in crash.reports(folders)[:_DEFECTS]],
    }


def _log(patient: Patient) -> Iterator[str]:
    """Yield the latest lines of lmctl's own log, declaration by declaration."""
    folders = patient.context.folders
    for name in census.names(folders):
        yield from logbook.tail(folders.declaration(name), _LINES)


def _hardware(hardware: Hardware) -> Json:
    return {
        "os": hardware.os,
        "arch": hardware.arch,
        "ram": hardware.ram,
        "accelerator": hardware.accelerator,
        "gpus": [*hardware.gpus],
        "cores": hardware.cores,
    }


def _declaration(declaration: Declaration | None) -> Json:
    """Return how much is declared of what kind: neither names nor models."""
    if declaration is None:
        return None
    profiles = declaration.profiles
    return {
        "profiles": len(profiles),
        "backends": {**Counter(profile.backend for profile in profiles)},
        "starts": {**Counter(profile.start for profile in profiles)},
        "local": sum(profile.weights is not None and profile.weights.repo is None for profile in profiles),
    }


def _declarations(patient: Patient) -> dict[str, str]:
    """Return the names and folders of declarations, which may be a client's, with what stands in for each."""
    folders = patient.context.folders
    instead: dict[str, str] = {}
    for number, name in enumerate(census.names(folders), 1):
        folder = census.stub(folders, name, patient.machine).folder
        instead |= {str(folder): f"(folder {number})", name: f"(declaration {number})"}
    if patient.declaration is not None:
        instead.setdefault(str(patient.declaration.folder), "(folder)")
        instead.setdefault(patient.declaration.name, "(declaration)")
    return instead


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
