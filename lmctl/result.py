"""What a command returns, and the one place that turns it into text for people or the JSON envelope."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal, TextIO

from lmctl import __version__
from lmctl.errors import DONE, LmctlError, OutputError, Problem
from lmctl.record import NOTHING, record
from lmctl.text import Style

if TYPE_CHECKING:
    from lmctl.spec import Json


@record
class Result:
    """The outcome of a command: `data` for scripts, `text` for people, problems for both."""

    data: Mapping[str, Json] = NOTHING
    text: str | Callable[[Style], str] = ""
    warnings: tuple[Problem, ...] = ()
    errors: tuple[Problem, ...] = ()
    exit_code: int = DONE
    done: tuple[str, ...] = ()  # what was changed, or tried, in a few words each: for lmctl's own log

    @classmethod
    def failed(cls, error: LmctlError) -> Result:
        """Return the result of a command that ended in `error`."""
        return cls(errors=error.problems, exit_code=error.exit_code)


def style_for(stream: TextIO, choice: Literal["auto", "always", "never"], environ: Mapping[str, str]) -> Style:
    """Return the style for `stream`; `auto` colours terminals unless NO_COLOR is set or the terminal is dumb."""
    if choice == "auto":
        terminal = stream.isatty() and environ.get("TERM") != "dumb"
        return Style(terminal and not environ.get("NO_COLOR"))
    return Style(choice == "always")


def envelope(command: str, result: Result) -> dict[str, Json]:
    """Return the documented JSON object of a result (schema `result/1`)."""
    return {
        "lmctl": __version__,
        "schema": "result/1",
        "command": command,
        "ok": not result.errors and result.exit_code == DONE,
        "exit_code": result.exit_code,
        "data": dict(result.data),
        "warnings": [problem_json(problem) for problem in result.warnings],
        "errors": [problem_json(problem) for problem in result.errors],
    }


def problem_json(problem: Problem) -> Json:
    """Return a problem as it stands in an envelope."""
    place = problem.place
    fields: dict[str, Json] = {
        "code": problem.code,
        "what": problem.what,
        "file": place.file if place else None,
        "line": place.line if place else None,
        "column": place.column if place else None,
        "fix": problem.fix,
        "change": problem.change,
    }
    return {name: value for name, value in fields.items() if value is not None}


def render(command: str, result: Result, out: TextIO, err: TextIO, *, as_json: bool, quiet: bool, style: Style) -> None:
    """Write data to `out` and problems to `err`. Raises OutputError when `out` cannot be written."""
    paint = Style(style.colour and err.isatty())
    for problem in () if quiet else result.warnings:
        # what ends other commands is only a warning for those that go on without it
        err.write(f"{_coloured(str(problem).replace('error[', 'warning[', 1), paint.yellow)}\n")
    for problem in result.errors:
        err.write(f"{_coloured(str(problem), paint.red)}\n")
    if as_json:
        import json  # people who ask for help do not wait for it

        ascii_only = (out.encoding or "").lower().replace("-", "") != "utf8"
        write(out, json.dumps(envelope(command, result), ensure_ascii=ascii_only) + "\n")
    else:
        text = result.text if isinstance(result.text, str) else result.text(style)
        write(out, text if not text or text.endswith("\n") else f"{text}\n")
    err.flush()


def write(out: TextIO, text: str) -> None:
    """Write text for whoever reads stdout, at once. Raises OutputError."""
    try:
        out.write(text)
        out.flush()
    except OSError as error:
        raise OutputError(*error.args) from error


def _coloured(line: str, paint: Callable[[str], str]) -> str:
    head, bracket, rest = line.partition("]: ")
    return paint(head + "]:") + " " + rest if bracket else line
