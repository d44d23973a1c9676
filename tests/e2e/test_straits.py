"""lmctl with too little of what a process needs: it works, or says so in a line."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from lmctl import dispatch


def run(machine, *argv: str, before: tuple[str, ...] = (), **environ: str) -> subprocess.CompletedProcess[str]:
    line = [*before, sys.executable, "-m", "lmctl", *argv]
    return subprocess.run(line, cwd=machine.folder, env={**machine.env(), **environ}, capture_output=True, text=True)


@pytest.mark.skipif(sys.platform == "darwin", reason="the kernel does not hold processes to it")
@pytest.mark.parametrize("mib", [24, 32, 40, 1024])
def test_F86_little_memory_is_a_line_or_enough(declared, mib):
    """Where Python itself ends while it starts, lmctl is never asked."""
    ran = run(declared, "plan", before=("prlimit", f"--as={mib << 20}"))
    assert "E-BUG" not in ran.stderr
    if ran.returncode == 8:
        assert ran.stderr.startswith("error[E-SPACE]: ") and ran.stderr.count("\n") == 1
    if mib == 1024:
        assert (ran.returncode, ran.stderr) == (0, "")
        assert "to add" in ran.stdout


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("can't start new thread"),
        BlockingIOError(11, "Resource temporarily unavailable"),
        ImportError("x.so: failed to map segment from shared object"),
    ],
    ids=lambda error: f"F86-{type(error).__name__}",
)
def test_F86_what_the_system_refuses_is_no_defect(error, monkeypatch, capsys):
    class Refused:
        @staticmethod
        def run(context, args):
            raise error

    monkeypatch.setattr(dispatch, "load", lambda name: Refused)
    assert dispatch.dispatch(["plan"]) == 8
    assert capsys.readouterr().err.startswith("error[E-SPACE]: the system gives lmctl itself no more")


@pytest.mark.parametrize("locale", ["C", "POSIX", "", "xx_XX.nonsense"], ids=lambda value: f"F86-{value or 'empty'}")
def test_F86_any_locale_will_do(declared, locale):
    plain = {"LANG": locale, "LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = run(declared, "plan", **plain)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "+ create" in ran.stdout


def test_F86_without_a_terminal_or_any_input(declared):
    reading = os.open(os.devnull, os.O_WRONLY)  # cannot be read from
    try:
        line = [sys.executable, "-m", "lmctl", "plan"]
        how = {"cwd": declared.folder, "env": declared.env(), "capture_output": True, "start_new_session": True}
        assert subprocess.run(line, stdin=reading, **how).returncode == 0
    finally:
        os.close(reading)


def test_F86_an_environment_with_nothing_else_in_it(declared):
    line = [sys.executable, "-m", "lmctl", "plan"]
    ran = subprocess.run(line, cwd=declared.folder, env={"HOME": str(declared.home)}, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_F86_the_superuser_is_told_by_doctor(declared):
    ran = declared.run("doctor", "--json")
    told = [one["code"] for one in ran.data["findings"] if one["check"] == "user"]
    assert told == (["W-ROOT"] if os.geteuid() == 0 else [])
