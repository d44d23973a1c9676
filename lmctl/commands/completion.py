"""`lmctl completion`: scripts for bash, zsh and fish, made from the parsers themselves."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from lmctl.all_commands import COMMANDS, load
from lmctl.arguments import add_globals
from lmctl.command import Context
from lmctl.config import loading
from lmctl.config.find import Request
from lmctl.errors import LmctlError, escape
from lmctl.result import Result

_SHELLS = ("bash", "zsh", "fish")
_NAMES = "profiles"  # instead of a shell: what the scripts ask for the names of profiles
_LINE = {
    "bash": 'eval "$(lmctl completion bash)"            # in ~/.bashrc',
    "zsh": "lmctl completion zsh > ~/.zfunc/_lmctl      # with fpath+=~/.zfunc before compinit",
    "fish": "lmctl completion fish > ~/.config/fish/completions/lmctl.fish",
}
# The whole line goes back to lmctl, because -C and --config on it decide which declaration is asked. Names of profiles
# hold nothing that a shell could expand.
_ASK = {
    "bash": """\
_lmctl_profiles() {
  compgen -W "$(lmctl completion profiles -- "${COMP_WORDS[@]}" 2>/dev/null)" -- "$1"
}
_lmctl_files() {
  compgen -f -- "$1"
}
_lmctl_dirs() {
  compgen -d -- "$1"
}""",
    "zsh": """\
_lmctl_profiles() {
  local -a names
  names=(${(f)"$(lmctl completion profiles -- ${(z)BUFFER:-$words} 2>/dev/null)"})
  compadd -a names
}""",
    "fish": """\
function _lmctl_profiles
  lmctl completion profiles -- (commandline -opc) 2>/dev/null
end""",
}
_FILES = {"bash": "_lmctl_files", "zsh": "_files", "fish": "(__fish_complete_path (commandline -ct))"}
_FOLDERS = {"bash": "_lmctl_dirs", "zsh": "_files -/", "fish": "(__fish_complete_directories)"}
_PROFILES = {"bash": "_lmctl_profiles", "zsh": "_lmctl_profiles", "fish": "(_lmctl_profiles)"}
_COMPLETED = {"FILE": _FILES, "FILE|REPO": _FILES, "DIR": _FOLDERS, "PROFILE": _PROFILES}  # by what help calls a value


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shells = "{" + ",".join(_SHELLS) + "}"
    parser.add_argument("shell", type=_shell, metavar=shells, help="the shell you use")
    parser.add_argument("words", nargs="*", default=[], help=argparse.SUPPRESS)
    parser.epilog = "To install:\n" + "\n".join(f"  {line}" for line in _LINE.values())


def _shell(text: str) -> str:
    """Return a shell that there is a script for. Raises ArgumentTypeError that names those."""
    if text not in (*_SHELLS, _NAMES):
        raise argparse.ArgumentTypeError(f"there is no script for '{escape(text, 40)}'")
    return text


def run(context: Context, args: argparse.Namespace) -> Result:
    """Return the script of one shell; for the scripts themselves, the names of the declared profiles."""
    if args.shell == _NAMES:
        names = _names(context, args.words)
        return Result({"profiles": [*names]}, "".join(f"{name}\n" for name in names))
    import shtab  # only here

    script = shtab.complete(whole_parser(), shell=args.shell, preamble=_ASK[args.shell])
    if args.shell == "zsh":  # shtab completes the first of several arguments alone
        script = re.sub(r'"\(\*\)::?', '"*:', script)
    return Result({"shell": args.shell, "script": script}, script)


def _names(context: Context, words: list[str]) -> tuple[str, ...]:
    """Return the names of the profiles that the line so far is about; none where anything is wrong."""
    try:
        request = _request(context, words)
        if request is None:
            declaration = context.declaration(empty=True)
        else:
            declaration = loading.load(request, context.folders, context.environ, context.hardware())
    except LmctlError:
        return ()
    return tuple(profile.name for profile in declaration.profiles)


def _request(context: Context, words: list[str]) -> Request | None:
    """Return what -C and --config of the line ask for, before the shell expanded anything; None without any."""
    given = dict(pairwise(words)) | dict(word.split("=", 1) for word in words if word.startswith("--config="))
    options, home = context.options, str(context.folders.home)
    folder, file = (
        value.replace("~", home, 1) if value.startswith("~/") else value
        for value in (given.get("-C", ""), given.get("--config", ""))
    )
    if not folder and not file:
        return None
    return Request(options.directory / folder, Path(file) if file else None, elsewhere=bool(folder), empty=True)


def whole_parser() -> argparse.ArgumentParser:
    """Return one parser with all commands in it, as completion needs it."""
    parser = argparse.ArgumentParser(prog="lmctl")
    add_globals(parser)
    parser.add_argument("--version", action="store_true", help="print the version")
    commands = parser.add_subparsers()
    for name, (_, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        load(name).add_arguments(command)
        add_globals(command)
    for action in _actions(parser):
        if action.type is _shell:
            action.choices = _SHELLS
        if action.metavar in _COMPLETED:
            action.complete = _COMPLETED[str(action.metavar)]  # type: ignore[attr-defined]
    return parser


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from _actions(below)
