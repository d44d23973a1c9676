"""`lmctl doctor`: look at everything that lmctl depends on here, say what is wrong with it, and mend what is safe."""

from __future__ import annotations

import argparse
from pathlib import Path

from lmctl.command import Context
from lmctl.doctor import bundle, look
from lmctl.doctor.finding import Finding, worst
from lmctl.errors import LmctlError, escape
from lmctl.result import Result
from lmctl.spec import Json
from lmctl.text import Style

_MARKS = {"ok": "✓", "warn": "!", "fail": "✗"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--fix", action="store_true", help="mend what is safe: modes, stale sockets and temporary files"
    )
    parser.add_argument("--bundle", metavar="FILE", help="write what was found to FILE, without names and secrets")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Return what was found. The exit code is that of what keeps the most from working, 0 when nothing fails.

    A report that cannot be written is refused before anything is mended; raises E-USAGE then.
    """
    report = context.options.directory / args.bundle if args.bundle else None
    if report is not None:
        bundle.refuse(report)
    patient = look.patient(context)
    findings = look.examine(patient)
    mended: list[str] = []
    if args.fix:
        mended = _mend(findings)
        findings = look.examine(look.patient(context))
    error = _written(report, patient, findings)
    written = args.bundle if error is None else None
    data: dict[str, Json] = {"findings": [found.plain() for found in findings], "fixed": [*mended], "bundle": written}
    return Result(
        data,
        lambda style: _text(findings, mended, written, style),
        errors=error.problems if error else (),
        exit_code=error.exit_code if error else worst(findings),
        done=tuple(mended),
    )


def _written(report: Path | None, patient: look.Patient, findings: tuple[Finding, ...]) -> LmctlError | None:
    """Write the report that was asked for; return why that failed: what was mended by then is told all the same."""
    try:
        if report is not None:
            bundle.write(report, patient, findings)
    except LmctlError as error:
        return error
    return None


def _mend(findings: tuple[Finding, ...]) -> list[str]:
    """Mend what can be; return what was done, and why what could not be was not."""
    done = []
    for found in findings:
        if found.mend is None:
            continue
        try:
            found.mend()
        except LmctlError as error:
            done.append(f"not mended: {found.check}: {error.problems[0].what}")
        else:
            done.append(f"mended: {found.check}: {found.what}")
    return done


def _text(findings: tuple[Finding, ...], mended: list[str], written: str | None, style: Style) -> str:
    paint = {"ok": style.green, "warn": style.yellow, "fail": style.red}
    lines = []
    for found in findings:
        code = f" [{found.code}]" if found.code else ""
        lines.append(f"{paint[found.state](_MARKS[found.state])} {style.bold(found.check)}: {found.what}{code}")
        if found.fix and found.state != "ok":
            lines.append(f"    {found.fix}")
    count = {state: sum(found.state == state for found in findings) for state in _MARKS}
    lines += ["", *mended, *([""] if mended else [])]
    lines.append(f"{count['ok']} as they should be, {count['warn']} to know of, {count['fail']} wrong.")
    if any(found.mend for found in findings):
        lines.append("`lmctl doctor --fix` mends what is safe.")
    if written:
        lines.append(f"Wrote {escape(written)}: read it before you send it.")
    return "\n".join(lines) + "\n"
