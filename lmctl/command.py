"""What a command is: a module of `commands/` with a parser and a function from context and arguments to a result."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TextIO

from lmctl.host import Host
from lmctl.paths import Folders
from lmctl.record import record
from lmctl.result import Result
from lmctl.spec import Declaration, Hardware
from lmctl.text import Style


@record
class Options:
    """The global flags."""

    directory: Path  # -C, else the current folder; absolute
    elsewhere: bool = False  # -C was given
    config: Path | None = None
    sets: tuple[str, ...] = ()
    json: bool = False
    quiet: bool = False
    verbose: bool = False
    offline: bool = False
    debug: bool = False
    yes: bool = False
    acts: bool = False  # the command changes the machine: it may run programs to learn what there is


class FindDeclaration(Protocol):
    """Find, read and resolve the declaration; raises its errors. `empty`: one without profiles is welcome.

    `written`: what runs undeclared beside it, or without any, is left out. `earlier`: what the files of the declaration
    in `file` said then, instead of what they say now.
    """

    def __call__(
        self,
        *,
        empty: bool = False,
        written: bool = False,
        file: Path | None = None,
        earlier: Mapping[str, bytes] | None = None,
    ) -> Declaration: ...


@record
class Context:
    """Everything a command may ask of its surroundings; made by the composition root, by tests with other parts."""

    options: Options
    folders: Folders
    environ: Mapping[str, str]
    err: TextIO  # progress and hints; never data
    style: Style  # of `err`
    hardware: Callable[[], Hardware]
    declaration: FindDeclaration
    host: Callable[[Declaration], Host]
    out: TextIO  # only for commands that stream; the others return their text


class Command(Protocol):
    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, context: Context, args: argparse.Namespace) -> Result: ...
