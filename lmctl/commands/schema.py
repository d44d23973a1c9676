"""`lmctl schema`: print or write the JSON Schemas, the reference made of them, and the gateway's OpenAPI document."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from lmctl import __version__
from lmctl.command import Context
from lmctl.config.find import refuse_missing
from lmctl.errors import LmctlError
from lmctl.paths import disk_error, write_atomic
from lmctl.result import Result

NAMES = ("localmodels", "profile", "machine", "lock", "plan", "result")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", choices=NAMES, help="which one; without it, their names")
    parser.add_argument("--write", metavar="DIR", help="write all of them into this folder")
    parser.add_argument("--markdown", action="store_true", help="print the reference of every key and code")
    parser.add_argument("--openapi", action="store_true", help="print the gateway's OpenAPI document")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Return one schema, or the names of those that were written. Raises E-USAGE, E-FILE, E-PERM, E-SPACE and E-IO."""
    from lmctl.schema import schemas  # pydantic

    if args.markdown or args.openapi:
        return _document(args)
    made = {**schemas(), "gateway.openapi.json": _openapi()}
    if args.write is not None:
        if args.name is not None:
            raise LmctlError("E-USAGE", "--write writes every schema", fix="leave out the name")
        if context.options.elsewhere:
            refuse_missing(context.options.directory)
        return _write(context.options.directory / args.write, made)
    if args.name is None:
        return Result({"schemas": list(NAMES)}, "".join(f"{name}\n" for name in NAMES))
    text = made[f"{args.name}.schema.json"]
    return Result({"schema": json.loads(text)}, text)


def _document(args: argparse.Namespace) -> Result:
    from lmctl.schema_docs import markdown  # pydantic

    if args.name is not None or args.write is not None or (args.markdown and args.openapi):
        flag = "--markdown" if args.markdown else "--openapi"
        raise LmctlError("E-USAGE", f"{flag} prints one document", fix="give it alone")
    if args.openapi:
        text = _openapi()
        return Result({"openapi": json.loads(text)}, text)
    text = markdown()
    return Result({"markdown": text}, text)


def _openapi() -> str:
    from lmctl.gateway.openapi import document  # all that the gateway judges requests by

    return json.dumps(document(__version__), indent=2, ensure_ascii=False) + "\n"


def _write(folder: Path, made: dict[str, str]) -> Result:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        changed = [name for name, text in made.items() if _differs(folder / name, text)]
    except OSError as error:
        raise disk_error(folder, error) from error
    for name in changed:
        write_atomic(folder / name, made[name].encode(), 0o644)
    lines = [f"Wrote {folder / name}" for name in changed] or [f"{folder} is up to date"]
    return Result({"folder": str(folder), "written": [*changed]}, "\n".join(lines))


def _differs(path: Path, text: str) -> bool:
    return not path.is_file() or path.read_bytes() != text.encode()
