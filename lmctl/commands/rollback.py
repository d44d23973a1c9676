"""`lmctl rollback`: go back to what an earlier apply was made of, until the next apply. Writes no file of yours."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from lmctl import generations, plan
from lmctl.acting import reconciling, standing, told
from lmctl.arguments import within
from lmctl.asking import asked
from lmctl.command import Context
from lmctl.errors import REFUSED, LmctlError, Problem
from lmctl.generations import Generation
from lmctl.past_sessions import earlier
from lmctl.plan import Plan
from lmctl.reconcile import Wish, make_plan
from lmctl.record import replace
from lmctl.resource import Scope
from lmctl.resources import weights
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import Json
from lmctl.text import Style, human_bytes

_SCOPE = Scope(prune=False)  # what the files of today want is not let go of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    flag = parser.add_argument
    flag("number", type=within(1, 2**31 - 1), metavar="NUMBER", help="the generation, as `lmctl history` lists them")
    flag("--dry-run", action="store_true", help="show the plan and stop")
    flag("--wait", action="store_true", help="wait for another lmctl instead of giving up")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Plan, show the plan, ask, and carry it out. Nothing changes without a yes."""
    now, _ = standing(context)
    now.refuse_foreign_name()
    now.ledger.refuse_newer()
    then = _session(context, now, args.number)
    planned = _planned(then, args.number)
    data: dict[str, Json] = {**plan.to_json(planned), "restores": args.number}
    if args.dry_run:
        return Result(data, lambda style: plan.text(planned, style), planned.warnings)
    if not context.options.quiet:
        context.err.write(plan.text(planned, context.style))
        context.err.flush()
    refused = _refusal(context, args.number)
    if refused is not None:
        return Result(data, "", planned.warnings, (refused,), REFUSED)
    wish = Wish("lmctl rollback", wait=args.wait, locked=True, saved=plan.to_json(planned), restores=args.number)
    with reconciling(context, then) as (reconciler, seen):
        try:
            result = told(reconciler.apply(_SCOPE, wish), seen)
        except LmctlError as error:
            raise _of(error, args.number) from error
    return _held(result, args.number, empty=planned.empty)


def _refusal(context: Context, number: int) -> Problem | None:
    """Return why the plan is not carried out, None once a person says yes to it."""
    answer = asked(context, f"Go back to generation {number}?")
    if answer:
        return None
    if answer is None:
        fix = f"read the plan, then run `lmctl rollback {number} --yes`"
        return Problem("E-CONSENT", "nobody is there to ask", fix)
    return Problem("E-CONSENT", "nothing was changed", f"run `lmctl rollback {number}` once you want it")


def _session(context: Context, now: Session, number: int) -> Session:
    """Return the session of the declaration as it was, with the lock of then. Raises what is wrong with it today."""
    try:
        return earlier(context, now, number)
    except LmctlError as error:
        raise _of(error, number) from error


def _of(error: LmctlError, number: int) -> LmctlError:
    """Say of which generation's files an error speaks: those that lie in the folder are not read."""

    def placed(problem: Problem) -> Problem:
        if problem.place is not None:
            problem = replace(problem, place=replace(problem.place, file=f"snapshots/{number}/{problem.place.file}"))
        back = f"put back the file that generation {number} was made of"
        if problem.code == "E-LOCK-STALE":
            problem = replace(problem, fix=back)
        if problem.code == "E-PLAN-STALE":
            what = "this machine changed since the plan was shown"
            problem = replace(problem, what=what, fix=f"run `lmctl rollback {number}` again and read it")
        if "`lmctl trust " in (problem.fix or ""):  # which looks at the files of today
            problem = replace(problem, fix=f"{back}, then read it and run `lmctl trust`")
        return problem

    return LmctlError.of(map(placed, error.problems))


def _planned(then: Session, number: int) -> Plan:
    """Return the plan. Raises E-FILE or E-LOCK-STALE for local files that are gone or of another size."""
    case = then.look(_SCOPE)
    back = f"put back the file that generation {number} was made of"
    if unlike := weights.unlike(case):
        raise LmctlError.of(replace(problem, fix=back) for problem in unlike)
    planned = make_plan(case)
    lost = case.world.memory.problem
    warnings = planned.warnings if lost is None else (*planned.warnings, lost)
    return replace(planned, notes=(*planned.notes, *_notes(then, planned, number)), warnings=warnings)


def _notes(then: Session, planned: Plan, number: int) -> tuple[str, ...]:
    known: Mapping[int, Generation] = {one.id: one for one in generations.listed(then.ledger)}
    before, notes = known.get(number), []
    again = sum(change.download or 0 for change in planned.changes)
    if again:
        notes.append(f"{human_bytes(again)} that generation {number} had are gone here and come from the Hub again")
    if before is not None and before.config_hash != then.declaration.hash:
        notes.append("of then the files alone are kept: environment, --set, machine.toml and this machine count as now")
    if before is not None and before.result != "done":
        notes.append(f"generation {number} ended {before.result}")
    return (*notes, f"generation {number} then holds until the next `lmctl apply`; your files are not written")


def _held(result: Result, number: int, *, empty: bool) -> Result:
    """Tell what is in force now, after how each change ended."""
    state = "is in force" if not result.exit_code else "is what this machine was to go back to; it holds"
    line = f"Generation {number} {state} until the next `lmctl apply`."
    before = result.text

    def text(style: Style) -> str:
        shown = before if isinstance(before, str) else before(style)
        return f"{style.green('Nothing to change.')} {line}\n" if empty else f"{shown}{line}\n"

    return replace(result, data={**result.data, "restores": number}, text=text)
