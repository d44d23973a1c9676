"""`lmctl prune`: remove what lmctl fetched and nothing declares any more, with a reason for everything that stays."""

from __future__ import annotations

import argparse

from lmctl import plan
from lmctl.acting import reconciling, session, told
from lmctl.command import Context
from lmctl.errors import LmctlError
from lmctl.reconcile import Wish, make_plan
from lmctl.resource import Scope
from lmctl.resources import content
from lmctl.result import Result
from lmctl.session import Session


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--now", action="store_true", help="do not wait the days of [prune] after")
    parser.add_argument("--dry-run", action="store_true", help="show what would go and what stays, and why")
    parser.add_argument("--wait", action="store_true", help="wait for another lmctl instead of giving up")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Run the prune stage alone. A dry run never fails because nothing is declared."""
    current = session(context, empty=True)
    current.refuse_foreign_name()
    scope = Scope(waive_wait=args.now, only="prune", approved=context.options.yes)
    if args.dry_run:
        planned = make_plan(current.look(scope))
        return Result(plan.to_json(planned), lambda style: plan.text(planned, style, prune=True), planned.warnings)
    _refuse_undeclared(current, scope)
    content.refuse_large(current.look(scope))
    wish = Wish(command="lmctl prune", wait=args.wait)
    with reconciling(context, current) as (reconciler, seen):
        return told(reconciler.apply(scope, wish), seen, prune=True)


def _refuse_undeclared(current: Session, scope: Scope) -> None:
    if current.declaration.profiles:
        return
    if any(True for _ in content.kept(current.look(scope))):
        what = "nothing is declared, so everything would be removed"
        raise LmctlError("E-PRUNE", what, fix="declare what you want to keep; `lmctl prune --dry-run` lists it")
