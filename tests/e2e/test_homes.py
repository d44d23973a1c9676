"""Homes that are missing or sealed, and commands that write nothing there."""

from __future__ import annotations

import subprocess
import sys

import pytest
from e2e_tools import error, humbly


@pytest.mark.parametrize("value", [None, "", "relative"], ids=["absent", "empty", "relative"])
def test_F86_without_a_home_it_says_so(declared, value):
    env = {key: value for key, value in declared.env().items() if key != "HOME"}
    argv = [sys.executable, "-m", "lmctl", "plan"]
    env = env if value is None else {**env, "HOME": value}
    done = subprocess.run(argv, cwd=declared.folder, env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (8, "")
    assert done.stderr == "error[E-STATE]: HOME names no folder — set HOME to an absolute path\n"


@pytest.fixture
def sealed(declared):
    """A machine whose home cannot be written."""
    (declared.home / ".config").mkdir()
    declared.home.chmod(0o555)
    yield declared
    declared.home.chmod(0o755)


@pytest.mark.parametrize(
    "argv", [["apply"], ["lock"], ["start", "hello"], ["stop", "hello"], ["apply", "--json"]], ids=" ".join
)
def test_F86_a_home_that_cannot_be_written_is_told_in_one_line(sealed, argv):
    ran = humbly(sealed, *argv)
    assert ran.code == 8
    assert "error[E-PERM]" in error(ran) and "cannot be written" in error(ran)


def test_F86_reading_commands_work_where_nothing_can_be_written(sealed):
    for command in ("plan", "status", "validate", "config"):
        ran = humbly(sealed, command)
        assert (ran.code, ran.err) == (0, "")
    assert not (sealed.home / ".local").exists()


def test_the_superuser_is_welcome(declared):
    assert declared.run("plan").code == 0


def test_no_command_that_reads_writes_below_the_state_folder(declared):
    for command in ("plan", "status", "validate", "config", "verify"):
        declared.run(command, code=None)
    assert not declared.state().exists()
