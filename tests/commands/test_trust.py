"""`lmctl trust` as it is typed: what it shows, whom it asks, what it records, and what it takes back."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from lmctl.all_commands import load
from lmctl.arguments import parse
from lmctl.command import Options
from lmctl.compose import make_context
from lmctl.errors import LmctlError
from lmctl.record import replace
from lmctl.text import PLAIN

GATED = """\
version = 1
name = "team"
[profiles.own]
backend = "command"
command = ["./serve.sh", "{port}", "a b; touch x"]
env = { OWN = "1" }
[profiles.flags]
model = "o/m"
extra_args = ["--slot-save-path", "/"]
"""


class Screen(io.StringIO):
    """What is shown to a person, or to nobody."""

    def __init__(self, terminal: bool) -> None:
        super().__init__()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def typed(tmp_path, home, monkeypatch):
    """Run `lmctl trust` in a folder; `answer` is what a person types, None: there is nobody."""

    def run(*argv, answer=None, command="trust", **environ):
        name, args = parse([command, *argv])
        config = Path(args.config) if args.config else None
        options = Options(directory=run.folder, config=config, sets=tuple(args.sets), yes=args.yes)
        context = make_context(options, {"HOME": str(home), **environ}, "never")
        run.screen = Screen(answer is not None)
        keys = Screen(answer is not None)
        keys.write(answer or "")
        keys.seek(0)
        monkeypatch.setattr(sys, "stdin", keys)
        result = load(name).run(replace(context, err=run.screen), args)
        return result, result.text if isinstance(result.text, str) else result.text(PLAIN)

    run.folder = tmp_path / "repo"
    run.folder.mkdir()
    run.record = home / ".local/state/lmctl/team/trust.json"
    (run.folder / "localmodels.toml").write_text(GATED)
    return run


def refusal(run, *argv, **how):
    with pytest.raises(LmctlError) as caught:
        run(*argv, **how)
    return caught.value.problems[0]


def states(result):
    return {field["address"]: field["state"] for field in result.data["fields"]}


def edit(run, before, after):
    file = run.folder / "localmodels.toml"
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after))


def test_it_shows_every_field_with_place_and_value_as_it_would_be_executed(typed):
    result, text = typed("--show")
    assert (
        text
        == f"""\
What only you may allow of team ({typed.folder}/localmodels.toml):

+ new      profiles.flags.extra_args  localmodels.toml:9:1: flags outside the engine's list
    --slot-save-path /

+ new      profiles.own.command  localmodels.toml:5:1: runs this program
    ./serve.sh '{{port}}' 'a b; touch x'

+ new      profiles.own.env.OWN  localmodels.toml:6:9: a variable outside the engine's list
    OWN=1

"""
    )
    assert not result.data["trusted"]
    assert result.data["fields"][1] == {
        "address": "profiles.own.command",
        "state": "new",
        "permissions": ["command"],
        "value": "./serve.sh '{port}' 'a b; touch x'",
        "file": "localmodels.toml",
        "line": 5,
        "column": 1,
    }
    assert not typed.record.parent.exists()


def test_it_says_which_programs_may_change_without_it(typed):
    (typed.folder / "serve.sh").write_text("#!/bin/sh\n")
    assert "note: ./serve.sh lies in the declaration's folder" in typed("--show")[1]


@pytest.mark.parametrize("way", ["file", "folder", "nothing"])
def test_it_says_which_programs_are_links_that_lead_out(typed, tmp_path, way):
    """What was trusted as a file may have become one, and whoever pulls chooses where it leads."""
    outside = tmp_path / "outside"
    outside.mkdir()
    if way != "nothing":
        (outside / "serve.sh").write_text("#!/bin/sh\n")
    if way == "folder":
        (typed.folder / "bin").symlink_to(outside)
        edit(typed, "./serve.sh", "bin/serve.sh")
    else:
        (typed.folder / "serve.sh").symlink_to(outside / "serve.sh")
    typed("--yes")
    result, text = typed("--show")
    assert result.data["trusted"]
    name = "bin/serve.sh" if way == "folder" else "./serve.sh"
    where = f"note: {name} is a link that leads out of the declaration's folder, to {outside}/serve.sh:"
    assert f"{where} where it leads may change, and trust does not notice\n" in text


def test_a_word_that_no_file_can_be_called_is_no_file(typed):
    edit(typed, "a b; touch x", "x" * 1000)
    assert "note:" not in typed("--show")[1]


@pytest.mark.parametrize("answer", ["y\n", "yes\n", " Y \n"])
def test_a_yes_records_exactly_these_fields(typed, answer):
    result, text = typed(answer=answer)
    assert "profiles.own.command" in typed.screen.getvalue()
    assert typed.screen.getvalue().endswith("Trust all 3 on this machine? [y/N] ")
    assert text == "Trusted: 3 fields of team. Next: lmctl plan.\n"
    assert set(states(result).values()) == {"trusted"}
    recorded = json.loads(typed.record.read_text())
    assert [entry["address"] for entry in recorded["fields"]] == [
        "profiles.flags.extra_args",
        "profiles.own.command",
        "profiles.own.env.OWN",
    ]
    assert recorded["folder"] == str(typed.folder)
    assert typed.record.stat().st_mode & 0o777 == 0o600
    typed(command="validate")


def test_a_yes_on_the_command_line_is_answered_with_what_was_recorded(typed):
    """Between a look at the fields and the yes somebody may have pulled."""
    _, shown = typed("--show")
    result, text = typed("--yes")
    fields = shown.removesuffix("\n").replace("+ new    ", "✓ trusted")
    assert text == f"{fields}\nTrusted: 3 fields of team. Next: lmctl plan.\n"
    assert result.data["fields"][1]["value"] == "./serve.sh '{port}' 'a b; touch x'"


@pytest.mark.parametrize("answer", ["n\n", "\n", "", "yess\n", "no y\n"])
def test_anything_else_records_nothing(typed, answer):
    problem = refusal(typed, answer=answer)
    assert (problem.code, problem.what) == ("E-TRUST", "nothing was recorded")
    assert not typed.record.exists()


def test_I79_without_a_terminal_the_exact_command_is_told(typed):
    file = typed.folder / "localmodels.toml"
    problem = refusal(typed)
    assert problem.code == "E-TRUST"
    assert problem.fix == f"read `lmctl trust {file} --show`, then run `lmctl trust {file} --yes`"
    assert not typed.record.exists()
    assert refusal(typed, command="validate").code == "E-TRUST"
    typed(str(file), "--yes")
    typed(command="validate")


def test_a_path_with_spaces_is_told_as_a_shell_takes_it(typed):
    odd = typed.folder.with_name("my repo")
    typed.folder.rename(odd)
    typed.folder = odd
    assert f"lmctl trust '{odd}/localmodels.toml' --yes" in refusal(typed).fix


@pytest.mark.parametrize(
    "environ", [{"LMCTL_YES": "1"}, {"LMCTL_TRUST": "1"}, {"YES": "1"}, {"LMCTL_DEFAULTS__CTX": "512"}], ids=str
)
def test_the_environment_answers_no_question(typed, environ):
    assert refusal(typed, **environ).code == "E-TRUST"


def test_what_the_environment_says_is_not_what_is_trusted(typed):
    typed("--yes", LMCTL_PROFILES__OWN__COMMAND='["evil"]')
    assert "evil" not in typed.record.read_text()
    typed(command="validate")
    assert refusal(typed, command="validate", LMCTL_PROFILES__OWN__COMMAND='["evil"]').code == "E-TRUST"


def test_an_override_cannot_be_trusted(typed):
    problem = refusal(typed, "--yes", "--set", 'profiles.own.command=["evil"]')
    assert (problem.code, problem.what) == ("E-USAGE", "--set cannot be trusted")


def test_what_is_trusted_already_asks_nobody_and_writes_nothing(typed):
    typed("--yes")
    before = typed.record.stat()
    result, text = typed()
    assert result.data["trusted"] and "✓ trusted  profiles.own.command" in text and "Next:" not in text
    assert (typed.record.stat().st_ino, typed.record.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_change_is_shown_beside_what_was_trusted(typed):
    typed("--yes")
    edit(typed, 'OWN = "1"', 'OWN = "2"')
    edit(typed, '[profiles.flags]\nmodel = "o/m"\nextra_args = ["--slot-save-path", "/"]\n', "")
    result, text = typed("--show")
    assert states(result) == {
        "profiles.flags.extra_args": "gone",
        "profiles.own.command": "trusted",
        "profiles.own.env.OWN": "changed",
    }
    assert "    before: OWN=1\n    now:    OWN=2\n" in text
    assert "- gone     profiles.flags.extra_args  no longer declared\n    before: --slot-save-path /\n" in text
    assert refusal(typed, command="validate").code == "E-TRUST"
    typed("--yes")
    typed(command="validate")
    assert set(states(typed("--show")[0])) == {"profiles.own.command", "profiles.own.env.OWN"}


def test_what_machine_toml_allows_needs_no_trust(typed, home):
    config = home / ".config/lmctl/machine.toml"
    config.parent.mkdir(parents=True)
    config.write_text('[allow]\nteam = ["command", "env", "flags"]\n')
    result, text = typed()
    assert (result.data["trusted"], text) == (
        True,
        f"team: nothing in it needs trust ({typed.folder}/localmodels.toml)\n",
    )


def test_revoking_takes_everything_back_and_needs_no_sound_configuration(typed):
    typed("--yes")
    edit(typed, "version = 1", "version = [")
    result, text = typed("--revoke")
    assert result.data == {"folder": str(typed.folder), "revoked": ["team"], "held": []}
    assert "What runs goes on" in text
    assert not typed.record.exists()
    assert typed("--revoke")[0].data["revoked"] == []
    edit(typed, "version = [", "version = 1")
    assert refusal(typed, command="validate").code == "E-TRUST"


def test_revoking_finds_what_another_name_was_given(typed):
    typed("--yes")
    edit(typed, '"team"', '"other"')
    typed("--yes")
    assert typed("--revoke")[0].data["revoked"] == ["other", "team"]


@pytest.mark.parametrize("below", [".", "below/it"])
def test_revoking_a_folder_that_is_gone_is_about_that_folder_alone(typed, below):
    """What lies above has a declaration of its own, and goes on being trusted."""
    gone = typed.folder / below / "gone"
    gone.mkdir(parents=True)
    (gone / "localmodels.toml").write_text(GATED.replace('"team"', '"below"'))
    typed("--yes")
    typed(str(gone), "--yes")
    shutil.rmtree(gone)
    assert typed(str(gone), "--revoke")[0].data["revoked"] == ["below"]
    assert typed(str(gone), "--revoke")[0].data["revoked"] == []
    typed(command="validate")
    assert typed(str(typed.folder / "localmodels.toml"), "--revoke")[0].data["revoked"] == ["team"]


def test_revoking_by_a_file_that_is_gone_finds_its_folder(typed):
    typed("--yes")
    (typed.folder / "localmodels.toml").unlink()
    assert typed(str(typed.folder / "localmodels.toml"), "--revoke")[0].data["revoked"] == ["team"]


def test_a_configuration_that_is_wrong_is_told_and_not_trusted(typed):
    edit(typed, "version = 1", "version = 2")
    assert refusal(typed, "--yes").code == "E-RANGE"
    assert not typed.record.exists()


def test_the_file_may_be_named_by_its_folder_or_another_name(typed, tmp_path):
    (typed.folder / "localmodels.toml").rename(typed.folder / "other.toml")
    typed(str(typed.folder / "other.toml"), "--yes")
    typed("--config", str(typed.folder / "other.toml"), command="validate")
    (typed.folder / "other.toml").rename(typed.folder / "localmodels.toml")
    assert typed(str(typed.folder))[0].data["trusted"]
    assert refusal(typed, "--config", "a.toml", "b.toml").code == "E-USAGE"


@pytest.mark.parametrize(
    "name",
    [
        "/",
        "~",
        ".",
        "/dev/zero",
        "pipe",
        "serve.sh",
        "profiles/x.toml",
        "pyproject.toml",
        "gone.toml",
        "",
        "/etc/passwd",
    ],
)
def test_I80_only_a_declaration_can_be_trusted(typed, name):
    typed.folder = typed.folder.with_name("empty")
    (typed.folder / "profiles").mkdir(parents=True)
    os.mkfifo(typed.folder / "pipe")
    (typed.folder / "serve.sh").write_text("#!/bin/sh\n")
    (typed.folder / "profiles/x.toml").write_text('backend = "command"\ncommand = ["touch", "x"]\n')
    (typed.folder / "pyproject.toml").write_text('[project]\nname = "x"\n')
    for words in (("--yes",), ("--show",), ()):
        problem = refusal(typed, name, *words)
        assert problem.code == "E-TRUST"
        assert "is no declaration of lmctl" in problem.what
    assert not list((typed.record.parents[1]).glob("*"))


def test_I80_a_home_is_none_even_with_a_declaration_above(typed, home):
    """What is named is looked at alone: nothing is found from there upwards."""
    below = typed.folder / "below"
    below.mkdir()
    assert refusal(typed, str(below), "--yes").code == "E-TRUST"
