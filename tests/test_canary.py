"""The search for the token finds it wherever it is put: a search that finds nothing must mean that there is nothing."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys

import canary
import psutil
import pytest
from e2e_tools import until


def test_it_is_found_in_files_of_every_kind(tmp_path):
    (tmp_path / "log").write_text(f"token {canary.TOKEN[:14]}…\n")
    (tmp_path / "binary").write_bytes(b"\0" * ((1 << 20) - 4) + canary.TOKEN.encode())
    with sqlite3.connect(tmp_path / "x.db") as database:
        database.execute("CREATE TABLE t (a TEXT)")
        database.execute("INSERT INTO t VALUES (?)", (canary.TOKEN,))
    database.close()
    (tmp_path / f"{canary.TOKEN}.txt").touch()
    (tmp_path / "clean").write_text("hf_other")
    os.mkfifo(tmp_path / "pipe")
    found = {os.path.basename(path) for path in canary.in_files(tmp_path)}
    assert found == {"log", "binary", "x.db", f"{canary.TOKEN}.txt"}


@pytest.mark.parametrize("where", ["argv", "environment"])
def test_it_is_found_in_processes(where):
    """A grandchild carries it; what the test itself starts may have it in its environment."""
    sleep = "import sys; sys.stdin.read()"
    argv = [sys.executable, "-c", sleep, *([canary.TOKEN] if where == "argv" else [])]
    inner = f"import subprocess; subprocess.run({argv!r}, env={{'X': '{canary.TOKEN if where != 'argv' else ''}'}})"
    outer = f"import os; print(os.getpid(), flush=True); {inner}"
    with subprocess.Popen([sys.executable, "-c", outer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        parent = psutil.Process(process.pid)
        until(lambda: [child for child in parent.children() if child.cmdline()[2:3] == [sleep]])
        assert len(list(canary.in_processes(parent.children()))) == 1
        process.stdin.close()


def test_it_is_found_in_texts():
    assert list(canary.in_texts(["nothing", f"error: {canary.TOKEN}"])) == [f"error: {canary.TOKEN}"]
