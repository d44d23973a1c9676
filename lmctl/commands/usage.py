"""`lmctl usage`: requests and tokens by model, profile, day or client, and what they would have cost elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from lmctl.acting import standing
from lmctl.command import Context
from lmctl.errors import LmctlError, Problem, escape
from lmctl.paths import write_atomic
from lmctl.record import replace
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import Declaration, Json
from lmctl.usage import database, metering, plot, prices, report, since, sums
from lmctl.usage.report import Report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    when = "a date, today, yesterday, or a time ago such as 7d (everything)"
    parser.add_argument("--since", metavar="DATE", help=when)
    parser.add_argument("--by", choices=report.BY, default="model", help="what a line is about (model)")
    parser.add_argument("--routing", action="store_true", help="what ran here and in clouds, and what that cost")
    parser.add_argument("--csv", action="store_true", help="print the lines as CSV")
    parser.add_argument("--plot", metavar="FILE", help="write the tokens of each day as an SVG")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Read usage.db, with what engines counted by themselves until now. Raises E-USAGE, and E-STATE as `sums.read`."""
    if args.csv and context.options.json:
        raise LmctlError("E-USAGE", "--csv and --json exclude each other", fix="keep one")
    current, warnings = standing(context)
    current.refuse_foreign_name()
    begin = None if args.since is None else since.moment(args.since, current.host.now())
    warnings += metering.sample(current)
    found, unpriced = _report(current, args, begin)
    warnings += unpriced
    if args.plot:
        _plot(context, current, args.plot, begin)
    if args.csv:
        return Result(report.data(found), report.as_csv(found), warnings)
    data: dict[str, Json] = {**report.data(found), "enabled": current.declaration.accounts.enabled}
    if not found.lines:
        return Result(data, _nothing(current.declaration, begin), warnings)
    without = metering.uncountable(current.declaration)
    more = f"note: without the gateway nothing is known of {', '.join(without)}\n" if without else ""
    return Result(data, lambda style: report.text(found, style) + style.dim(more), warnings)


def _report(current: Session, args: argparse.Namespace, begin: float | None) -> tuple[Report, tuple[Problem, ...]]:
    declaration, path = current.declaration, database.path(current.state)
    by = sums.read(path, (args.by,), begin)
    targets = sums.read(path, ("target",), begin)
    compared, unknown = prices.compared(declaration.accounts.compare, declaration.clouds)
    here = sums.local(targets)
    found = Report(
        name=declaration.name,
        by=args.by,
        since=begin,
        lines=report.ordered(by, args.by),
        total=sums.together(by.values()),
        saved=tuple((price, price.cost(here)) for price in compared),
    )
    if args.routing:
        against = _against(declaration) or compared
        routed = prices.routing({target: one for (target,), one in targets.items()}, declaration.clouds, against)
        found = replace(found, routing=routed)
    fix = f"declare price_in and price_out of a [cloud] of that name; known are {', '.join(prices.known())}"
    return found, tuple(Problem("W-NOEFFECT", f"no price of {escape(name)} is known", fix) for name in unknown)


def _against(declaration: Declaration) -> tuple[prices.Price, ...]:
    """Return the router's cloud, else every declared cloud, with what is declared of its price."""
    chosen = declaration.router.cloud if declaration.router else None
    names = [cloud.name for cloud in declaration.clouds if chosen is None or cloud.name == chosen]
    own = prices.declared(declaration.clouds)
    return tuple(own.get(name) or prices.Price(name, None, None) for name in names)


def _plot(context: Context, current: Session, name: str, begin: float | None) -> None:
    """Write the picture. Raises as `write_atomic`."""
    days = plot.days(sums.read(database.path(current.state), ("day",), begin))
    path = Path(name) if Path(name).is_absolute() else context.options.directory / name
    write_atomic(path, plot.svg(current.declaration.name, days).encode(), mode=0o644)


def _nothing(declaration: Declaration, begin: float | None) -> str:
    if begin is not None:
        return "Nothing is counted in that time; `lmctl usage` shows everything.\n"
    if not declaration.accounts.enabled:
        return "Nothing is counted: `[usage] enabled` is false.\n"
    front = declaration.front
    where = f"ask a model at http://127.0.0.1:{front.port}/v1" if front.enabled else "ask a model"
    return f"Nothing is counted yet: {where}, then look again.\n"
