"""A repository that was pulled runs nothing, whatever its files try, until its owner trusts it: no marker appears."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import hostile
import pytest
from e2e_tools import ask

from lmctl.all_commands import COMMANDS

LMCTL = Path(sys.executable).with_name("lmctl")
# Every command that only reads, `apply` last; names that this version has.
READING = [
    words
    for words in (
        ["validate"],
        ["config"],
        ["config", "--explain", "profiles.hello.ctx"],
        ["plan", "-v"],
        ["status"],
        ["drift"],
        ["history"],
        ["doctor"],
        ["trust", "--show"],
        ["verify"],
        ["lock", "--check"],
        ["prune", "--dry-run"],
        ["logs", "hello"],
        ["completion", "profiles"],
        ["apply", "--dry-run"],
        ["profile", "set", "hello", "ctx=512"],
        ["trust"],
        ["apply"],
    )
    if words[0] in COMMANDS
]
# In one process, as quick as many: each command by its own entry, one line with its exit code on stderr's end.
ONE_BY_ONE = """
import contextlib, io, json, sys
from lmctl.cli import main
codes = []
for words in json.loads(sys.argv[1]):
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        codes.append([main(words), err.getvalue()])
print(json.dumps(codes))
"""


@pytest.fixture
def pulled(machine):
    """A machine with a hello model that is about to pull something; returns how to write it."""
    machine.hello()
    marker, bin_, precious = machine.home / "marker", machine.home / "bin", machine.home / "precious"
    bin_.mkdir()
    (bin_ / "touch").write_text(f"#!/bin/sh\n: > '{marker}'\n")
    (bin_ / "touch").chmod(0o755)
    precious.write_text("mine")
    machine.marker = marker

    def pull(way: hostile.Way) -> None:
        known = {"touch": str(bin_ / "touch"), "marker": str(marker), "home": str(machine.home)}
        hostile.write(way, machine.folder, known)

    return pull


def ours(machine):
    """Return whether a path is lmctl's own to write: its folders, the locks, the edited declaration."""
    folders = [machine.home / name for name in (".local", ".cache")]
    names = {"localmodels.toml", "localmodels.lock", "localmodels.local.lock"}
    return lambda path: path.name in names or any(path.is_relative_to(folder) for folder in folders)


def test_the_payload_would_leave_its_marker(machine, pulled):
    """Otherwise the tests below would find nothing because there is nothing to find."""
    pulled(hostile.ALL["command-program"])
    machine.run("trust", "--yes")
    machine.run("apply", code=None)
    assert machine.marker.exists()


@pytest.mark.parametrize("way", hostile.ALL.values(), ids=hostile.ALL)
def test_no_command_that_reads_nor_apply_leaves_a_marker(machine, pulled, way):
    pulled(way)
    before = hostile.snapshot(machine.home, ours(machine))
    argv = [sys.executable, "-P", "-c", ONE_BY_ONE, json.dumps(READING)]
    done = subprocess.run(
        argv, cwd=machine.folder, env=machine.env(), capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stderr
    ended = dict(zip((" ".join(words) for words in READING), json.loads(done.stdout), strict=True))
    code, said = ended["validate"]
    assert (code == 0) == (way.says == ""), said
    assert way.says in said
    assert "Traceback" not in str(ended) and "E-BUG" not in str(ended)
    if way.says or way.at_lock:
        assert ended["apply"][0] not in (0, 1), ended["apply"]
    assert not machine.marker.exists()
    assert hostile.snapshot(machine.home, ours(machine)) == before


@pytest.mark.parametrize("name", list(hostile.SURROUNDINGS))
def test_what_lies_around_is_not_run_by_the_program_that_people_type(machine, pulled, name):
    """Each command is a process of its own here, with the pulled folder as its working folder."""
    pulled(hostile.ALL[name])
    for words in (["validate"], ["plan"], ["status"], ["apply"]):
        subprocess.run([LMCTL, *words], cwd=machine.folder, env=machine.env(), capture_output=True, check=False)
    assert not machine.marker.exists()


ODD = "$(touch ~; .'\"`%s %(here)s [program x] é.gguf"


def test_odd_files_that_are_welcome_are_served_and_run_nothing(machine, pulled, port):
    """Names, texts and a template that somebody might take for more than data, all the way into the engine."""
    pulled(hostile.ALL["programs"])
    (machine.folder / ODD).write_bytes((machine.folder / "hello.gguf").read_bytes())
    evil = "{{ cycler.__init__.__globals__.os.popen('touch " + str(machine.marker) + "').read() }}"
    (machine.folder / "evil.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    text = f"x\n[program:evil]\ncommand={machine.home}/bin/touch\n%(ENV_HOME)s"
    machine.declare(
        f"[profiles.odd]\npath = {json.dumps(ODD)}\nport = {(number := port())}\n"
        f"description = {json.dumps(text)}\naliases = ['a:b/c@d']\nchat_template = 'evil.jinja'\n"
    )
    machine.run("apply")
    assert ask(number, "hi") == "Hello from here."
    (machine.folder / "evil.jinja").write_text(evil)
    machine.run("apply", code=None)  # the engine may refuse such a template
    with contextlib.suppress(OSError):
        ask(number, "hi")
    assert not machine.marker.exists()
