"""`lmctl watch` beside a running supervisord: what is saved is applied, what did not change keeps running."""

from __future__ import annotations

import json
import os
import signal
import time

import pytest
from e2e_tools import outcomes, until
from watch_tools import Watch, edited, pids


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


def _vim(folder, text: str) -> None:
    """It tries whether it may write, moves the old file aside, writes, and removes the old one and its swap file."""
    file = folder / "profiles/chat.toml"
    (folder / "profiles/.chat.toml.swp").write_bytes(b"b0VIM 9.0")
    (folder / "profiles/4913").touch()
    (folder / "profiles/4913").unlink()
    file.rename(folder / "profiles/chat.toml~")
    file.write_text(text)
    (folder / "profiles/chat.toml~").unlink()
    (folder / "profiles/.chat.toml.swp").unlink()


def _code(folder, text: str) -> None:
    """As VS Code does: the file is emptied, then written, in place."""
    with (folder / "profiles/chat.toml").open("r+") as file:
        file.truncate(0)
        file.flush()
        time.sleep(0.05)
        file.write(text)


def _moved(folder, text: str) -> None:
    """As `mv` does from elsewhere, the file's times along."""
    other = folder.parent / "other.toml"
    other.write_text(text)
    os.utime(other, (0, 0))
    other.rename(folder / "profiles/chat.toml")


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
        pytest.param(_vim, id="F20-vim"),
        pytest.param(_code, id="F20-VS-Code"),
        pytest.param(_moved, id="F20-mv"),
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
    told = until(lambda: (found := team.run("status", "--json").data)["watcher"]["problems"] and found)
    assert told["untrusted_change"] is True
    assert [(one["code"], one["place"]) for one in told["watcher"]["problems"]] == [
        ("E-TRUST", "profiles/evil.toml:2:1")
    ]
    assert "untrusted change" in team.run("status").out
    (team.folder / "profiles/chat.toml").write_text(edited(team))
    start = len(watch.events)
    file.unlink()
    watch.next("mended", start)
    assert outcomes(watch.next("applied", start)) == {"program:chat": "done"}
    assert pids(team)["code"] == before["code"]
    told = until(lambda: not (found := team.run("status", "--json").data)["watcher"]["problems"] and found)
    assert told["untrusted_change"] is False
    assert "untrusted change" not in team.run("status").out


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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupt_ends_it_with_the_envelope_last_and_no_lock_is_held_before(team, number, code):
    watch = Watch(team)
    watch.next("planned")
    second = team.run("watch", code=5)
    assert f"pid {watch.process.pid}, `lmctl watch`" in second.err
    assert "--wait" not in second.err
    assert second.out == ""
    team.run("apply")
    assert watch.end(number)[0] == code
    assert (watch.events[-1]["command"], watch.events[-1]["exit_code"]) == ("watch", code)


def test_a_broken_configuration_is_refused_at_first(machine):
    machine.declare("x = [\n")
    assert "E-TOML" in machine.run("watch", code=65).err
