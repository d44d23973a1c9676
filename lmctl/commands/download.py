"""`lmctl download`: fetch a repository's files into the cache, verified and never pruned."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from threading import Lock as Mutex

from lmctl.acting import declaration_or_stand_in, repository
from lmctl.command import Context
from lmctl.errors import LmctlError
from lmctl.host import Fetch, Fetched
from lmctl.progress import Reporter
from lmctl.resolving import resolve
from lmctl.resources.weights import brought
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import Artifact, Json, Wanted
from lmctl.text import human_bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("repo", metavar="REPO", help="owner/name on the Hub")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--quant", help="which quant, e.g. Q4_K_M")
    choice.add_argument("--file", help="which file; its shards come along")
    parser.add_argument("--revision", default="main", help="branch, tag or commit (main)")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Resolve, fetch and verify; files that are there already are not fetched again."""
    repository(context, args.repo, "download")
    declaration = declaration_or_stand_in(context)
    current = Session.of(declaration, context.folders, context.host(declaration))
    current.ledger.refuse_newer()
    wanted = _wanted(current, args)
    artifact = resolve(wanted, current.host.hub)
    found = current.host.store.locate(artifact, wanted, {})
    with Reporter(context) as reporter:
        digests = current.host.store.hashes([file.content for file in found if file.signature], reporter.progress)
    right = iter(digests)
    there = {file.file.path for file in found if file.signature and next(right) == file.file.sha256}
    fetches = [
        Fetch(args.repo, args.revision, artifact.commit or "", file.file)
        for file in found
        if file.file.path not in there
    ]
    _fetch(context, current, artifact, fetches, {file.file.path: file.path for file in found})
    paths = [str(file.path) for file in current.host.store.locate(artifact, wanted, {})]
    moved = sum(fetch.file.size for fetch in fetches)
    data: dict[str, Json] = {"repo": args.repo, "commit": artifact.commit, "downloaded": moved, "files": [*paths]}
    head = f"{args.repo} at {artifact.commit}: {human_bytes(moved)} downloaded of {human_bytes(artifact.size)}"
    done = tuple(f"fetched: {fetch.file.path} of {fetch.repo}" for fetch in fetches)
    return Result(
        data, "\n".join([head, *(f"  {path}" for path in paths)]), warnings=tuple(current.ledger.notices), done=done
    )


def _wanted(current: Session, args: argparse.Namespace) -> Wanted:
    if args.quant or args.file:
        selection = args.quant or f"file={args.file}"
        return Wanted(f"{args.repo}@{args.revision}:{selection}", args.repo, args.revision, selection, "gguf")
    names = [file.path for file in current.host.hub.list(args.repo, args.revision).files]
    whole = not any(name.endswith(".gguf") for name in names)
    selection = "mlx" if whole else ""
    identity = f"{args.repo}@{args.revision}:{selection}"
    return Wanted(identity, args.repo, args.revision, selection, "mlx" if whole else "gguf")


def _fetch(
    context: Context, current: Session, artifact: Artifact, fetches: list[Fetch], links: Mapping[str, Path]
) -> None:
    if not fetches:
        return
    current.host.transfer.room(fetches)
    recording = Mutex()

    def own(fetched: Fetched) -> None:
        now = current.host.now()
        rows = brought(fetched, "blob", links[fetched.fetch.file.path], artifact.id, now, protect=True)
        with recording, current.ledger.writing(now) as ledger:
            ledger.own(rows)

    with Reporter(context) as reporter:
        try:
            results = current.host.transfer.fetch(fetches, reporter.progress, own)
        except KeyboardInterrupt:
            reporter.say("what has arrived is kept: run it again, and it goes on")
            raise
    problems = [problem for result in results if result.error for problem in result.error.problems]
    if problems:
        raise LmctlError.of(problems)
