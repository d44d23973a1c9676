"""`lmctl cleanup`: models that nobody uses, the bytes they hold, and the removal of those that nothing declares."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

from lmctl import plan
from lmctl.acting import reconciling, session, told
from lmctl.asking import asked
from lmctl.command import Context
from lmctl.errors import LmctlError, escape
from lmctl.plan import Plan
from lmctl.reconcile import Wish, make_plan
from lmctl.resource import Case, Scope
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import Json
from lmctl.text import Style, human_bytes, table
from lmctl.usage import database, metering, stale, sums
from lmctl.usage.stale import Known, Model

_DAY = 86400.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threshold", type=int, default=30, metavar="DAYS", help="unused for longer is stale (30)")
    parser.add_argument("--remove", action="append", metavar="MODEL", help="remove a model that nothing declares")
    parser.add_argument("--remove-stale", action="store_true", help="remove every stale model that nothing declares")
    parser.add_argument("--wait", action="store_true", help="wait for another lmctl instead of giving up")


def run(context: Context, args: argparse.Namespace) -> Result:
    """List models, or remove some after a question. Raises E-USAGE, E-PRUNE, and as reconcile and `sums.read` do."""
    if args.threshold < 0:
        raise LmctlError("E-USAGE", f"--threshold {args.threshold} is below 0", fix="give a number of days")
    current = session(context, empty=True)
    current.refuse_foreign_name()
    warnings = metering.sample(current)
    case = current.look(Scope(only="prune"))
    known = _known(current, args.threshold)
    models = stale.models(case, known)
    if args.remove or args.remove_stale:
        return _remove(context, current, _chosen(args, current, models), wait=args.wait)
    data: dict[str, Json] = {"name": case.declaration.name, **_data(models, known)}
    return Result(data, lambda style: _text(models, known, style), warnings)


def _known(current: Session, days: int) -> Known:
    path = database.path(current.state)
    last = {name: one.last_at for (name,), one in sums.read(path, ("model",)).items() if one.last_at is not None}
    counts, uncountable = current.declaration.accounts.enabled, frozenset(metering.uncountable(current.declaration))
    return Known(last, sums.first(path), current.host.now(), days * _DAY, counts, uncountable)


def _chosen(args: argparse.Namespace, current: Session, models: Sequence[Model]) -> list[Model]:
    """Return what shall go. Raises E-USAGE for what is no model, E-PRUNE for what is declared or not lmctl's."""
    found = {model.artifact: model for name in args.remove or () for model in [_named(name, models)]}
    for model in found.values():
        _refuse(model)
    if args.remove_stale:
        if not current.declaration.profiles:
            what = "nothing is declared, so everything that is unused would be removed"
            raise LmctlError("E-PRUNE", what, fix="name what shall go: `lmctl cleanup --remove MODEL`")
        gone = (one for one in models if one.stale and one.brought and one.status == "undeclared" and not one.runs)
        found |= {model.artifact: model for model in gone}
    return list(found.values())


def _named(name: str, models: Sequence[Model]) -> Model:
    found = [model for model in models if name in (model.artifact, model.name)]
    found = found or [model for model in models if name == model.artifact.partition("@")[0]]
    if len(found) == 1:
        return found[0]
    names = [model.artifact if found else model.name for model in found or models]
    if found:
        what, fix = f"'{escape(name, 120)}' are several models", f"name one of: {', '.join(map(escape, names))}"
    else:
        import difflib  # only for mistakes

        near = difflib.get_close_matches(name, names, n=1)
        what = f"there is no model '{escape(name, 120)}' here"
        fix = f"did you mean {escape(near[0])}?" if near else "`lmctl cleanup` lists them"
    raise LmctlError("E-USAGE", what, fix=fix)


def _refuse(model: Model) -> None:
    shown = escape(model.name)
    if model.profiles:
        what = f"{shown} is declared in {', '.join(map(escape, model.files))}"
        raise LmctlError("E-PRUNE", what, fix="remove it there, then `lmctl apply`")
    if model.runs:
        fix = f"`lmctl stop {escape(model.runs[0])}` first"
        raise LmctlError("E-PRUNE", f"{shown} runs undeclared as {escape(model.runs[0])}", fix=fix)
    if not model.brought:
        raise LmctlError("E-PRUNE", f"lmctl did not bring {shown}", fix="remove its files by hand if you want to")


def _remove(context: Context, current: Session, chosen: Sequence[Model], *, wait: bool) -> Result:
    """Plan the removal, ask, and do it; what a rule keeps stays, with the reason."""
    current.ledger.refuse_newer()
    scope = Scope(only="prune", artifacts=frozenset(model.artifact for model in chosen), approved=True)
    case = current.look(scope)
    planned = make_plan(case)
    if not chosen:
        return Result(plan.to_json(planned), "Nothing is stale and undeclared: nothing to remove.\n")
    if planned.empty:
        raise LmctlError("E-PRUNE", _why(planned, chosen), fix="see `lmctl prune --dry-run`")
    _ask(context, case, planned)
    with reconciling(context, current) as (reconciler, seen):
        applied = reconciler.apply(scope, Wish(command="lmctl cleanup", wait=wait))
        return told(applied, seen, prune=True)


def _why(planned: Plan, chosen: Sequence[Model]) -> str:
    reasons = dict.fromkeys(kept.why for kept in planned.kept)
    names = ", ".join(escape(model.name) for model in chosen)
    return f"{names} stays: {'; '.join(reasons) or 'its files are gone'}"


def _ask(context: Context, case: Case, planned: Plan) -> None:
    """Raise E-PRUNE unless a person says yes to the list."""
    if not context.options.yes:
        context.err.write(plan.text(planned, context.style, prune=True))
    answer = asked(context, "Remove all this?")
    if answer is None:
        raise LmctlError("E-PRUNE", "nobody is there to ask", fix="read `lmctl cleanup`, then add --yes")
    if not answer:
        raise LmctlError("E-PRUNE", "nothing was removed", fix="run it again once you want it")


def _data(models: Sequence[Model], known: Known) -> dict[str, Json]:
    rows: list[Json] = [
        {
            "model": model.name,
            "artifact": model.artifact,
            "bytes": model.size,
            "last_used": model.last_used,
            "idle_days": model.idle,
            "status": model.status,
            "stale": model.stale,
            "brought": model.brought,
            "profiles": [*model.profiles],
            "files": [*model.files],
            "advice": stale.advice(model),
        }
        for model in models
    ]
    unused = sum(model.size or 0 for model in models if model.status != "active")
    return {
        "threshold_days": int(known.threshold // _DAY),
        "counted_since": known.since,
        "models": rows,
        "bytes": sum(model.size or 0 for model in models),
        "unused_bytes": unused,
    }


def _text(models: Sequence[Model], known: Known, style: Style) -> str:
    if not models:
        return "No models: nothing is declared and nothing was fetched.\n"
    rows = [["MODEL", "SIZE", "LAST USED", "STATUS"]]
    for model in models:
        size = "-" if model.size is None else human_bytes(model.size)
        rows.append([escape(model.name), size, _last(model), model.status])
    lines = table(rows, style).splitlines()
    lines += ["", *(f"{escape(model.name)}: {said}" for model in models if (said := stale.advice(model)))]
    unused = sum(model.size or 0 for model in models if model.status != "active")
    total = sum(model.size or 0 for model in models)
    lines += [f"{human_bytes(unused)} of {human_bytes(total)} are stale or undeclared."]
    if not known.counts:
        lines.append(style.dim("note: `[usage] enabled` is false, so it is not known what is used"))
    elif known.since is None:
        lines.append(style.dim("note: no request was counted yet, so it is not known what is used"))
    if known.counts and known.uncountable:
        names = ", ".join(sorted(map(escape, known.uncountable)))
        lines.append(style.dim(f"note: without the gateway it is not known whether {names} is used"))
    return "\n".join(lines) + "\n"


def _last(model: Model) -> str:
    return "never seen" if model.last_used is None else time.strftime("%Y-%m-%d", time.localtime(model.last_used))
