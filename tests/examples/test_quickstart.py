"""The README's first command, with only the installation left out."""

from __future__ import annotations

import shutil
import subprocess
import sys

from e2e.conftest import REPOSITORY
from e2e_tools import ask


def test_one_command_makes_a_model_run_and_says_how_to_ask_and_to_stop_it(machine, example):
    machine.gateway()
    clone = machine.home / "clone"
    ports = example("quickstart", clone / "examples/quickstart")
    shutil.copytree(REPOSITORY / "scripts", clone / "scripts")
    programs = machine.home / "venv/bin"
    programs.mkdir(parents=True)
    (programs / "python").write_text("#!/bin/sh\necho ran pip: $*\n")  # installs nothing: the real one is tried in CI
    (programs / "lmctl").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lmctl "$@"\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    machine.environ["VENV"] = str(programs.parent)
    ran = subprocess.run(
        ["sh", "examples/quickstart/run"], cwd=clone, env=machine.env(), capture_output=True, text=True, check=True
    )
    assert f"--editable {clone}[engine]" in ran.stdout
    assert "healthy  hello.gguf" in ran.stdout
    assert (
        f"curl http://127.0.0.1:{ports['hello']}/v1/chat/completions -H 'Content-Type: application/json' -d"
        in ran.stdout
    )
    assert "Hello! This answer comes from a model on your own machine." in ran.stdout
    assert ask(ports["hello"], "hi")
    stop = ran.stdout.strip().splitlines()[-1].split()
    assert stop[1:] == ["-C", "examples/quickstart", "down"]
    subprocess.run(stop, cwd=clone, env=machine.env(), check=True, capture_output=True)
    assert not machine.processes()


def test_a_python_that_is_too_old_is_refused_in_words(home):
    programs = home / "bin"
    programs.mkdir()
    for name in ("python3", "python3.11", "python3.12", "python3.13", "python3.14"):
        (programs / name).write_text("#!/bin/sh\nexit 1\n")
        (programs / name).chmod(0o755)
    environ = {"PATH": f"{programs}:/usr/bin:/bin", "VENV": str(home / "venv"), "HOME": str(home)}
    script = str(REPOSITORY / "scripts/venv")
    ran = subprocess.run(["sh", script, "engine"], env=environ, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (1, "lmctl needs Python 3.11 or newer; install it and run this again\n")
