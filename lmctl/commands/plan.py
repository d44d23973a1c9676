"""`lmctl plan`: what apply would change, and why. Asks nobody but this machine, writes nothing but `--out`."""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

from lmctl import capacity, desired, plan
from lmctl.acting import programs, remarks, session
from lmctl.command import Context
from lmctl.errors import CHANGES, DONE, escape
from lmctl.paths import write_atomic
from lmctl.reconcile import make_plan
from lmctl.resource import Case, Scope
from lmctl.resources import program
from lmctl.result import Result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("profiles", nargs="*", metavar="PROFILE", help="only these profiles")
    parser.add_argument("--exclude", action="append", default=[], metavar="PROFILE", help="all but this profile")
    parser.add_argument("--out", metavar="FILE", help="save the plan for `lmctl apply --plan FILE`")
    parser.add_argument("--detailed-exitcode", action="store_true", help="exit 2 when there is something to do")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Return the plan; exit 2 for changes only where asked."""
    current = session(context)
    current.refuse_foreign_name()
    names = programs(current, args.profiles) or None
    case = current.look(Scope(names, programs(current, args.exclude), prune=current.declaration.prune_auto))
    capacity.refuse(case)
    planned = make_plan(case)
    data = plan.to_json(planned)
    if args.out:
        write_atomic(Path(args.out).absolute(), (json.dumps(data, indent=2) + "\n").encode())
    code = CHANGES if args.detailed_exitcode and not planned.empty else DONE
    more = _programs(case) if context.options.verbose else ""
    warnings = (*planned.warnings, *remarks(case.world.memory))
    return Result(data, lambda style: plan.text(planned, style) + more, warnings, exit_code=code)


def _programs(case: Case) -> str:
    """Return what each program is started with, for `-v`; the environment by its names alone."""
    lines = []
    for name, want in sorted(desired.programs(case).ready.items()):
        lines += ["", f"{program.address(name)} listens on {want.spec.listen} and is started as:"]
        lines.append("  " + escape(shlex.join([*(f"{key}=…" for key in sorted(want.spec.env)), *want.spec.argv]), 8192))
    return "".join(f"{line}\n" for line in lines)
