"""Units as systemd and launchd read them, and whose they are."""

from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
from pathlib import Path

import pytest

from lmctl import units
from lmctl.errors import LmctlError
from lmctl.units import Unit

ODD = ["plain", "with space", 'quo"te', "back\\slash", "100%h", "$HOME", "am&p<er>", "it's", "née", "--dashes"]


def unit(home: Path, name: str = "team", system: str = "linux", state: Path | None = None) -> Unit:
    return units.unit(system, home, home / ".config", (state or home / "state/lmctl") / name)


@pytest.fixture
def verified(tmp_path):
    """What `systemd-analyze verify` says of a unit."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    (tmp_path / "run").mkdir(mode=0o700)

    def verify(path: Path) -> str:
        environ = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path / "run"), "HOME": str(tmp_path)}
        line = ["systemd-analyze", "--user", "--man=no", "verify", str(path)]
        done = subprocess.run(line, env=environ, capture_output=True, text=True)
        return f"{done.stdout}{done.stderr}" + (f"exit {done.returncode}" if done.returncode else "")

    return verify


@pytest.mark.parametrize("odd", ODD)
def test_systemd_accepts_the_unit_whatever_the_folder_is_called(home, verified, odd):
    made = unit(home, state=home / odd / "lmctl")
    made.write()
    assert verified(made.path) == ""


@pytest.mark.parametrize("odd", [name for name in ODD if "$" not in name])
def test_systemd_reads_the_path_that_was_meant(home, verified, odd):
    """Of a program that is not there it says which one it looked for."""
    path = home / "odd.service"
    path.write_text(f"[Service]\nType=oneshot\nExecStart={units._word(f'/nowhere/{odd}/service')}\n")
    assert f"/nowhere/{odd}/service" in verified(path)


def test_the_unit_says_what_it_starts(home):
    made = unit(home)
    assert made.path == home / ".config/systemd/user/lmctl-team.service"
    lines = made.content.decode().splitlines()
    assert f'ExecStart=/bin/sh "{home}/state/lmctl/team/service"' in lines
    assert "WantedBy=default.target" in lines


@pytest.mark.parametrize("odd", ODD)
def test_launchd_s_agent_is_a_property_list(home, odd):
    made = unit(home, system="darwin", state=home / odd / "lmctl")
    assert made.path == home / "Library/LaunchAgents/org.lmctl.team.plist"
    made.write()
    agent = plistlib.loads(made.path.read_bytes())
    assert agent["Label"] == "org.lmctl.team"
    assert agent["ProgramArguments"] == ["/bin/sh", f"{home}/{odd}/lmctl/team/service"]
    assert agent["RunAtLoad"] and agent["AbandonProcessGroup"]
    assert made.state() == "ours"


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_what_is_written_is_enabled_known_and_removed_without_a_trace(home, system):
    made = unit(home, system=system)
    assert (made.state(), made.enabled(), made.remove()) == ("absent", False, False)
    assert made.write()
    assert (made.state(), made.enabled(), made.write()) == ("ours", True, False)
    assert made.remove()
    assert not [path for path in home.rglob("*") if not path.is_dir()]


def test_systemd_finds_it_enabled_by_a_link(home):
    made = unit(home)
    made.write()
    link = home / ".config/systemd/user/default.target.wants/lmctl-team.service"
    assert link.readlink() == made.path


@pytest.mark.parametrize("system", ["linux", "darwin"])
@pytest.mark.parametrize("spoil", ["foreign", "edited", "link", "folder"])
def test_what_lmctl_did_not_write_is_neither_replaced_nor_removed(home, system, spoil):
    made = unit(home, system=system)
    made.path.parent.mkdir(parents=True)
    if spoil == "foreign":
        made.path.write_text("[Service]\nExecStart=/usr/bin/mine\n")
    elif spoil == "edited":
        made.write()
        made.path.write_bytes(made.path.read_bytes() + b"# mine\n")
    elif spoil == "link":
        (home / "mine").write_bytes(made.content)
        made.path.symlink_to(home / "mine")
    else:
        made.path.mkdir()
    before = sorted((str(path), path.is_file() and path.read_bytes()) for path in home.rglob("*"))
    for act, code in ((made.write, "E-NAME-TAKEN"), (made.remove, "E-PRUNE")):
        with pytest.raises(LmctlError) as caught:
            act()
        assert (caught.value.code, caught.value.exit_code) == (code, 4)
    assert sorted((str(path), path.is_file() and path.read_bytes()) for path in home.rglob("*")) == before


def test_a_unit_of_an_older_lmctl_is_still_known_and_replaced(home):
    made = unit(home)
    old = units._sealed(b"# Written by lmctl for /x; sha256 with zeros here: " + b"0" * 64 + b"\n[Service]\n")
    made.path.parent.mkdir(parents=True)
    made.path.write_bytes(old)
    assert made.state() == "ours"
    assert made.write()
    assert made.path.read_bytes() == made.content


def test_a_link_to_somebody_else_s_unit_is_left_alone(home):
    made = unit(home)
    assert made.link is not None
    made.link.parent.mkdir(parents=True)
    made.link.symlink_to("/usr/lib/systemd/user/mine.service")
    with pytest.raises(LmctlError, match="leads to another unit"):
        made.write()
    made.remove()
    assert made.link.readlink() == Path("/usr/lib/systemd/user/mine.service")


@pytest.mark.parametrize("name", ["line\nbreak", "es\x1bcape"])
def test_a_folder_that_no_unit_can_name_is_refused(home, name):
    with pytest.raises(LmctlError) as caught:
        unit(home, state=home / name)
    assert caught.value.code == "E-PATH"
