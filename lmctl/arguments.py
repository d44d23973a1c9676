"""The command line: global flags before or after the command, one parser per command, mistakes as E-USAGE."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lmctl.all_commands import COMMANDS, USAGE, about, load
from lmctl.errors import LmctlError, escape
from lmctl.text import width

# what other tools call it: near in meaning, not in letters
ELSEWHERE = {
    **dict.fromkeys(("run", "serve", "launch"), "start"),
    **dict.fromkeys(("ps", "list", "ls"), "status"),
    **dict.fromkeys(("pull", "fetch", "get"), "download"),
    **dict.fromkeys(("rm", "remove", "delete"), "profile remove"),
    **dict.fromkeys(("add", "create"), "profile add"),
    **dict.fromkeys(("up", "sync", "install"), "apply"),
    "kill": "stop",
    "check": "validate",
    "diff": "plan",
    "show": "config",
    "new": "init",
    "version": "--version",
}


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Knows its width: argparse would import every compression there is to find the terminal's."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30, width=width(os.environ))


class Asked(Exception):
    """Help or the version was asked for; `text` is the answer."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


class Parser(argparse.ArgumentParser):
    """argparse whose mistakes are errors like all others, and whose help is a result like all others."""

    def print_help(self, file: Any = None) -> NoReturn:
        raise Asked(self.format_help())

    def error(self, message: str) -> NoReturn:
        raise LmctlError("E-USAGE", escape(message), fix=f"see `{self.prog} --help`")


class _Once(argparse.Action):
    """A flag that may be given once: the second one would silently win."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: Any = None) -> None:
        if getattr(namespace, self.dest, None) is not None:
            parser.error(f"{option_string} is given twice")
        setattr(namespace, self.dest, values)


def within(low: int, high: int) -> Callable[[str], int]:
    """Return a parser of whole numbers of `low`..`high`, for `type=`."""

    def number(text: str) -> int:
        if not (text.isascii() and text.isdecimal()) or len(text) > 20 or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"'{escape(text, 24)}' is no number of {low}..{high}")
        return int(text)

    return number


def add_globals(parser: argparse.ArgumentParser) -> None:
    """Add the flags that every command knows."""
    group = parser.add_argument_group("global options")
    flag = group.add_argument
    flag("-C", dest="directory", metavar="DIR", action=_Once, help="look for localmodels.toml from this folder upwards")
    flag("--config", metavar="FILE", action=_Once, help="read this file")
    flag("--set", dest="sets", metavar="KEY=VALUE", action="append", help="override one key: profiles.code.ctx=4096")
    flag("--json", action="store_true", help="print one JSON object")
    flag("-q", "--quiet", action="store_true", help="no warnings, no progress")
    flag("-v", "--verbose", action="store_true", help="say more: what programs are started with, every step")
    flag("--color", choices=("auto", "always", "never"), action=_Once, help="colour the output")
    flag("--offline", action="store_true", help="no connection but to this machine")
    flag("--debug", action="store_true", help="show tracebacks, and talks with Hub, supervisord and engines")
    flag("--yes", action="store_true", help="answer every question with yes")


def parse(argv: Sequence[str]) -> tuple[str, argparse.Namespace]:
    """Return the command's name and its arguments, global flags merged. Raises E-USAGE and Asked."""
    first = _top().parse_args(argv)
    name = getattr(first, "command", None)
    if first.version or (first.help and name is None):
        raise Asked(about(["--version" if first.version else "--help"])[0])
    if name is None:
        raise LmctlError("E-USAGE", "name a command", fix="see `lmctl --help`")
    if name == "help":
        return parse([*first.rest, "--help"])
    if name not in COMMANDS:
        raise _no_command(name)
    rest = ["--help", *first.rest] if first.help else first.rest
    return name, _merged(first, command_parser(name).parse_args(rest))


def _no_command(name: str) -> LmctlError:
    import difflib  # only for mistakes

    meant = ELSEWHERE.get(name) or next(iter(difflib.get_close_matches(name, COMMANDS, n=1)), None)
    hint = f"did you mean `{meant}`?" if meant else "see `lmctl --help`"
    return LmctlError("E-USAGE", f"there is no command '{escape(name, 80)}'", fix=hint)


def _top() -> Parser:
    """Return the parser of everything up to the command."""
    top = Parser(
        prog="lmctl",
        usage=USAGE,
        add_help=False,
        allow_abbrev=False,
        formatter_class=Formatter,
        argument_default=argparse.SUPPRESS,
    )
    add_globals(top)
    top.add_argument("-h", "--help", action="store_true", default=False)
    top.add_argument("--version", action="store_true", default=False)
    top.add_argument("command", nargs="?")
    top.add_argument("rest", nargs=argparse.REMAINDER)
    return top


def as_far_as_known(argv: Sequence[str]) -> argparse.Namespace:
    """Return how to tell a failure when the arguments themselves are wrong."""
    quiet = "-q" in argv or "--quiet" in argv
    return argparse.Namespace(json="--json" in argv, quiet=quiet, color=None)


def command_parser(name: str) -> Parser:
    """Return the parser of one command; importing its module is the price."""
    parser = Parser(
        prog=f"lmctl {name}",
        description=COMMANDS[name][1][0].upper() + COMMANDS[name][1][1:] + ".",
        allow_abbrev=False,
        formatter_class=Formatter,
    )
    load(name).add_arguments(parser)
    add_globals(parser)
    return parser


def _merged(first: argparse.Namespace, second: argparse.Namespace) -> argparse.Namespace:
    """Flags given before the command count as if given after it."""
    for key, shown in (("directory", "-C"), ("config", "--config"), ("color", "--color")):
        before, after = getattr(first, key, None), getattr(second, key)
        if before is not None and after is not None:
            raise LmctlError("E-USAGE", f"{shown} is given twice", fix="give it once")
        setattr(second, key, before if after is None else after)
    for key in ("json", "quiet", "verbose", "offline", "debug", "yes"):
        setattr(second, key, getattr(second, key) or getattr(first, key, False))
    if second.quiet and second.verbose:
        raise LmctlError("E-USAGE", "-q and -v exclude each other", fix="give one of them")
    second.sets = [*(getattr(first, "sets", None) or []), *(second.sets or [])]
    return second
