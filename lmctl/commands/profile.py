"""`lmctl profile add|set|remove`: edit the committed files; comments, order and style stay."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lmctl.arguments import add_globals
from lmctl.command import Context
from lmctl.config import loading
from lmctl.config.find import Request, discover
from lmctl.errors import LmctlError, escape
from lmctl.result import Result

if TYPE_CHECKING:
    from collections.abc import Callable

    from lmctl.config.layers import Inputs
    from lmctl.config_edit import Edit


def add_arguments(parser: argparse.ArgumentParser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="add|set|remove")
    silent = argparse.SUPPRESS  # a global flag that is not given after the verb may have been given before it
    add = verbs.add_parser("add", help="declare a new profile", argument_default=silent)
    change = verbs.add_parser("set", help="give keys other values", argument_default=silent)
    remove = verbs.add_parser("remove", help="take a profile out of the declaration", argument_default=silent)
    add.add_argument("name", metavar="NAME")
    for verb in (change, remove):
        verb.add_argument("name", metavar="PROFILE")
    remove.add_argument("more", nargs="*", default=[], help=argparse.SUPPRESS)  # to refuse it in words
    for verb in (add, change):
        verb.add_argument("keys", nargs="*", default=[], metavar="KEY=VALUE", help="e.g. ctx=16384, sampling.seed=1")
    change.add_argument("--unset", action="append", default=[], metavar="KEY", help="remove a key")
    for verb in (add, change, remove):
        add_globals(verb)


def run(context: Context, args: argparse.Namespace) -> Result:
    """Judge the edited declaration, then write the one file that changes. Raises what is wrong with it."""
    _refuse_idle(args)
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


def _refuse_idle(args: argparse.Namespace) -> None:
    """Raise E-USAGE for what would change nothing, or more than one profile."""
    if args.verb == "set" and not (args.keys or getattr(args, "unset", [])):
        fix = f"write lmctl profile set {escape(args.name, 70)} KEY=VALUE, or --unset KEY"
        raise LmctlError("E-USAGE", "`profile set` needs a key", fix=fix)
    if args.verb == "remove" and args.more:
        raise LmctlError("E-USAGE", "`profile remove` takes one profile", fix="run it once for each")


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
    instead = {edit.path: edit.content}
    loading.resolve(request, context.folders, {}, context.hardware(), instead, trusting=True)
