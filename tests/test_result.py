"""One renderer: text for people, one envelope for scripts, problems on stderr."""

from __future__ import annotations

import io
import json

import pytest

from lmctl.errors import LmctlError, OutputError, Place, Problem
from lmctl.result import Result, envelope, render, style_for
from lmctl.text import PLAIN, Style

WARNING = Problem("W-STALE", "old", change="lock:a")
ERROR = Problem("E-HASH", "wrong", "fetch again", Place("a.toml", 4, 1))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(result: Result, *, out: io.StringIO | None = None, err: io.StringIO | None = None, **how: object):
    out, err = out or io.StringIO(), err or io.StringIO()
    render("plan", result, out, err, **{"as_json": False, "quiet": False, "style": PLAIN, **how})
    return out.getvalue(), err.getvalue()


def test_data_and_problems_take_their_own_streams():
    out, err = shown(Result(text="done", warnings=(WARNING,), errors=(ERROR,)))
    assert out == "done\n"
    assert err == "warning[W-STALE]: old\nerror[E-HASH]: a.toml:4:1: wrong — fetch again\n"


def test_quiet_drops_warnings_and_never_errors():
    assert shown(Result(warnings=(WARNING,), errors=(ERROR,)), quiet=True)[1].startswith("error[E-HASH]")
    assert shown(Result(warnings=(WARNING,)), quiet=True) == ("", "")


def test_text_may_depend_on_the_style():
    result = Result(text=lambda style: style.bold("x"))
    assert shown(result)[0] == "x\n"
    assert shown(result, style=Style(colour=True))[0] == "\x1b[1mx\x1b[0m\n"


def test_the_envelope_holds_what_is_known_and_nothing_else():
    out, _ = shown(Result({"n": 1}, "text", (WARNING,), (ERROR,), 3), as_json=True)
    found = json.loads(out)
    assert (found["command"], found["ok"], found["exit_code"], found["data"]) == ("plan", False, 3, {"n": 1})
    assert found["warnings"] == [{"code": "W-STALE", "what": "old", "change": "lock:a"}]
    assert found["errors"] == [
        {"code": "E-HASH", "what": "wrong", "file": "a.toml", "line": 4, "column": 1, "fix": "fetch again"}
    ]
    assert envelope("plan", Result(exit_code=2))["ok"] is False
    assert envelope("plan", Result())["ok"] is True


def test_a_failure_becomes_a_result_with_its_exit_code():
    result = Result.failed(LmctlError("E-SPACE", "full", fix="free some"))
    assert (result.exit_code, [problem.code for problem in result.errors]) == (8, ["E-SPACE"])


def test_errors_are_coloured_on_a_terminal_alone():
    result = Result(errors=(ERROR,))
    assert "\x1b[31merror[E-HASH]:\x1b[0m" in shown(result, err=Terminal(), style=Style(colour=True))[1]
    assert "\x1b" not in shown(result, style=Style(colour=True))[1]


@pytest.mark.parametrize(
    ("stream", "choice", "environ", "coloured"),
    [
        (Terminal, "auto", {}, True),
        (Terminal, "auto", {"NO_COLOR": "1"}, False),
        (Terminal, "auto", {"NO_COLOR": ""}, True),
        (Terminal, "auto", {"TERM": "dumb"}, False),
        (io.StringIO, "auto", {}, False),
        (io.StringIO, "always", {"NO_COLOR": "1"}, True),
        (Terminal, "never", {}, False),
    ],
)
def test_who_gets_colour(stream, choice, environ, coloured):
    assert style_for(stream(), choice, environ).colour is coloured


def test_F11_output_that_cannot_be_written_is_no_bug():
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError) as caught:
        shown(Result(text="x"), out=Full())
    assert caught.value.errno == 28
