"""`lmctl init`: write a first localmodels.toml."""

from __future__ import annotations

import argparse
import re

from lmctl.command import Context
from lmctl.config.find import MAIN, refuse_missing
from lmctl.errors import LmctlError, escape
from lmctl.paths import write_atomic
from lmctl.result import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--name", help="identity of the declaration on a machine; default: made of the folder's name")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Write the file where there is none. Raises E-CONFLICT, E-NAME and E-FILE."""
    from lmctl.config.names import name as check_name  # these bring tomlkit, which no other command starts with
    from lmctl.config_edit import first

    options = context.options
    if options.elsewhere:
        refuse_missing(options.directory)
    path = options.directory / (options.config or MAIN)
    if path.exists() or path.is_symlink():
        raise LmctlError(
            "E-CONFLICT", f"{escape(str(path))} is there already", fix="add to it with `lmctl profile add`"
        )
    name = args.name if args.name is not None else _from_folder(path.absolute().parent.name)
    check_name(name)
    write_atomic(path, first(name).encode(), 0o644)
    text = f"Wrote {path}.\nNext: lmctl profile add NAME model=owner/name quant=Q4_K_M, then lmctl plan.\n"
    return Result({"file": str(path), "name": name}, text)


def _from_folder(folder: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder).lstrip("._-")[:63] or "models"
