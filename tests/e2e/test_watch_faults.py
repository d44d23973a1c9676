"""`lmctl watch` when files, limits, clocks, programs or other people are in its way."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import urllib.request
from contextlib import closing
from itertools import count

import psutil
import pytest
from e2e_tools import HUMBLE, daemons, outcomes, until
from fakes.llama_server import set_mode
from watch_tools import Watch, edited, pids

from lmctl.mutex import exclusive
from lmctl.watcher import report

_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def watching(team, *before: str) -> Watch:
    """Start a watcher behind other words, and wait until it found everything as declared."""
    team.before = list(before)
    watch = Watch(team)
    team.before = []
    watch.next("planned")
    return watch


def report_of(team) -> dict:
    return json.loads((team.state() / report.FILE).read_text())


@pytest.mark.parametrize(
    ("shut", "code"),
    [("profiles/chat.toml", "E-PERM"), ("profiles", "E-PERM"), ("localmodels.toml", "E-PERM"), (".", "E-PERM")],
    ids=["file", "folder-of-profiles", "declaration", "folder"],
)
def test_F22_what_may_not_be_read_any_more_is_said_once_and_stops_nothing(team, shut, code):
    watch, before, path = watching(team, *HUMBLE), pids(team), team.folder / shut
    mode = path.stat().st_mode
    path.chmod(0)
    assert watch.next("problems")["problems"][0]["code"] == code
    start = len(watch.events)
    path.chmod(mode)
    watch.next("mended", start)
    assert [event["topic"] for event in watch.of("problems")] == ["configuration"]
    assert watch.of("applied") == []
    assert pids(team) == before
    (team.folder / "profiles/chat.toml").write_text(edited(team))
    assert outcomes(watch.next("applied", start)) == {"program:chat": "done"}
    assert watch.end()[0] == 143


def test_F23_a_thousand_saves_a_second_are_applied_one_after_the_other_in_bounds(team, watch):
    file, other, text = team.folder / "profiles/chat.toml", team.folder / "profiles/.chat.new", edited(team)
    before, process, over = pids(team), psutil.Process(watch.process.pid), threading.Event()
    rss, made = process.memory_info().rss, 0

    def save() -> None:
        nonlocal made
        for made in count(1):
            other.write_text(f"{text}# {made}\n")
            other.replace(file)
            if over.is_set():
                break

    saving = threading.Thread(target=save)
    saving.start()
    try:
        until(lambda: len([e for e in watch.of("planned") if e["files"]]) >= 5)
    finally:
        over.set()
        saving.join()
    start = len(watch.events)
    file.write_text(edited(team, ctx=2048))
    until(lambda: "Nothing to do" in team.run("plan").out)
    watch.settled()
    assert made > 1000
    changed = [[c["field"] for change in event["changes"] for c in change["cause"]] for event in watch.of("applied")]
    assert changed == [["ctx"], ["ctx"]], "what a save does not change is not applied"
    assert process.memory_info().rss - rss < 32 << 20
    assert pids(team)["code"] == before["code"]
    assert len(watch.of("planned", start)) < 10
    history = team.run("history", "--json").data["generations"]
    assert len(history) == 1 + len(watch.of("applied"))
    assert {one["result"] for one in history} <= {"done", "interrupted"}


def test_F24_where_notifications_are_forced_off_files_are_looked_at(team):
    team.environ["WATCHFILES_FORCE_POLLING"] = "1"
    watch = watching(team)
    (team.folder / "profiles/chat.toml").write_text(edited(team))
    assert outcomes(watch.next("applied")) == {"program:chat": "done"}
    assert watch.end()[0] == 143


@pytest.mark.needs("userns")
@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_F24_where_the_limit_of_notifications_is_reached_it_is_said_and_files_are_looked_at(team, limit):
    file = team.folder / "localmodels.toml"
    file.write_text(file.read_text() + 'apply = "never"\n')  # from inside, processes outside cannot be looked at
    script = f'echo 0 > /proc/sys/user/{limit}; exec "$@"'
    watch = watching(team, "unshare", "--user", "--map-root-user", "sh", "-euc", script, "sh")
    said = until(lambda: [one for one in watch.of("problems") if one["topic"] == "notifications"])
    (problem,) = said[0]["problems"]
    assert problem["code"] == "E-LIMIT"
    assert "files are looked at every second instead" in problem["what"]
    assert limit.replace("max_inotify", "fs.inotify.max_user") in problem["fix"]
    for ctx in (1024, 2048):
        start = len(watch.events)
        (team.folder / "profiles/chat.toml").write_text(edited(team, ctx=ctx))
        planned = watch.seen("chat.toml", start=start)
        assert [change["address"] for change in planned["plan"]["changes"]] == ["program:chat"]
    assert len([one for one in watch.of("problems") if one["topic"] == "notifications"]) == 1
    assert watch.end()[0] == 143


def test_F25_what_is_saved_while_it_applies_is_applied_next(team, watch, tmp_path):
    set_mode(tmp_path / "llama-server", "slow_load")
    (team.folder / "profiles/chat.toml").write_text(edited(team))
    until(lambda: team.profiles()["chat"]["state"] == "starting")
    for ctx in (2048, 3072, 4096):
        (team.folder / "profiles/chat.toml").write_text(edited(team, ctx=ctx))
    set_mode(tmp_path / "llama-server", None)
    until(lambda: "Nothing to do" in team.run("plan").out)
    watch.settled()
    causes = [c for event in watch.of("applied") for change in event["changes"] for c in change["cause"]]
    steps = [(one["before"], one["after"]) for one in causes if one["field"] == "ctx"]
    assert (steps[0][0], steps[-1][1]) == (512, 4096)
    assert [after for _, after in steps[:-1]] == [before for before, _ in steps[1:]]
    assert team.profiles()["chat"]["state"] == "healthy"


def test_F25_a_start_that_takes_long_is_not_awaited_once_something_else_is_declared(team, watch, tmp_path):
    before = pids(team)
    set_mode(tmp_path / "llama-server", "slow_load", "chat")
    (team.folder / "profiles/chat.toml").write_text(edited(team))
    until(lambda: team.profiles()["chat"]["state"] == "starting")
    loading = pids(team)["chat"]
    whole = edited(team)
    for nothing_else in ("ctx = [\n", f"# a remark\n{whole}"):
        (team.folder / "profiles/chat.toml").write_text(nothing_else)
        time.sleep(1.0)  # more than the debounce: it may be judged, and changes nothing
        assert watch.of("applied") == []
    (team.folder / "profiles/code.toml").write_text(edited(team, "code"))
    first = watch.next("applied")
    assert first["early"] is True
    assert outcomes(first) == {"program:chat": "failed"}
    start = watch.events.index(first) + 1
    until(lambda: pids(team)["code"] not in (None, before["code"]))
    assert team.profiles()["chat"]["state"] == "starting"
    set_mode(tmp_path / "llama-server", None, "chat")
    assert outcomes(watch.next("applied", start)) == {"program:chat": "done", "program:code": "done"}
    assert pids(team)["chat"] == loading, "the program itself was not ended"
    assert [one["topic"] for one in watch.of("problems")] == []
    assert "Nothing to do" in team.run("plan").out
    assert [one["result"] for one in team.run("history", "--json").data["generations"]][:2] == ["done", "interrupted"]


def test_what_another_lmctl_was_in_the_way_of_is_done_once_that_has_ended(team, watch):
    with exclusive(team.state() / "apply.lock", "lmctl apply"):
        (team.folder / "profiles/chat.toml").write_text(edited(team))
        (problem,) = watch.next("problems")["problems"]
    assert problem["code"] == "E-BUSY"
    assert "--wait" not in problem["fix"]
    assert outcomes(watch.next("applied")) == {"program:chat": "done"}
    mended = watch.next("mended")
    assert (mended["topic"], mended["problems"]) == ("world", [])


def test_a_program_that_is_killed_runs_again_and_nothing_else_is_touched(team, watch):
    before = pids(team)
    os.kill(before["chat"], signal.SIGKILL)
    until(lambda: team.profiles()["chat"]["state"] == "healthy" and pids(team)["chat"] != before["chat"])
    assert pids(team)["code"] == before["code"]


def test_programs_that_lost_their_supervisord_are_brought_back(team, watch):
    (daemon,) = daemons(team)
    os.kill(daemon, signal.SIGKILL)
    assert outcomes(watch.next("applied")) == {"program:chat": "done", "program:code": "done"}
    assert {row["state"] for row in team.profiles().values()} == {"healthy"}
    assert daemons(team) not in ([], [daemon])


def test_supervisord_and_programs_that_were_all_killed_are_brought_back_and_not_taken_for_ended_by_down(team, watch):
    for pid in (*daemons(team), *pids(team).values()):
        os.kill(pid, signal.SIGKILL)
    assert outcomes(watch.next("applied")) == {"program:chat": "done", "program:code": "done"}
    assert {row["state"] for row in team.profiles().values()} == {"healthy"}
    for pid in daemons(team):
        os.kill(pid, signal.SIGSTOP)  # it has to be killed by `down`
    team.run("down")
    until(lambda: any("lmctl down" in json.dumps(event) for event in watch.of("problems")))
    assert {row["pid"] for row in team.profiles().values()} == {None}


def test_a_model_that_did_not_change_keeps_its_open_connections(team, tmp_path):
    set_mode(tmp_path / "llama-server", "long_stream", "code")
    team.run("restart", "code")
    watch, before = watching(team), pids(team)
    url = f"{team.profiles()['code']['url']}/v1/chat/completions"
    body = json.dumps({"stream": True, "messages": [{"role": "user", "content": "Hello"}]}).encode()
    with closing(_OPENER.open(urllib.request.Request(url, body), timeout=120)) as stream:
        assert stream.readline().startswith(b"data: ")
        for ctx in (1024, 2048):
            start = len(watch.events)
            (team.folder / "profiles/chat.toml").write_text(edited(team, ctx=ctx))
            assert outcomes(watch.next("applied", start)) == {"program:chat": "done"}
        set_mode(tmp_path / "llama-server", None, "code")
        assert stream.read().endswith(b"data: [DONE]\n\n")
    assert pids(team)["code"] == before["code"]
    assert watch.end()[0] == 143


def test_status_tells_who_watches_and_nobody_once_it_ended(team, watch):
    found = until(lambda: (told := team.run("status", "--json").data["watcher"])["looked"] and told)
    assert (found["pid"], found["problems"]) == (watch.process.pid, [])
    assert found["since"] <= found["looked"] <= time.time()
    assert f"watched by pid {watch.process.pid} since " in team.run("status").out
    watch.end()
    assert team.run("status", "--json").data["watcher"] is None
    assert "watched" not in team.run("status").out


# lmctl whose clock a file moves by so many seconds; it stands before `python -m lmctl`
_SHIFTED = """
import sys, time
from pathlib import Path
shift, real = Path(sys.argv[1]), time.time
time.time = lambda: real() + float(shift.read_text() or 0)
from lmctl import cli
sys.exit(cli.main(sys.argv[5:]))
"""


@pytest.mark.parametrize("hours", [1, -2])
def test_F81_a_clock_that_jumps_restarts_nothing_and_ends_no_waiting(team, tmp_path, hours):
    """What drifts, code, is left alone: somebody stopped it, and edits it."""
    shift, file = team.home / "shift", team.folder / "localmodels.toml"
    shift.write_text("0")
    file.write_text(file.read_text() + 'interval = "1s"\n')
    shifted = [sys.executable, "-c", _SHIFTED, str(shift)]
    team.run("stop", "code")
    (team.folder / "profiles/code.toml").write_text(edited(team, "code"))
    watch, before = watching(team, *shifted), pids(team)
    watch.next("drift")
    set_mode(tmp_path / "llama-server", "slow_load", "chat")
    (team.folder / "profiles/chat.toml").write_text(edited(team))
    until(lambda: team.profiles()["chat"]["state"] == "starting")

    shift.write_text(str(hours * 3600))
    team.before = shifted
    assert team.profiles()["chat"]["state"] != "healthy", "it still loads"
    loading = pids(team)["chat"]
    set_mode(tmp_path / "llama-server", None, "chat")
    assert outcomes(watch.next("applied")) == {"program:chat": "done"}
    looked = time.time() + hours * 3600 - 60
    until(lambda: abs((report_of(team)["looked"] or 0) - looked) < 1000)
    assert team.profiles()["chat"]["state"] == "healthy"
    assert pids(team) == {"chat": loading, "code": None}
    assert loading != before["chat"]
    assert len(watch.of("applied")) == 1
    (row,) = team.run("drift", "--json", code=2).data["drift"]
    assert row["first_seen"] <= row["last_seen"]
    assert "-" not in team.run("drift", code=2).out.splitlines()[1].split("SINCE")[-1].split("(")[0][-8:]
    team.before = []
    assert watch.end()[0] == 143


def _machine(team, **watch) -> None:
    config = team.home / ".config/lmctl"
    config.mkdir(parents=True)
    (config / "machine.toml").write_text("[watch]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in watch.items()))


def test_drift_is_recorded_and_told_to_the_hook(team):
    heard = team.home / "heard"
    hook = team.home / "hook"
    hook.write_text(f"#!/bin/sh\ncat >> {heard}\nenv >> {heard}\n")
    hook.chmod(0o755)
    _machine(team, notify=[str(hook)])
    file = team.folder / "localmodels.toml"
    file.write_text(file.read_text() + 'apply = "never"\n')
    (team.folder / "profiles/chat.toml").write_text(edited(team))
    watch = Watch(team)
    drift = watch.next("drift")
    assert [(one["class"], one["address"]) for one in drift["new"]] == [("modified", "program:chat")]
    until(lambda: heard.exists() and '"event": "drift"' in heard.read_text() and "PATH=" in heard.read_text())
    assert "HF_TOKEN" not in heard.read_text()
    assert watch.end()[0] == 143
    assert [row["count"] >= 1 for row in team.run("drift", "--json", code=2).data["drift"]] == [True]


def test_no_secret_of_a_profile_is_told_to_the_hook(team):
    heard, secret = team.home / "heard", "sk-0123456789abcdef0123456789abcdef"
    hook = team.home / "hook"
    hook.write_text(f"#!/bin/sh\ncat >> {heard}\necho >> {heard}\n")
    hook.chmod(0o755)
    _machine(team, notify=[str(hook)])
    chat = team.folder / "profiles/chat.toml"
    chat.write_text(f'{edited(team)}env = {{ SERVICE = "first" }}\n')
    team.run("--yes", "trust")
    team.run("apply")
    watch = watching(team)
    chat.write_text(chat.read_text().replace('"first"', f'"{secret}"'))
    watch.next("problems")  # other values ask for trust again
    team.run("--yes", "trust")
    assert outcomes(watch.next("applied")) == {"program:chat": "done"}
    until(lambda: {"applied", "problems", "mended"} <= {json.loads(line)["event"] for line in _lines(heard)})
    assert watch.end()[0] == 143
    assert "env.SERVICE" in heard.read_text()
    for told in (heard.read_text(), json.dumps(watch.events), (team.state() / report.FILE).read_text()):
        assert secret not in told


def _lines(path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line] if path.exists() else []


def test_a_hook_that_hangs_holds_nothing_up_and_ends_with_the_watcher(team):
    hook = team.home / "hook"
    hook.write_text("#!/bin/sh\nsleep 6000\n")
    hook.chmod(0o755)
    _machine(team, notify=[str(hook)])
    watch = watching(team)
    for ctx in (1024, 2048, 1024, 2048, 1024, 2048):
        start = len(watch.events)
        (team.folder / "profiles/chat.toml").write_text(edited(team, ctx=ctx))
        assert outcomes(watch.next("applied", start)) == {"program:chat": "done"}
    sleeping = [one for one in team.processes() if one.cmdline()[:1] == ["sleep"]]
    assert 1 <= len(sleeping) <= 4
    assert watch.end()[0] == 143
    assert psutil.wait_procs(sleeping, timeout=120)[1] == []
