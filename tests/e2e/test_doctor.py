"""doctor finds what is wrong on a real machine, mends what is safe, and reports without telling who anybody is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from e2e_tools import humbly, listening, profile, until
from weights.hello import hello as weights

TOKEN = "hf_CANARY0123456789abcdefghijklmnopq"
FAKE = """\
#!/bin/sh
echo "$@" >> "{log}"
echo "version: 6789 (abcdef0)"
"""


@pytest.fixture
def hello(machine, port) -> int:
    """A declared local profile that is not applied; its port."""
    machine.hello()
    number = port()
    machine.declare(profile("hello", path="hello.gguf", port=number))
    machine.run("lock")
    return number


def found(ran, check: str) -> list[dict]:
    return [one for one in ran.data["findings"] if one["check"] == check]


def wrong(ran) -> dict[str, str]:
    """Return what fails: the code by check."""
    return {one["check"]: one["code"] for one in ran.data["findings"] if one["state"] == "fail"}


def mendable(ran) -> set[str]:
    return {one["check"] for one in ran.data["findings"] if one["fixable"]}


def dead() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_sound_machine_has_nothing_wrong_and_is_not_changed(machine, hello):
    machine.run("apply")
    before = sorted(machine.state().rglob("*"))
    ran = machine.run("doctor", "--json")
    assert (wrong(ran), mendable(ran)) == ({}, set())
    assert found(ran, "supervisord of team")[0]["what"].endswith("1 of 1 programs run")
    assert found(ran, "lock")[0]["state"] == "ok"
    assert found(ran, "engine llama.cpp")[0]["state"] == "ok"
    assert sorted(machine.state().rglob("*")) == before
    shown = machine.run("doctor").out
    assert "✓ supervisord of team: pid " in shown
    assert shown.splitlines()[-1].endswith(" 0 wrong.")


def test_it_works_where_nothing_is_declared(machine):
    ran = machine.run("doctor", "--json")
    assert found(ran, "declaration")[0]["what"] == "none here; lmctl init writes one"
    assert not (machine.home / ".local").exists()


def test_an_engine_is_run_for_its_version_and_nothing_else(machine, hello, tmp_path):
    (tmp_path / "bin").mkdir()
    engine = tmp_path / "bin/llama-server"
    engine.write_text(FAKE.format(log=tmp_path / "log"))
    engine.chmod(0o755)
    machine.environ["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
    ran = machine.run("doctor", "--json")
    assert found(ran, "engine llama.cpp")[0]["what"] == f"{engine}, version 6789 (abcdef0)"
    assert (tmp_path / "log").read_text() == "--version\n"


def test_an_engine_that_does_not_run_fails_where_a_profile_needs_it(machine, hello, tmp_path):
    (machine.home / ".config/lmctl").mkdir(parents=True)
    config = machine.home / ".config/lmctl/machine.toml"
    config.write_text(f'[engines."llama.cpp"]\nbinary = "{tmp_path}/none"\n')
    ran = machine.run("doctor", "--json", code=9)
    assert wrong(ran) == {"engine llama.cpp": "E-ENGINE"}
    machine.declare("")
    assert wrong(machine.run("doctor", "--json")) == {}


@pytest.mark.parametrize(
    ("file", "text", "check"),
    [
        ("repo/localmodels.toml", "version = [", "declaration"),
        ("repo/localmodels.lock", "version = [", "lock"),
        (".config/lmctl/machine.toml", "odd = 1", "machine.toml"),
    ],
)
def test_a_broken_file_is_one_finding_among_all_others(machine, hello, file, text, check):
    path = machine.home / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    ran = machine.run("doctor", "--json", code=66 if check == "lock" else 65)
    assert check in wrong(ran)
    assert found(ran, "hub") and found(ran, "weights")


def test_F55_a_state_folder_that_cannot_be_written_is_the_worst(machine, hello):
    (machine.folder / "localmodels.toml").write_text("version = [")
    (machine.home / ".local/state/lmctl").chmod(0o500)
    try:
        ran = humbly(machine, "doctor", "--json")
    finally:
        (machine.home / ".local/state/lmctl").chmod(0o700)
    assert ran.code == 8
    assert "may not be written" in ran.out


def test_F73_too_few_open_files(machine, hello):
    argv = ["prlimit", "--nofile=60:60", sys.executable, "-m", "lmctl", "doctor", "--json"]
    ran = subprocess.run(argv, cwd=machine.folder, env=machine.env(), capture_output=True, text=True)
    (finding,) = (one for one in json.loads(ran.stdout)["data"]["findings"] if one["check"] == "open files")
    assert (ran.returncode, finding["code"]) == (9, "E-SUPERVISOR")
    assert finding["fix"] == "raise the limit (ulimit -Hn)"


@pytest.mark.parametrize(
    ("text", "mode", "state"),
    [(TOKEN, 0o600, None), (TOKEN, 0o644, "warn"), (f"{TOKEN}\nX-Evil: 1", 0o600, "fail")],
    ids=["private", "F52-readable", "F52-newline"],
)
def test_F52_the_token_file(machine, text, mode, state):
    machine.environ["HF_TOKEN"] = ""
    token = machine.home / ".cache/huggingface/token"
    token.parent.mkdir(parents=True)
    token.write_text(text)
    token.chmod(mode)
    ran = machine.run("doctor", "--json", code=7 if state == "fail" else 0)
    if state == "fail":
        assert wrong(ran) == {"hub": "E-AUTH"}
    else:
        assert [one["state"] for one in found(ran, "token")] == ([state] if state else [])
    assert token.stat().st_mode & 0o777 == mode
    token.unlink()


def test_F50_what_the_environment_does_is_reported(machine):
    machine.environ |= {"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "https://hub.example", "HF_HOME": "odd"}
    machine.environ |= {"HF_HUB_DISABLE_XET": "1", "https_proxy": f"http://me:{TOKEN}@127.0.0.1:9"}
    ran = machine.run("doctor", "--json")
    states = {one["check"]: one["state"] for one in ran.data["findings"] if one["check"].startswith("$")}
    assert states["$HF_HOME"] == "warn"
    assert {"$HF_HUB_OFFLINE", "$HF_ENDPOINT", "$HF_HUB_DISABLE_XET", "$https_proxy", "$HF_TOKEN"} <= states.keys()
    assert found(ran, "hub")[0]["what"] == "https://hub.example, token of HF_TOKEN"


def test_programs_that_outlived_their_supervisord_are_told_and_not_touched(machine, hello):
    machine.run("apply")
    daemon = machine.run("status", "--json").data["supervisord"]
    os.kill(daemon, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{daemon}").exists() or Path(f"/proc/{daemon}/stat").read_text().split()[2] == "Z")
    ran = machine.run("doctor", "--fix", "--json", code=9)
    assert wrong(ran) == {"supervisord of team": "E-SUPERVISOR"}
    until(lambda: listening(hello))
    machine.run("down")
    assert wrong(machine.run("doctor", "--json")) == {}


@pytest.mark.parametrize("lose", ["the folder", "the whole state"])
def test_F66_a_supervisord_that_lost_its_state_folder_is_told_and_not_touched(machine, hello, lose):
    machine.run("apply")
    daemon = machine.run("status", "--json").data["supervisord"]
    shutil.rmtree(machine.state() if lose == "the folder" else machine.state().parent)
    ran = machine.run("doctor", "--fix", "--json", code=9)
    assert wrong(ran) == {"supervisord of team": "E-SUPERVISOR"}
    (finding,) = found(ran, "supervisord of team")
    assert finding["what"] == f"supervisord (pid {daemon}) lost its state folder and still runs"
    assert finding["fix"] == "run `lmctl apply` for all profiles, or `lmctl down`"
    assert listening(hello)
    machine.run("down")
    assert wrong(machine.run("doctor", "--json")) == {}


@pytest.mark.parametrize("lose", [Path.unlink, lambda path: path.write_bytes(b"")], ids=["F82-deleted", "F82-emptied"])
def test_F82_a_ledger_that_is_lost_is_told_until_apply_began_a_new_one(machine, hello, lose):
    machine.run("apply")
    for path in machine.state().glob("ledger.db-*"):
        path.unlink()
    lose(machine.state() / "ledger.db")
    ran = machine.run("doctor", "--json", code=None)
    (finding,) = found(ran, "ledger of team")
    assert (finding["state"], finding["code"]) == ("fail", "E-STATE")
    assert "is gone or empty" in finding["what"]
    assert finding["fix"] == "apply begins a new one; what runs is not touched"
    machine.run("apply")
    assert wrong(machine.run("doctor", "--json")) == {}


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo], ids=["folder", "fifo"])
def test_F82_a_ledger_that_is_no_file_is_told_until_it_is_moved_away(machine, hello, make):
    machine.run("apply")
    for path in machine.state().glob("ledger.db*"):
        path.unlink()
    make(machine.state() / "ledger.db")
    (finding,) = found(machine.run("doctor", "--json", code=None), "ledger of team")
    assert (finding["state"], finding["code"]) == ("fail", "E-STATE")
    assert finding["what"].endswith("ledger.db is no regular file")
    assert finding["fix"] == "move it away, then run `lmctl apply`: it begins a new one"
    (machine.state() / "ledger.db").rename(machine.home / "away")
    machine.run("apply")
    assert wrong(machine.run("doctor", "--json")) == {}


def test_fix_mends_what_is_safe_and_says_so(machine, hello):
    machine.run("apply")
    machine.run("down")
    state, own = machine.state(), machine.home / ".cache/huggingface/lmctl"
    (state / f".ledger.{dead()}.tmp").touch()
    (machine.folder / f".localmodels.lock.{dead()}.tmp").touch()
    (state / "launch").chmod(0o755)
    (own / "partial").mkdir(parents=True, exist_ok=True)
    for name, age in (("a", 8), ("b", 0)):
        partial = own / "partial" / (name * 64)
        partial.write_bytes(b"x" * 5000)
        os.utime(partial, (time.time() - age * 86400,) * 2)
    ran = machine.run("doctor", "--json")
    assert mendable(ran) == {"files of team", "lock files", "modes of team", "partial files"}
    done = machine.run("doctor", "--fix", "--json")
    assert mendable(done) == set()
    assert len(done.data["fixed"]) == 4
    assert all(line.startswith("mended: ") for line in done.data["fixed"])
    assert [path.name for path in (own / "partial").iterdir()] == ["b" * 64]
    assert not list(state.glob(".*tmp")) and not list(machine.folder.glob(".*tmp"))
    assert (state / "launch").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("place", ["there.json", "none/report.json", "there.json/report.json"])
def test_nothing_is_mended_when_the_report_cannot_be_written(machine, hello, place):
    """What was mended would be told by nobody."""
    machine.run("apply")
    (machine.state() / "launch").chmod(0o755)
    (machine.folder / "there.json").write_text("{}")
    ran = machine.run("doctor", "--fix", "--bundle", place, "--json", code=64)
    assert ran.json["errors"][0]["code"] == "E-USAGE"
    assert (machine.state() / "launch").stat().st_mode & 0o777 == 0o755
    assert (machine.folder / "there.json").read_text() == "{}"


def test_F63_what_fifty_killed_downloads_left_is_listed(machine, hello):
    own = machine.home / ".cache/huggingface/lmctl/partial"
    own.mkdir(parents=True)
    for number in range(50):
        (own / f"{number:064x}").write_bytes(b"x" * 4096)
    (finding,) = found(machine.run("doctor", "--json"), "partial files")
    assert finding["what"].startswith("50, 200.0 KiB: left behind, goes in ")


CLIENT = ("clientx", "ClientX", "bigcorp", "secretmodel")  # of which no part may be in a report


@pytest.mark.parametrize("spoil", ["", "odd = 1\n", "broken ="], ids=["sound", "refused", "broken"])
def test_a_report_names_neither_profiles_nor_models(machine, hub, port, spoil):
    hub.add("bigcorp/ClientX-GGUF", {"ClientX-Q4_K_M.gguf": weights("Hello.")})
    machine.hello("Hello.", "secretmodel.gguf")
    (machine.folder / "profiles").mkdir()
    declared = machine.declare(
        'include = ["profiles/*.toml"]\n'
        + profile("clientx-chat", path="secretmodel.gguf", port=port(), aliases=["clientx/best"])
        + profile("clientx.two", model="bigcorp/ClientX-GGUF", quant="Q4_K_M", port=port(), start="manual").replace(
            "clientx.two", '"clientx.two"'
        )
    )
    (machine.folder / "profiles/clientx_three.toml").write_text('path = "../secretmodel.gguf"\nstart = "manual"\n')
    machine.run("apply")
    machine.run("stop", "clientx-chat")
    (machine.folder / "secretmodel.gguf").write_bytes(b"x" * 100)
    machine.run("restart", "clientx-chat", code=None)
    declared.write_text(f"{declared.read_text()}{spoil}")
    (machine.folder / "profiles/clientx_three.toml").write_text(f'path = "../secretmodel.gguf"\n{spoil}')
    machine.run("apply", code=None)
    machine.run("doctor", "--bundle", "report.json", code=None)
    text = (machine.folder / "report.json").read_text()
    assert "(profile " in text and "(model " in text
    assert not [line for line in text.splitlines() if any(name.lower() in line.lower() for name in CLIENT)]


def test_a_report_tells_what_is_wrong_and_nobody_s_name(machine, hello, port):
    home = machine.home / "people" / "jane-doe"
    home.mkdir(parents=True)
    (machine.home / "repo").rename(home / "repo")
    machine.folder = home / "repo"
    machine.environ |= {"HOME": str(home), "USER": "jane-doe", "HF_TOKEN": TOKEN}
    machine.environ["https_proxy"] = f"http://jane-doe:{TOKEN}@127.0.0.1:9"
    (machine.folder / "localmodels.toml").write_text('version = 1\nname = "team"\n[profiles.hello]\nctxx = 1\n')
    machine.run("doctor", "--bundle", "report.json", code=65)
    file = machine.folder / "report.json"
    assert file.stat().st_mode & 0o777 == 0o600
    text = file.read_text()
    for secret in (TOKEN, "CANARY", "jane-doe", str(machine.home), os.uname().nodename):
        assert secret not in text
    report = json.loads(text)
    assert report["schema"] == "bundle/1"
    assert "E-KEY" in text and "~/repo/localmodels.toml" not in json.dumps(report["declaration"])
    again = machine.run("doctor", "--bundle", "report.json", code=64)
    assert "error[E-USAGE]" in again.err
    assert file.read_text() == text
