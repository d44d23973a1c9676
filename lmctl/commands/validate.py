"""`lmctl validate`: judge the configuration; every problem at once, each with its place."""

from __future__ import annotations

import argparse

from lmctl.command import Context
from lmctl.result import Result
from lmctl.spec import Json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """It takes the global flags alone."""


def run(context: Context, args: argparse.Namespace) -> Result:
    """Return what was read. Raises every problem of the configuration."""
    declaration = context.declaration(written=True)
    names = [profile.name for profile in declaration.profiles]
    count = f"{len(names)} profile{'' if len(names) == 1 else 's'}"
    lines = [f"{declaration.name}: {count}, no errors ({declaration.file})"]
    if declaration.inert:
        lines.append(f"note: no effect yet: {', '.join(declaration.inert)}")
    data: dict[str, Json] = {"name": declaration.name, "file": str(declaration.file)}
    data |= {"profiles": [*names], "inert": [*declaration.inert]}
    return Result(data, "\n".join(lines), declaration.warnings)
