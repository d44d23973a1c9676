"""Completion in the shells themselves: scripts are sound, and offer commands, flags, choices, files and profiles."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lmctl.all_commands import COMMANDS

SHELLS = ("bash", "zsh", "fish")
DECLARED = 'version = 1\nname = "team"\n[profiles.code]\nmodel = "o/code"\n[profiles.chat]\nmodel = "o/chat"\n'
Complete = Callable[..., set[str]]

# Words are offered by calling the function that the script registers, as bash does.
BASH = """\
source ./script
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
"$(complete -p lmctl | sed 's/.*-F \\([^ ]*\\).*/\\1/')" && printf '%s\\n' "${COMPREPLY[@]}"
"""
# Only a line editor can complete in zsh: compadd is overheard in one that runs in a terminal of its own.
ZSH = """\
PROMPT= RPROMPT=; unsetopt zle_bracketed_paste prompt_sp 2>/dev/null
fpath=($PWD/functions $fpath); autoload -U compinit; compinit -u -D; bindkey '^I' complete-word
compadd() {
  if [[ " $*" == *" -"(O|A|D)" "* ]]; then builtin compadd "$@"; return; fi
  local -a hits; builtin compadd -A hits "$@"; print -rl -- "<"$^hits">"; builtin compadd "$@"
}
told() { print -r -- "<END>" }
comppostfuncs=(told)
print READY
"""


@pytest.fixture(params=SHELLS)
def shell(request: pytest.FixtureRequest) -> str:
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return str(request.param)


def script(shell: str) -> str:
    return _run([sys.executable, "-m", "lmctl", "completion", shell])


def _run(argv: list[str], **how) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, **how)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.fixture
def complete(shell: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Complete]:
    """Return what the shell offers for the last word of a line, in a folder with a declaration."""
    folder = home / "repo"
    folder.mkdir()
    (folder / "localmodels.toml").write_text(DECLARED)
    (folder / "weights.gguf").touch()
    (folder / "script").write_text(script(shell))
    (home / "bin").mkdir()
    (home / "bin/lmctl").write_text(f'#!/bin/sh\nexec {sys.executable} -P -m lmctl "$@"\n')
    (home / "bin/lmctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.chdir(folder)
    if shell == "bash":
        (folder / "ask").write_text(BASH)
        yield lambda *words: set(_run(["bash", "--norc", "ask", "lmctl", *words]).split())
    elif shell == "fish":
        yield lambda *words: _fish(["lmctl", *words])
    else:
        (folder / "setup").write_text(ZSH)
        (folder / "functions").mkdir()
        (folder / "functions/_lmctl").write_text(script(shell))
        yield lambda *words: _zsh(" ".join(["lmctl", *words]))


def _fish(words: list[str]) -> set[str]:
    said = _run(["fish", "--no-config", "-c", "source script; complete -C $argv[1]", " ".join(words)])
    return {line.split("\t")[0] for line in said.splitlines()}


def _zsh(line: str) -> set[str]:
    process, terminal = pty.fork()
    if process == 0:
        os.execvp("zsh", ["zsh", "-f", "-i"])
    try:
        os.write(terminal, b". ./setup\n")
        _until("READY\r\n", terminal)
        os.write(terminal, line.encode() + b"\t")
        return set(re.findall(r"<([^<>\s]+)>", _until("<END>", terminal))) - {"END"}
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(terminal)


def _until(marker: str, terminal: int) -> str:
    seen, end = b"", time.monotonic() + 120
    while marker.encode() not in seen:
        ready, _, _ = select.select([terminal], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"zsh says only {seen!r}"
        seen += os.read(terminal, 65536)
    return seen.decode("utf-8", "replace")


def test_the_script_is_sound(shell, home):
    file = home / "script"
    file.write_text(script(shell))
    _run([shell, "-n", str(file)])


def test_commands_are_offered(complete):
    assert complete("pl") == {"plan"}
    assert complete("") >= COMMANDS.keys()


def test_flags_of_a_command_are_offered_and_the_global_ones_too(complete):
    assert complete("plan", "--detailed") == {"--detailed-exitcode"}
    assert complete("apply", "--of") == {"--offline"}
    assert "--yes" in complete("--y")


def test_choices_and_verbs_are_offered(complete):
    assert complete("--color", "a") == {"auto", "always"}
    assert complete("profile", "") >= {"add", "set", "remove"}
    assert complete("profile", "set", "--un") == {"--unset"}
    assert complete("schema", "pl") == {"plan"}
    assert complete("completion", "") >= set(SHELLS)
    assert "profiles" not in complete("completion", "")


@pytest.mark.parametrize(
    "words",
    [
        ("plan",),
        ("start",),
        ("logs",),
        ("status",),
        ("profile", "remove"),
        ("apply", "--exclude"),
        ("stop", "chat"),
        ("start", "x", "y"),
    ],
    ids=" ".join,
)
def test_profiles_are_offered(complete, words):
    assert complete(*words, "c") == {"chat", "code"}


@pytest.mark.parametrize("flag", ["-C", "--config"])
def test_profiles_of_the_declaration_that_the_line_names_are_offered(complete, flag, home):
    other = home / "other"
    other.mkdir()
    (other / "localmodels.toml").write_text(DECLARED.replace("chat", "talk"))
    named = "~/other" if flag == "-C" else "~/other/localmodels.toml"
    assert complete(flag, named, "start", "t") == {"talk"}


@pytest.mark.parametrize(
    "flag", [("--config",), ("apply", "--plan"), ("plan", "--out"), ("start", "--model")], ids=" ".join
)
def test_files_are_offered(complete, flag):
    assert "weights.gguf" in complete(*flag, "wei")


def test_folders_are_offered(complete):
    Path("models").mkdir()
    assert {name.rstrip("/") for name in complete("-C", "mod")} == {"models"}


@pytest.mark.parametrize(
    "content", ["", "not toml [", "version = 1\nname = 'x'\nwhat = 1\n"], ids=["empty", "broken", "refused"]
)
def test_a_broken_declaration_offers_no_profiles_and_says_nothing(complete, content):
    Path("localmodels.toml").write_text(content)
    assert not complete("start", "c") & {"chat", "code"}
