"""`lmctl verify`: compare weights on disk with the lock; by signature and header, or with `--deep` by their bytes."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from lmctl import gguf, safetensors
from lmctl.acting import known, session
from lmctl.command import Context
from lmctl.errors import DONE, EXIT_CODES, INTEGRITY, LmctlError, Problem, escape
from lmctl.host import Found
from lmctl.progress import Reporter
from lmctl.record import record
from lmctl.resource import Case, Scope
from lmctl.resources import weights
from lmctl.result import Result
from lmctl.session import Session
from lmctl.source import Source, open_local
from lmctl.spec import Json
from lmctl.text import Style, human_bytes, table

_HEADERS: Mapping[str, Callable[[Source, str], object]] = {
    ".gguf": gguf.read_header,
    ".safetensors": safetensors.read_header,
}


@record
class Checked:
    """One file: ok, missing, unverified (never hashed here), modified (touched since), broken or corrupt."""

    artifact: str
    found: Found
    state: str
    problem: Problem | None = None

    def json(self) -> dict[str, Json]:
        file = self.found.file
        return {"artifact": self.artifact, "path": str(self.found.path), "size": file.size, "state": self.state}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profiles", nargs="*", metavar="PROFILE")
    parser.add_argument("--deep", action="store_true", help="read every byte and compare its sha256 with the lock")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Return a row per file; exit 6 when one is not what the lock says, 65 when one is missing."""
    current = session(context)
    names = known(current, args.profiles) or None
    case = current.look(Scope(names, prune=False))
    with Reporter(context) as reporter:
        checked = _deep(case, current, reporter) if args.deep else _quick(case)
    problems = tuple(each.problem for each in checked if each.problem)
    data: dict[str, Json] = {"files": [each.json() for each in checked]}
    codes = [EXIT_CODES[problem.code] for problem in problems]
    code = INTEGRITY if INTEGRITY in codes else next(iter(codes), DONE)
    return Result(data, lambda style: _text(checked, style), errors=problems, exit_code=code)


def _files(case: Case) -> list[tuple[str, Found]]:
    return [(artifact, found) for artifact, files in sorted(case.world.found.items()) for found in files]


def _quick(case: Case) -> list[Checked]:
    return [_by_signature(case, artifact, found) for artifact, found in _files(case)]


def _by_signature(case: Case, artifact: str, found: Found) -> Checked:
    state = weights.state(case, found)
    if state == "missing":
        return _missing(case, artifact, found)
    read = _HEADERS.get(Path(found.file.path).suffix)
    try:
        if read is not None:
            with open_local(found.path) as source:
                read(source, found.path.name)
    except LmctlError as error:
        return Checked(artifact, found, "broken", error.problems[0])
    if state == "modified":
        what = weights.resized(found) or f"{escape(str(found.path))} was touched since it was verified"
        return Checked(artifact, found, state, Problem("E-HASH", what, "run `lmctl verify --deep`, or `lmctl apply`"))
    return Checked(artifact, found, "ok" if state == "verified" else state)


def _missing(case: Case, artifact: str, found: Found) -> Checked:
    """A file that no profile waits for a start with should be there."""
    asking = (p for p in case.profiles() if p.fetch == "apply" and any(one.id == artifact for one in p.artifacts))
    if not any(asking):
        return Checked(artifact, found, "missing")
    what = f"{escape(str(found.path))} is missing"
    return Checked(artifact, found, "missing", Problem("E-FILE", what, _again(found, artifact)))


def _again(found: Found, artifact: str) -> str:
    """Return what brings a file back: lmctl fetches what the Hub has, and what is local is its owner's."""
    gone = found.signature is None
    if artifact.startswith("path="):
        there = "" if gone else ", or run `lmctl lock --upgrade` to lock what is there"
        return f"put it back as it was locked{there}"
    return "run `lmctl apply`" if gone else "move it away and run `lmctl apply`"


def _deep(case: Case, session: Session, reporter: Reporter) -> list[Checked]:
    files = _files(case)
    there = [(artifact, found) for artifact, found in files if found.signature is not None]
    digests = session.host.store.hashes([found.content for _, found in there], reporter.progress)
    checked = [_missing(case, artifact, found) for artifact, found in files if found.signature is None]
    for (artifact, found), digest in zip(there, digests, strict=True):
        checked.append(_by_bytes(artifact, found, digest))
    return sorted(checked, key=lambda each: (each.artifact, each.found.file.path))


def _by_bytes(artifact: str, found: Found, digest: str | None) -> Checked:
    if digest == found.file.sha256:
        return Checked(artifact, found, "ok")
    shown = escape(str(found.path))
    if digest is None:
        return Checked(artifact, found, "broken", Problem("E-PERM", f"{shown} cannot be read", "check its permissions"))
    what = f"{shown} has sha256 {digest}, the lock says {found.file.sha256}"
    return Checked(artifact, found, "corrupt", Problem("E-HASH", what, _again(found, artifact)))


def _text(checked: list[Checked], style: Style) -> str:
    if not checked:
        return "Nothing is locked, so there is nothing to verify.\n"
    rows = [["FILE", "SIZE", "STATE"]]
    rows += [[escape(str(each.found.path)), human_bytes(each.found.file.size), each.state] for each in checked]
    return table(rows, style)
