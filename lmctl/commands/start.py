"""`lmctl start`: start profiles, fetching what waits for it, or a model that nothing declares."""

from __future__ import annotations

import argparse

from lmctl import adhoc
from lmctl.acting import declaration_or_stand_in, programs, reconciling, repository, session, told
from lmctl.arguments import within
from lmctl.command import Context
from lmctl.commands.profile import edited
from lmctl.errors import LmctlError
from lmctl.reconcile import Wish
from lmctl.record import replace
from lmctl.resource import Scope
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import Declaration, Json, program_id
from lmctl.text import Style


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument
    flag("profiles", nargs="*", metavar="PROFILE", help="declared profiles")
    flag("--model", metavar="FILE|REPO", help="serve a file or a repository that nothing declares; gone after stop")
    flag("--quant", help="which quant of the repository")
    flag("--backend", choices=("llama.cpp", "mlx"), help="what serves it, where the name does not say")
    flag("--port", type=within(1024, 65535), metavar="PORT", help="where it listens")
    flag("--ctx", type=within(256, 2**31 - 1), metavar="TOKENS", help="tokens one request may use")
    flag("--save", metavar="NAME", help="declare it under this name")
    flag("--locked", action="store_true", help="refuse when the lock file is out of date")
    flag("--wait", action="store_true", help="wait for another lmctl instead of giving up")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Start and wait until healthy; a running member of the same exclusive group stops first."""
    if bool(args.model) == bool(args.profiles):
        raise LmctlError("E-USAGE", "name profiles, or a model with --model", fix="see `lmctl start --help`")
    if args.model:
        return _undeclared(context, args)
    current = session(context)
    return start(context, current, programs(current, args.profiles), args)


def start(
    context: Context, current: Session, names: frozenset[str], args: argparse.Namespace, *, again: bool = False
) -> Result:
    """Make `names` run, with `again` anew where they run already; everything else stays as it is."""
    scope = Scope(names=names, run=names, prune=False, again=names if again else frozenset())
    wish = Wish("lmctl restart" if again else "lmctl start", wait=args.wait, locked=args.locked)
    with reconciling(context, current) as (reconciler, seen):
        return told(reconciler.apply(scope, wish), seen)


def _undeclared(context: Context, args: argparse.Namespace) -> Result:
    """Serve a model that nothing declares; with `--save` it is declared first."""
    found = declaration_or_stand_in(context)
    keys = _keys(context, args)
    name = args.save or adhoc.name_for(str(keys.get("path", args.model)), _taken(found))
    saved = None
    if args.save:
        from lmctl.config_edit import add, located  # tomlkit: only for edits

        said: dict[tuple[str, ...], Json] = {(key,): value for key, value in keys.items()}
        folder, home = context.options.directory, context.folders.home
        saved = edited(context, lambda inputs: add(inputs, name, located(inputs, name, said, folder, home)))
    else:
        adhoc.remember(context.folders, found.name, name, keys)
    current = Session.of(found, context.folders, context.host(found))
    try:
        current = session(context)
        result = start(context, current, frozenset({name}), args)
    except BaseException:
        current.forget(frozenset({name}))
        raise
    if program_id(name) not in current.host.supervisor.observe().specs:
        current.forget(frozenset({name}))  # it never came to run: nothing to stop later
        return result if saved is None else _with(result, f"Declared profile {name} in {saved}.")
    if saved is not None:
        return _with(result, f"Declared profile {name} in {saved}; `lmctl stop {name}` stops it.")
    return _with(result, f"{name} is declared nowhere: `lmctl stop {name}` ends it.")


def _with(result: Result, line: str) -> Result:
    """Return the result with a line below what it says."""

    def text(style: Style) -> str:
        return f"{result.text if isinstance(result.text, str) else result.text(style)}{line}\n"

    return replace(result, text=text)


def _taken(found: Declaration) -> frozenset[str]:
    """Return the names that a model nobody declares cannot have, in lower case."""
    from lmctl.config.names import RESERVED  # only here

    declared = (name.lower() for profile in found.profiles for name in (profile.name, *profile.aliases))
    return frozenset((*declared, *RESERVED))


def _keys(context: Context, args: argparse.Namespace) -> dict[str, Json]:
    """Return the profile's keys: what exists or looks like a path is one, everything else a repository."""
    from lmctl.config.names import is_address

    asked: str = args.model
    local = context.options.directory / (f"{context.folders.home}{asked[1:]}" if asked.startswith("~/") else asked)
    looks = asked.endswith(".gguf") or asked.startswith((".", "/", "~"))
    keys: dict[str, Json] = {"start": "manual", "protect": True}
    if local.exists() or (looks and not is_address(asked)):
        keys["path"] = str(local.resolve())
        whole = local.is_dir() and not any(local.glob("*.gguf"))
    else:
        keys["model"] = repository(context, asked, "start --model")
        whole = "mlx" in asked.lower()
    backend = args.backend or ("mlx" if whole else None)
    given = {"backend": backend, "quant": args.quant, "port": args.port, "ctx": args.ctx}
    return keys | {key: value for key, value in given.items() if value is not None}
