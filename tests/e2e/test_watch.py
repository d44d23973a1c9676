"""`lmctl watch` beside a running supervisord: what is saved is applied, what did not change keeps running."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from e2e_tools import outcomes, profile, until
from fakes.llama_server import install, set_mode

HEAD = '[watch]\ndebounce = "300ms"\n'


class Watch:
    """A running watcher and the events that it told."""

    def __init__(self, machine: Any, *words: str) -> None:
        self.process = machine.start("watch", *(words or ("--json",)))
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def of(self, kind: str, start: int = 0) -> list[dict[str, Any]]:
        return [event for event in self.events[start:] if event.get("event") == kind]

    def next(self, kind: str, start: int = 0) -> dict[str, Any]:
        """Wait for the first event of a kind after `start` events."""

        def found() -> dict[str, Any] | None:
            assert self.process.poll() is None or self.of(kind, start), self.process.stderr.read()
            return next(iter(self.of(kind, start)), None)

        return until(found)

    def seen(self, *names: str, start: int) -> dict[str, Any]:
        """Wait for the plan that follows from the change of these files."""

        def found() -> dict[str, Any] | None:
            plans = (event for event in self.of("planned", start) if event["files"])
            return next((one for one in plans if {*names} <= {os.path.basename(f) for f in one["files"]}), None)

        return until(found)

    def settled(self) -> None:
        """Wait until what was applied last left nothing to do."""

        def nothing_left() -> bool:
            last = max(n for n, event in enumerate(self.events) if event.get("event") == "applied")
            return any(event["plan"]["changes"] == [] for event in self.of("planned", last))

        until(nothing_left)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Interrupt it; return its exit code and what it said on stderr."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=120)
        self._reader.join()
        with self.process.stdout, self.process.stderr as err:
            return code, err.read()


@pytest.fixture
def team(machine, tmp_path, port):
    """Two profiles of a stand-in engine that run, each in a file of its own."""
    machine.environ["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    install(tmp_path)
    machine.hello()
    (machine.folder / "profiles").mkdir()
    for name in ("chat", "code"):
        text = profile(name, path="../hello.gguf", port=port(), ctx=512).partition("\n")[2]
        (machine.folder / f"profiles/{name}.toml").write_text(text)
    machine.declare(HEAD).write_text(f'version = 1\nname = "team"\ninclude = ["profiles/*.toml"]\n{HEAD}')
    machine.run("apply")
    return machine


@pytest.fixture
def watch(team) -> Iterator[Watch]:
    """A watcher that found everything as declared."""
    watch = Watch(team)
    watch.next("planned")
    yield watch
    if watch.process.poll() is None:
        code, err = watch.end()
        assert code == 143, err
        assert "Traceback" not in err


def pids(machine) -> dict[str, int]:
    return {name: row["pid"] for name, row in machine.profiles().items()}


def edited(machine, name: str = "chat", ctx: int = 1024) -> str:
    """Return the text of a profile with another ctx."""
    text = (machine.folder / f"profiles/{name}.toml").read_text()
    return "".join(f"ctx = {ctx}\n" if line.startswith("ctx") else line for line in text.splitlines(keepends=True))


def test_an_edit_restarts_exactly_that_model(team, watch):
    before = pids(team)
    (team.folder / "profiles/chat.toml").write_text(edited(team))
    applied = watch.next("applied")
    assert outcomes(applied) == {"program:chat": "done"}
    after = pids(team)
    assert after["code"] == before["code"]
    assert after["chat"] != before["chat"]
    assert "Nothing to do" in team.run("plan").out


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        pytest.param("ctx = [\n", "E-TOML", id="F19"),
        pytest.param("", "E-KEY", id="F21-empty-profile"),
    ],
)
def test_a_broken_profile_is_said_once_and_stops_nothing(team, watch, broken, code):
    before, file, whole = pids(team), team.folder / "profiles/chat.toml", edited(team)
    file.write_text(broken)
    assert watch.next("problems")["problems"][0]["code"] == code
    file.write_text(broken)
    assert pids(team) == before
    start = len(watch.events)
    file.write_text(whole)
    watch.next("mended", start)
    watch.next("applied", start)
    after = pids(team)
    assert after["code"] == before["code"]
    assert [event["topic"] for event in watch.of("problems")] == ["configuration"]


@pytest.mark.parametrize("how", ["empty", "gone"])
def test_F21_a_declaration_that_is_empty_or_gone_removes_nothing(team, watch, how):
    before, file = pids(team), team.folder / "localmodels.toml"
    text = file.read_text()
    if how == "gone":
        file.unlink()
    else:
        file.write_text("")
    said = watch.next("problems")
    assert said["problems"][0]["code"] == {"gone": "E-FILE", "empty": "E-EMPTY"}[how]
    start = len(watch.events)
    file.write_text(text)
    watch.next("mended", start)
    assert watch.of("applied") == []
    assert pids(team) == before


def _rename_save(folder, text: str) -> None:
    """As vim does: the old file is moved aside, the new one written under its name, the old one removed."""
    file = folder / "profiles/chat.toml"
    file.rename(folder / "profiles/chat.toml~")
    file.write_text(text)
    (folder / "profiles/chat.toml~").unlink()


def _replace(folder, text: str) -> None:
    (folder / "profiles/.chat.toml.new").write_text(text)
    (folder / "profiles/.chat.toml.new").replace(folder / "profiles/chat.toml")


def _checkout(folder, text: str) -> None:
    """As git does: each file removed and created; files that say the same come with new times."""
    for name in ("profiles/chat.toml", "profiles/code.toml", "localmodels.toml"):
        content = text if name.endswith("chat.toml") else (folder / name).read_text()
        (folder / name).unlink()
        (folder / name).write_text(content)


@pytest.mark.parametrize(
    "save",
    [
        pytest.param(_rename_save, id="F20-rename"),
        pytest.param(_replace, id="F20-replace"),
        pytest.param(_checkout, id="F20-checkout"),
    ],
)
def test_every_way_to_save_counts_once_and_the_next_save_is_heard_too(team, watch, save):
    before = pids(team)
    for count, ctx in enumerate((1024, 2048), 1):
        start = len(watch.events)
        save(team.folder, edited(team, ctx=ctx))
        watch.next("applied", start)
        watch.settled()
        assert len(watch.of("applied")) == count
    after = pids(team)
    assert after["code"] == before["code"]
    assert after["chat"] != before["chat"]


def test_F20_a_swapped_link_counts_once_and_what_it_leads_to_is_heard(team):
    folder = team.folder / "profiles"
    text, other = folder.joinpath("chat.toml").read_text(), edited(team)
    for name, content in (("a", text), ("b", other)):
        (team.folder / "stow" / name).mkdir(parents=True)
        (team.folder / "stow" / name / "chat.toml").write_text(content)
    (folder / "chat.toml").unlink()
    (team.folder / "current").symlink_to("stow/a")
    (folder / "chat.toml").symlink_to("../current/chat.toml")
    watch = Watch(team)
    watch.next("planned")
    (team.folder / "next").symlink_to("stow/b")
    (team.folder / "next").replace(team.folder / "current")
    assert outcomes(watch.next("applied")) == {"program:chat": "done"}
    start = len(watch.events)
    (team.folder / "stow/b/chat.toml").write_text(text)
    watch.next("applied", start)
    watch.settled()
    assert len(watch.of("applied")) == 2
    assert watch.end()[0] == 143


def test_what_was_stopped_stays_stopped_also_when_it_is_edited(team, watch):
    team.run("stop", "chat")
    start = len(watch.events)
    (team.folder / "profiles/chat.toml").write_text(edited(team))
    planned = watch.seen("chat.toml", start=start)
    assert planned["plan"]["changes"] == []
    assert pids(team)["chat"] is None
    start = len(watch.events)
    (team.folder / "profiles/code.toml").write_text(edited(team, "code"))
    assert outcomes(watch.next("applied", start)) == {"program:code": "done"}
    assert pids(team)["chat"] is None


def test_a_profile_that_is_removed_is_stopped_and_a_new_one_waits_until_it_is_locked(team, watch, port):
    (team.folder / "profiles/code.toml").unlink()
    assert outcomes(watch.next("applied")) == {"program:code": "done"}
    start = len(watch.events)
    team.hello("Another.", "other.gguf")
    (team.folder / "profiles/new.toml").write_text(f'path = "../other.gguf"\nport = {port()}\n')
    said = until(lambda: [e for e in watch.of("problems", start) if e["topic"] == "plan"])
    assert [problem["what"] for problem in said[0]["problems"]] == ["not locked: new"]
    start = len(watch.events)
    team.run("lock")
    assert "program:new" in outcomes(watch.next("applied", start))


def test_never_only_tells(team, watch):
    before, file = pids(team), team.folder / "localmodels.toml"
    file.write_text(file.read_text() + 'apply = "never"\n')
    start = len(watch.events)
    watch.seen("localmodels.toml", start=0)
    (team.folder / "profiles/chat.toml").write_text(edited(team))
    planned = watch.seen("chat.toml", start=start)
    assert [change["address"] for change in planned["plan"]["changes"]] == ["program:chat"]
    assert watch.of("applied") == []
    assert pids(team) == before


def test_F26_what_is_not_trusted_is_refused_and_what_runs_stays(team, watch, port):
    before = pids(team)
    file = team.folder / "profiles/evil.toml"
    file.write_text(f'backend = "command"\ncommand = ["/bin/false"]\nport = {port()}\n')
    assert watch.next("problems")["problems"][0]["code"] == "E-TRUST"
    assert pids(team) == before
    start = len(watch.events)
    file.unlink()
    watch.next("mended", start)
    assert watch.of("applied") == []


def test_a_rollback_holds_the_watcher_until_somebody_applies(team, watch):
    (team.folder / "profiles/chat.toml").write_text(edited(team))
    watch.next("applied")
    team.run("rollback", "1", "--yes")
    start = len(watch.events)
    (team.folder / "profiles/chat.toml").write_text(edited(team, ctx=2048))
    planned = watch.seen("chat.toml", start=start)
    assert planned["plan"]["changes"] != []
    said = until(lambda: [e for e in watch.of("problems") if "rollback" in json.dumps(e)])
    assert said[0]["problems"][0]["code"] == "W-HELD"
    assert watch.of("applied", start) == []


def test_what_was_ended_by_down_stays_ended(team, watch):
    team.run("down")
    until(lambda: any("lmctl down" in json.dumps(event) for event in watch.of("problems")))
    assert {row["pid"] for row in team.profiles().values()} == {None}


def test_F24_where_notifications_fail_files_are_looked_at(team):
    team.environ["WATCHFILES_FORCE_POLLING"] = "1"
    watch = Watch(team)
    watch.next("planned")
    (team.folder / "profiles/chat.toml").write_text(edited(team))
    assert outcomes(watch.next("applied")) == {"program:chat": "done"}
    assert watch.end()[0] == 143


def test_F25_what_is_saved_while_it_applies_is_applied_next(team, watch, tmp_path):
    engine = tmp_path / "llama-server"
    set_mode(engine, "slow_load")
    (team.folder / "profiles/chat.toml").write_text(edited(team))
    until(lambda: team.profiles()["chat"]["state"] == "starting")
    for ctx in (2048, 3072, 4096):
        (team.folder / "profiles/chat.toml").write_text(edited(team, ctx=ctx))
    set_mode(engine, None)
    until(lambda: len(watch.of("applied")) == 2)
    causes = [change["cause"] for event in watch.of("applied") for change in event["changes"]]
    assert [(one["before"], one["after"]) for cause in causes for one in cause] == [(512, 1024), (1024, 4096)]
    assert "Nothing to do" in team.run("plan").out


def test_a_folder_that_is_replaced_is_listened_to_again(team, watch):
    before, folder = pids(team), team.folder / "profiles"
    folder.rename(team.home / "aside")
    watch.next("problems")
    start = len(watch.events)
    (team.home / "aside").rename(folder)
    watch.next("mended", start)
    assert pids(team) == before
    (folder / "chat.toml").write_text(edited(team))
    assert outcomes(watch.next("applied", start)) == {"program:chat": "done"}


def test_drift_is_recorded_and_told_to_the_hook(team):
    config = team.home / ".config/lmctl"
    config.mkdir(parents=True)
    heard = team.home / "heard"
    hook = team.home / "hook"
    hook.write_text(f"#!/bin/sh\ncat >> {heard}\nenv >> {heard}\n")
    hook.chmod(0o755)
    (config / "machine.toml").write_text(f'[watch]\nnotify = ["{hook}"]\n')
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupt_ends_it_with_the_envelope_last_and_no_lock_is_held_before(team, number, code):
    watch = Watch(team)
    watch.next("planned")
    assert "another lmctl" in team.run("watch", code=5).err
    team.run("apply")
    assert watch.end(number)[0] == code
    assert (watch.events[-1]["command"], watch.events[-1]["exit_code"]) == ("watch", code)


def test_a_broken_configuration_is_refused_at_first(machine):
    machine.declare("x = [\n")
    assert "E-TOML" in machine.run("watch", code=65).err
