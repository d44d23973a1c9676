"""`lmctl apply`: make this machine what the configuration says."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmctl import capacity, plan
from lmctl.acting import programs, reconciling, remarks, session, told
from lmctl.command import Context
from lmctl.errors import LmctlError, escape
from lmctl.paths import read_regular
from lmctl.reconcile import Wish, make_plan
from lmctl.resource import Scope
from lmctl.result import Result
from lmctl.session import Session

_PLAN_LIMIT = 16 << 20  # bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument
    flag("profiles", nargs="*", metavar="PROFILE", help="only these profiles; lifts their holds")
    flag("--exclude", action="append", default=[], metavar="PROFILE", help="all but this profile")
    flag("--plan", metavar="FILE", help="apply this saved plan, refuse when anything changed since")
    flag("--dry-run", action="store_true", help="show the plan and stop")
    flag("--locked", action="store_true", help="refuse when the lock file is out of date")
    flag("--wait", action="store_true", help="wait for another lmctl instead of giving up")
    prune = parser.add_mutually_exclusive_group()
    prune.add_argument("--prune", action="store_true", help="prune without the waiting time")
    prune.add_argument("--no-prune", action="store_true", help="remove nothing from the cache")
    flag("--require-fit", action="store_true", help="refuse when memory would not suffice")
    flag("--take", action="store_true", help="take the declaration's name over from another folder")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Apply; return what was done. Exit 3 when only part of it succeeded."""
    current = session(context)
    saved = _saved(args.plan) if args.plan else None
    names, exclude = _covered(current, args, saved)
    scope = Scope(
        names=names,
        exclude=exclude,
        waive_wait=args.prune,
        approved=context.options.yes,
        prune=args.prune or (current.declaration.prune_auto and not args.no_prune),
    )
    if args.dry_run:
        if not args.take:
            current.refuse_foreign_name()
        case = current.look(scope)
        capacity.refuse(case)
        planned = make_plan(case)
        if saved is not None:
            plan.matches(planned, saved)
        warnings = (*planned.warnings, *remarks(case.world.memory))
        return Result(plan.to_json(planned), lambda style: plan.text(planned, style), warnings)
    wish = Wish(
        command="lmctl apply",
        wait=args.wait,
        locked=args.locked,
        take=args.take,
        require_fit=args.require_fit,
        saved=saved,
    )
    with reconciling(context, current) as (reconciler, seen):
        return told(reconciler.apply(scope, wish), seen)


def _covered(
    current: Session, args: argparse.Namespace, saved: Mapping[str, Any] | None
) -> tuple[frozenset[str] | None, frozenset[str]]:
    """Return the profiles that are named, None for all, and those left out: as typed, else as the plan was made for.

    Raises E-USAGE when something else is typed than the plan says, and as `programs`.
    """
    names, exclude = programs(current, args.profiles) or None, programs(current, args.exclude)
    if saved is None:
        return names, exclude
    scope = saved["scope"]
    planned = None if scope["profiles"] is None else frozenset(scope["profiles"])
    if names not in (None, planned) or (exclude and exclude != frozenset(scope["exclude"])):
        about = "all profiles" if planned is None else ", ".join(sorted(planned))
        about += " but " + ", ".join(scope["exclude"]) if scope["exclude"] else ""
        what = f"the saved plan is about {escape(about)}, and something else is named"
        raise LmctlError("E-USAGE", what, fix="name none with --plan, or plan again")
    return planned, frozenset(scope["exclude"])


def _saved(name: str) -> Mapping[str, Any]:
    """Return a saved plan. Raises E-FILE, and E-USAGE for what is no plan."""
    import jsonschema  # only for a plan that comes from outside

    from lmctl.schema import schemas

    try:
        content = json.loads(read_regular(Path(name).absolute(), _PLAN_LIMIT))
        jsonschema.validate(content, json.loads(schemas()["plan.schema.json"]))
    except (ValueError, RecursionError, jsonschema.ValidationError) as error:
        why = escape(str(getattr(error, "message", error)))
        raise LmctlError(
            "E-USAGE", f"{escape(name)} is no saved plan: {why}", fix="make it with `lmctl plan --out`"
        ) from error
    found: Mapping[str, Any] = content
    return found
