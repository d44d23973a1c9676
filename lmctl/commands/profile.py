"""`lmctl profile add|set|remove`: edit the committed files; comments, order and style stay."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lmctl.arguments import add_globals
from lmctl.command import Context
from lmctl.config import loading
from lmctl.config.find import Request, discover
from lmctl.errors import LmctlError
from lmctl.result import Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from lmctl.config.layers import Inputs
    from lmctl.config_edit import Edit

_TRUST = frozenset(["E-TRUST", "E-UNSAFE"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="add|set|remove")
    silent = argparse.SUPPRESS  # a global flag that is not given after the verb may have been given before it
    add = verbs.add_parser("add", help="declare a new profile", argument_default=silent)
    change = verbs.add_parser("set", help="give keys other values", argument_default=silent)
    remove = verbs.add_parser("remove", help="take a profile out of the declaration", argument_default=silent)
    add.add_argument("name", metavar="NAME")
    for verb in (change, remove):
        verb.add_argument("name", metavar="PROFILE")
    for verb in (add, change):
        verb.add_argument("keys", nargs="*", default=[], metavar="KEY=VALUE", help="e.g. ctx=16384, sampling.seed=1")
    change.add_argument("--unset", action="append", default=[], metavar="KEY", help="remove a key")
    for verb in (add, change, remove):
        add_globals(verb)


def run(context: Context, args: argparse.Namespace) -> Result:
    """Judge the edited declaration, then write the one file that changes. Raises what is wrong with it."""
    from lmctl import config_edit  # tomlkit and pydantic
    from lmctl.config import layers

    def make(inputs: Inputs) -> Edit:
        if args.verb == "remove":
            return config_edit.remove(inputs, args.name)
        typed = config_edit.assignments(args.keys)
        keys = dict(config_edit.located(inputs, args.name, typed, context.options.directory, context.folders.home))
        keys.update({layers.assignment(f"{key}=")[0]: None for key in getattr(args, "unset", [])})
        return (config_edit.add if args.verb == "add" else config_edit.change)(inputs, args.name, keys)

    shown = edited(context, make)
    done = {"add": "Declared", "set": "Changed", "remove": "Removed"}[args.verb]
    data = {"profile": args.name, "file": shown, "verb": args.verb}
    return Result(data, f"{done} profile {args.name} in {shown}. Next: lmctl plan.\n")


def edited(context: Context, make: Callable[[Inputs], Edit]) -> str:
    """Judge and write the edit that `make` returns; return the file's path from the declaration's folder."""
    from lmctl import config_edit
    from lmctl.config import layers

    options = context.options
    request = Request(options.directory, options.config, elsewhere=options.elsewhere, empty=True)
    file = discover(request, context.folders, context.environ)
    inputs = layers.read(file, request, context.folders, {})
    edit = make(inputs)
    _judge(context, request, edit)
    config_edit.save(edit)
    return str(edit.path.relative_to(inputs.folder))


def _judge(context: Context, request: Request, edit: Edit) -> None:
    """Raise what is wrong with the declaration after the edit; what only lacks trust may be written."""
    try:
        loading.resolve(request, context.folders, {}, context.hardware(), {edit.path: edit.content})
    except LmctlError as error:
        wrong = [problem for problem in error.problems if problem.code not in _TRUST]
        if wrong:
            raise LmctlError.of(wrong) from error
