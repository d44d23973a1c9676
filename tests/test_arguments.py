"""The command line as it is read: flags before and after the command, mistakes, help."""

from __future__ import annotations

import re

import pytest
from syrupy.assertion import SnapshotAssertion

from lmctl.all_commands import COMMANDS
from lmctl.arguments import ELSEWHERE, Asked, parse
from lmctl.errors import LmctlError

GLOBAL = ["-C", "x", "--config", "y", "--set", "defaults.ctx=512", "--json", "-q", "--color", "never", "--offline"]
GLOBAL += ["--debug", "--yes"]


def refused(*argv: str) -> str:
    """Return the one line that a mistake is told in."""
    with pytest.raises(LmctlError) as caught:
        parse(argv)
    (problem,) = caught.value.problems
    assert (problem.code, caught.value.exit_code) == ("E-USAGE", 64)
    assert "\n" not in str(problem) and problem.fix
    return str(problem)


def unwrapped(text: str) -> str:
    """Return a help text with its usage and every option on one line each, as all versions of Python agree on it."""
    usage, _, rest = text.partition("\n\n")
    rest = re.sub(r"(?<=\S) {2,}", "  ", re.sub(r"\n {10,}", "  ", rest))
    rest = re.sub(r"(-[a-z]) ([A-Z]+), (--[a-z]+) ", r"\1, \3 ", rest)
    return f"{' '.join(usage.split())}\n\n{rest}"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_reads_as_recorded(command: str, snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(Asked) as asked:
        parse([command, "--help"])
    assert unwrapped(asked.value.text) == snapshot


def test_the_first_screen_reads_as_recorded(snapshot: SnapshotAssertion):
    with pytest.raises(Asked) as asked:
        parse(["--offline", "--help"])
    assert asked.value.text == snapshot


def test_help_of_a_command_may_be_asked_before_it():
    with pytest.raises(Asked, match="usage: lmctl plan"):
        parse(["--help", "plan"])


def test_global_flags_mean_the_same_before_and_after_the_command():
    before, after = parse([*GLOBAL, "plan"]), parse(["plan", *GLOBAL])
    assert before == after
    args = after[1]
    assert (args.directory, args.config, args.sets, args.color) == ("x", "y", ["defaults.ctx=512"], "never")
    assert args.json and args.quiet and args.offline and args.debug and args.yes and not args.verbose


def test_global_flags_add_up_when_given_on_both_sides():
    _, args = parse(["--set", "a=1", "-q", "plan", "--set", "b=2", "--json"])
    assert args.sets == ["a=1", "b=2"]
    assert args.quiet and args.json


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        pytest.param("aply", "apply", id="I71-aply"),
        pytest.param("statsu", "status", id="I71-statsu"),
        pytest.param("dwonload", "download", id="I71-dwonload"),
    ],
)
def test_a_mistyped_command_is_told_with_the_near_miss(typed: str, meant: str):
    assert refused(typed) == f"error[E-USAGE]: there is no command '{typed}' — did you mean `{meant}`?"


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        *[("run", "start"), ("serve", "start"), ("ps", "status"), ("list", "status"), ("ls", "status")],
        *[("pull", "download"), ("rm", "profile remove"), ("version", "--version")],
    ],
)
def test_a_word_of_another_tool_is_told_with_the_command_of_ours(typed: str, meant: str):
    assert refused(typed, "x") == f"error[E-USAGE]: there is no command '{typed}' — did you mean `{meant}`?"


def test_words_of_other_tools_are_none_of_ours_and_lead_to_ours():
    assert not ELSEWHERE.keys() & COMMANDS.keys()
    assert {meant.split()[0] for meant in ELSEWHERE.values()} <= {*COMMANDS, "--version"}


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        (["help"], "usage: lmctl [-C DIR]"),
        (["--json", "help"], "usage: lmctl [-C DIR]"),
        (["help", "plan"], "usage: lmctl plan "),
        (["help", "profile", "set"], "usage: lmctl profile set "),
    ],
)
def test_help_is_a_word_as_well(argv: list[str], shown: str):
    with pytest.raises(Asked) as asked:
        parse(argv)
    assert asked.value.text.startswith(shown)
    assert "did you mean `status`?" in refused("help", "ps")


def test_I71_a_command_like_none_points_to_the_help():
    assert refused("xyzzy") == "error[E-USAGE]: there is no command 'xyzzy' — see `lmctl --help`"


def test_no_command_is_a_mistake():
    assert "name a command" in refused("--json")


@pytest.mark.parametrize(
    "argv",
    [
        pytest.param(["--config", "a", "--config", "b", "plan"], id="I73-config-before"),
        pytest.param(["plan", "--config", "a", "--config", "b"], id="I73-config-after"),
        pytest.param(["--config", "a", "plan", "--config", "b"], id="I73-config-on-both-sides"),
        pytest.param(["-C", "a", "plan", "-C", "b"], id="folder-on-both-sides"),
        pytest.param(["plan", "-C", "a", "-C", "a"], id="folder-after"),
        pytest.param(["--color", "never", "plan", "--color", "always"], id="color-on-both-sides"),
    ],
)
def test_a_flag_given_twice_is_refused(argv: list[str]):
    assert "is given twice" in refused(*argv)


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        pytest.param(["start", "--port", "abc"], "--port: 'abc' is no number of 1024..65535", id="I74-port-abc"),
        pytest.param(["start", "--port", "80"], "'80' is no number of 1024..65535", id="I74-port-privileged"),
        pytest.param(["start", "--port", "65536"], "'65536' is no number", id="I74-port-above"),
        pytest.param(["start", "--port", "8080.0"], "'8080.0' is no number", id="I74-port-float"),
        pytest.param(["start", "--port", "٨٠٨٠"], "is no number", id="I74-port-other-digits"),
        pytest.param(["start", "--port", "1" * 5000], "is no number", id="I74-port-5000-digits"),
        pytest.param(["start", "--ctx", "-1"], "--ctx: '-1' is no number of 256..2147483647", id="I74-ctx-negative"),
        pytest.param(["start", "--ctx", "0"], "'0' is no number of 256", id="I74-ctx-zero"),
        pytest.param(["start", "--ctx", "1e9"], "'1e9' is no number", id="I74-ctx-exponent"),
        pytest.param(["start", "--ctx"], "--ctx: expected one argument", id="I74-ctx-absent"),
        pytest.param(["logs", "x", "-n", "-3"], "'-3' is no number of 0", id="I74-lines-negative"),
        pytest.param(["start", "--backend", "vllm"], "invalid choice: 'vllm'", id="backend-that-cannot-be-started"),
        pytest.param(["plan", "--colour"], "unrecognized arguments: --colour", id="unknown-flag"),
        pytest.param(["plan", "--detailed"], "unrecognized arguments: --detailed", id="abbreviated-flag"),
        pytest.param(["--color", "blue", "plan"], "invalid choice: 'blue'", id="colour"),
        pytest.param(["download"], "the following arguments are required: REPO", id="nothing-named"),
        pytest.param(["profile"], "required: add|set|remove", id="no-verb"),
        pytest.param(["completion"], "required: {bash,zsh,fish} — see", id="no-shell"),
        pytest.param(
            ["completion", "tcsh"], "{bash,zsh,fish}: there is no script for 'tcsh' — see", id="another-shell"
        ),
        pytest.param(["apply", "--prune", "--no-prune"], "not allowed with argument", id="both-prunes"),
        pytest.param(["-q", "plan", "-v"], "-q and -v exclude each other", id="quiet-and-verbose"),
    ],
)
def test_values_that_cannot_be_are_refused(argv: list[str], said: str):
    assert said in refused(*argv)


def test_I77_bytes_that_are_no_text_are_shown_escaped():
    assert "'\\udcff\\x1b[31m'" in refused("\udcff\x1b[31m")
    assert "\\udcff" in refused("plan", "--out\udcff")
