"""Names of profiles and of what they serve, which may be a client's: what stands in for each in a report."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import PurePath

from lmctl import census, logbook
from lmctl.all_backends import BACKENDS
from lmctl.config.names import RESERVED
from lmctl.doctor.look import Patient
from lmctl.errors import LmctlError
from lmctl.ledger import Ledger, Memory
from lmctl.session import Session
from lmctl.spec import Wanted

# words that lmctl itself says, so that they tell nothing and a report without them could not be read
_OWN = {
    *logbook.ACTS,
    *BACKENDS,
    *RESERVED,
    "llama",
    "code",
    "chat",
    "embed",
    "rerank",
    "vision",
    "reasoning",
    "model",
    "profile",
}
_OWN |= {"weights", "program", "path", "file", "name", "text", "state", "log", "error", "main", "home", "repo", "cache"}
_OWN |= {"plan", "status", "drift", "verify", "config", "history", "logs", "outdated", "validate", "init"}
_PROFILES = (
    re.compile(r"\bprogram:([A-Za-z0-9][A-Za-z0-9._-]{0,62})"),
    re.compile(r"\bprofiles\.(?:\\?\"([^\"\\]+)\\?\"|([A-Za-z0-9][A-Za-z0-9_-]*))"),
    re.compile(r"\bprofiles/([A-Za-z0-9][A-Za-z0-9._-]*)\.toml"),
    re.compile(r"\b(?:stopped|held|started|kept|profile): ?'?([A-Za-z0-9][A-Za-z0-9._-]{0,62})"),
)
_ARTIFACT = re.compile(r"\b(?:path=[^\s\"]+|[A-Za-z0-9][\w.-]*/[\w.-]+@[\w./-]+(?::[^\s\",;)]*)?)")
_CACHED = re.compile(r"\bmodels--([\w.-]+?)--([\w.-]+)")


def names(patient: Patient, text: str) -> dict[str, str]:
    """Return every name that is known here, or that `text` gives a place where one stands, with its number.

    What a declaration says that cannot be read is found by its place alone.
    """
    profiles = {*_declared(patient), *_applied(patient), *_placed(text)} - {""}
    artifacts = {*_wanted(patient), *_owned(patient), *_ARTIFACT.findall(text)}
    artifacts |= {f"{owner}/{name}" for owner, name in _CACHED.findall(text)}
    instead = _numbered(sorted(profiles), "profile")
    for number, artifact in enumerate(sorted(artifacts), 1):
        for form in filter(_tells, _forms(artifact)):
            instead.setdefault(form, f"(model {number})")
    return instead


def _numbered(found: Iterable[str], noun: str) -> dict[str, str]:
    return {name: f"({noun} {number})" for number, name in enumerate(filter(_tells, found), 1)}


def _tells(name: str) -> bool:
    return len(name) > 1 and name.casefold() not in _OWN and not name.isdecimal()


def _forms(artifact: str) -> Iterator[str]:
    """Yield how an artifact is called: by its id, its repository as the Hub and the cache write it, or its file."""
    repo, _, rest = artifact.removeprefix("path=").partition("@")
    selected = rest.partition(":file=")[2]
    yield from (artifact, repo, PurePath(repo).name, PurePath(repo).stem, selected, PurePath(selected).name)
    if repo.count("/") == 1 and not artifact.startswith("path="):
        yield from (f"models--{repo.replace('/', '--')}", repo.partition("/")[0])


def _declared(patient: Patient) -> Iterator[str]:
    for profile in patient.declaration.profiles if patient.declaration else ():
        yield from (profile.name, *profile.aliases)


def _wanted(patient: Patient) -> Iterator[str]:
    declaration = patient.declaration
    if declaration is None:
        return
    variants: Iterable[Wanted] = (*declaration.variants, *declaration.local_variants)
    yield from (wanted.id for wanted in variants)
    yield from (wanted.id for profile in declaration.profiles for wanted in profile.artifacts)
    try:
        lock = Session.of(declaration, patient.context.folders, patient.host).lock()
    except (LmctlError, OSError):
        return
    yield from (f"path={file.path}" for artifact in lock.artifacts.values() for file in artifact.files)


def _memories(patient: Patient) -> Iterator[Memory]:
    """Yield what each ledger remembers; where the folder of one is shut, nothing of it is in the report either."""
    folders = patient.context.folders
    for name in census.names(folders):
        with suppress(OSError):
            yield Ledger(folders.declaration(name) / "ledger.db").read()


def _applied(patient: Patient) -> Iterator[str]:
    for memory in _memories(patient):
        addresses = memory.applied or {}
        yield from (address.partition(":")[2] for address in addresses if address.startswith("program:"))


def _owned(patient: Patient) -> Iterator[str]:
    for memory in _memories(patient):
        yield from (row.artifact for row in memory.owned if row.artifact)


def _placed(text: str) -> Iterator[str]:
    for pattern in _PROFILES:
        for found in pattern.finditer(text):
            yield next((group for group in found.groups() if group), "").rstrip(".")
