"""A kind of test that the machine forbids skips with its reason, and a strict run says that nothing of it was run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from kinds import NOT_RUN, as_nobody, own_files

CONFTEST = """
import kinds
kinds.KINDS["strace"] = lambda: "it was taken away"
kinds.KINDS["tmpfs"] = lambda: None
pytest_plugins = ["kinds"]
"""
TESTS = """
import pytest

@pytest.mark.needs("strace")
@pytest.mark.parametrize("number", range(3))
def test_traced(number):
    pass

@pytest.mark.needs("tmpfs")
def test_small():
    pass

@pytest.mark.needs("tmpfs")
def test_small_elsewhere():
    pytest.skip("not on this one")

def test_other():
    pass

def test_wrong():
    assert False
"""


@pytest.fixture
def run(tmp_path: Path):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_some.py").write_text(TESTS)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-m", "pytest", "--rootdir", str(tmp_path), "-p", "no:cacheprovider", *words]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        return subprocess.run([*argv, str(tmp_path)], cwd=tmp_path, env=env, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("processes", [[], ["-p", "xdist", "-n", "1"]], ids=["here", "elsewhere"])
def test_a_strict_run_that_lacks_a_kind_has_a_status_of_its_own(run, processes):
    ran = run(*processes, "--every-kind", "-rs")
    assert ran.returncode == NOT_RUN, ran.stdout
    assert "needs strace: it was taken away" in ran.stdout
    assert "Every test that needs strace was skipped." in ran.stdout
    assert "that needs tmpfs" not in ran.stdout


def test_what_was_not_selected_is_not_judged(run):
    assert run("--every-kind", "-k", "small or other").returncode == 0
    assert run("--every-kind", "-k", "elsewhere").returncode == NOT_RUN
    assert run().returncode == 1


@pytest.mark.needs("tmpfs")
def test_a_mount_of_one_s_own_is_seen_by_its_commands_alone_and_ends_with_them(tmp_path):
    with own_files(f"mount -t tmpfs -o size=64k none {tmp_path}", tmp_path) as before:
        subprocess.run([*before, "touch", "x"], check=True)
        seen = subprocess.run([*before, "ls"], capture_output=True, text=True)
        assert (seen.stdout, list(tmp_path.iterdir())) == ("x\n", [])
    assert subprocess.run([*before, "true"], capture_output=True).returncode != 0
    with pytest.raises(RuntimeError, match="nothing can be mounted: mount: "), own_files("mount nothing", tmp_path):
        pass


@pytest.mark.needs("uid")
def test_somebody_else_reaches_what_is_named_through_folders_that_are_shut(tmp_path):
    inner = tmp_path / "shut/inner"
    inner.mkdir(parents=True)
    (inner / "file").write_text("read")
    (tmp_path / "shut/beside").write_text("hidden")
    (tmp_path / "shut").chmod(0o700)
    with as_nobody(Path("/"), inner) as before:
        argv = [*before, "sh", "-c", f"id -u; cat {inner}/file; ls {inner}/..; touch {inner}/new 2>&1"]
        seen = subprocess.run(argv, capture_output=True, text=True)
    assert seen.stdout.startswith("65534\nreadinner\n") and "Permission denied" in seen.stdout, seen
