"""What goes to which stream, how much of it, in which colours and letters, and readers that leave."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from e2e_tools import HELLO, error

from lmctl.spec import program_id


@pytest.mark.parametrize("command", ["status", "--help", "plan --help", "schema result", "--version"])
def test_F10_a_reader_that_leaves_ends_it_quietly(declared, command):
    line = f"{sys.executable} -m lmctl {command} | head -n 0; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], cwd=declared.folder, env=declared.env(), capture_output=True)
    assert done.returncode in (0, 141)
    assert done.stderr == b""


def test_F10_a_reader_that_leaves_ends_a_followed_log(declared):
    log = declared.state() / "logs"
    log.mkdir(parents=True)
    (log / f"{program_id('hello')}.log").write_text("a line\n")
    reading, writing = os.pipe()
    process = declared.start("logs", "-f", "hello", stdout=writing)
    os.close(writing)
    os.close(reading)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (141, "")


def test_F10_a_reader_that_leaves_a_silent_log_ends_following_it(declared):
    """After the first line nothing more is printed that would tell."""
    log = declared.state() / "logs"
    log.mkdir(parents=True)
    (log / f"{program_id('hello')}.log").write_text("a line\n")
    process = declared.start("logs", "-f", "hello")
    assert process.stdout.readline() == "a line\n"
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize(
    "command", [["status"], ["plan", "--json"], ["--help"], ["plan", "--help"], ["aply", "--json"]]
)
def test_F11_a_full_disk_behind_stdout_is_told(declared, command):
    with Path("/dev/full").open("w") as full:
        ran = declared.run(*command, code=8, stdout=full)
    assert "error[E-IO]: cannot write output: No space left on device" in ran.err.splitlines()[-1]


def test_F11_a_closed_stdout_is_told(declared):
    ran = declared.run("status", code=8, stdout=None, preexec_fn=lambda: os.close(1))
    assert "error[E-IO]: cannot write output: Bad file descriptor — open it" in error(ran)


def test_closed_stdin_and_stderr_disturb_nothing(declared):
    def close() -> None:
        os.close(0)
        os.close(2)

    ran = declared.run("plan", preexec_fn=close)
    assert "Plan:" in ran.out


def test_data_goes_to_stdout_and_problems_to_stderr(declared):
    ran = declared.run("status", "nobody", code=64)
    assert ran.out == ""
    assert "there is no profile 'nobody' — declared: hello" in error(ran)


def test_verbose_plans_tell_what_programs_are_started_with(declared):
    declared.run("apply")
    plain, verbose = declared.run("plan", "hello").out, declared.run("plan", "-v", "hello").out
    assert "--model" not in plain
    assert f"--model {declared.folder}/hello.gguf" in verbose


def test_quiet_commands_keep_their_warnings_to_themselves(declared):
    declared.declare(f'[engines."llama.cpp"]\nversion = "b6000"\n{HELLO}')
    assert "warning[W-NOEFFECT]" in declared.run("plan").err
    assert declared.run("plan", "-q").err == ""
    assert [w["code"] for w in declared.run("plan", "-q", "--json").json["warnings"]] == ["W-NOEFFECT"]


def test_W_SECRET_of_the_configuration_is_among_the_warnings_of_a_plan(declared):
    declared.declare(HELLO + f'description = "hf_{"a" * 34}"\n')
    ran = declared.run("plan", "--json")
    assert [w["code"] for w in ran.json["warnings"]] == ["W-SECRET"]
    assert "a" * 34 not in ran.out + ran.err


@pytest.mark.parametrize(
    ("flags", "environ", "coloured"),
    [
        ([], {}, False),
        (["--color", "always"], {}, True),
        (["--color", "always"], {"NO_COLOR": "1"}, True),
        (["--color", "never"], {}, False),
    ],
)
def test_colour_is_for_terminals_or_who_asks(declared, flags, environ, coloured):
    declared.environ |= environ
    assert ("\x1b[" in declared.run("plan", *flags).out) is coloured


@pytest.mark.parametrize(
    ("environ", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
    ids=["terminal", "NO_COLOR", "dumb"],
)
def test_a_terminal_gets_colour_unless_told_otherwise(declared, environ, coloured):
    declared.environ |= environ
    ours, theirs = os.openpty()
    process = declared.start("plan", stdout=theirs)
    os.close(theirs)
    said = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        said += part
    os.close(ours)
    assert process.wait(60) == 0
    process.stderr.close()
    assert (b"\x1b[" in said) is coloured


@pytest.mark.parametrize(
    "environ",
    [{"LANG": "C", "LC_ALL": "C"}, {"LC_ALL": "POSIX", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}],
    ids=["C", "POSIX-without-UTF-8", "ascii"],
)
def test_F86_it_works_in_any_locale(declared, environ):
    declared.environ |= environ
    shutil.copy(declared.folder / "hello.gguf", declared.folder / "héllo ☃.gguf")
    declared.declare(HELLO.replace("hello.gguf", "héllo ☃.gguf"))
    assert declared.run("plan", "--json").data["changes"][0]["address"] == "lock:path=héllo ☃.gguf"
    assert "create" in declared.run("plan").out
