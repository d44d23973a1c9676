"""What programs should be: addresses that stay, groups of which one runs, and a hash that covers what it must."""

from __future__ import annotations

from pathlib import Path

import pytest
import worlds
from worlds import artifact, case, found, owned, profile, signature

from lmctl import addresses, desired
from lmctl.backend import Engine
from lmctl.errors import LmctlError
from lmctl.ledger import Memory
from lmctl.record import replace
from lmctl.resource import Case, Scope
from lmctl.spec import Group, Lock, Settings

CODE, CHAT = artifact("code"), artifact("chat")
TEMPLATE = Path("/repo/chat.jinja")


def here(*profiles, artifacts=(CODE, CHAT), **world) -> Case:
    return case(*profiles, artifacts=artifacts, here=artifacts, rows=tuple(map(owned, artifacts)), **world)


def hash_of(declared, **world) -> str:
    return desired.programs(here(declared, **world)).ready["code"].spec.hash


BEFORE = profile("code")
GPU = replace(BEFORE, settings=Settings(ctx=8192, env={"CUDA_VISIBLE_DEVICES": "0"}))


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(replace(BEFORE, start="manual"), id="autostart"),
        pytest.param(replace(BEFORE, stop_timeout=99.0), id="stop_timeout"),
        pytest.param(replace(BEFORE, start_timeout=99.0), id="start_timeout"),
        pytest.param(replace(BEFORE, protect=True), id="protect"),
        pytest.param(replace(BEFORE, fetch="start"), id="fetch"),
        pytest.param(replace(BEFORE, ttl=1.0), id="ttl"),
        pytest.param(replace(BEFORE, aliases=("a",), tasks=("code",), description="d"), id="words"),
        pytest.param(replace(BEFORE, file="profiles/code.toml"), id="the-declaring-file"),
        pytest.param(replace(BEFORE, changed={"ctx": 8192}), id="how-it-was-said"),
    ],
)
def test_what_changes_no_process_changes_no_hash(changed):
    assert hash_of(changed) == hash_of(BEFORE)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(replace(BEFORE, settings=Settings(ctx=4096)), id="ctx"),
        pytest.param(GPU, id="env"),
        pytest.param(replace(BEFORE, settings=Settings(ctx=8192, extra_args=("--verbose",))), id="extra_args"),
        pytest.param(replace(BEFORE, port=9999), id="port"),
    ],
)
def test_what_changes_the_process_changes_the_hash(changed):
    assert hash_of(changed) != hash_of(BEFORE)


def test_the_value_of_a_variable_counts():
    other = replace(GPU, settings=replace(GPU.settings, env={"CUDA_VISIBLE_DEVICES": "1"}))
    assert hash_of(other) != hash_of(GPU)


def test_another_content_of_the_same_path_changes_the_hash():
    file = replace(CODE.files[0], sha256="f" * 64)
    other = replace(CODE, files=(file,))
    at = {CODE.id: found(CODE, signature(CODE)), CHAT.id: found(CHAT, signature(CHAT))}
    assert hash_of(BEFORE, artifacts=(other, CHAT), found=at) != hash_of(BEFORE, found=at)


def test_a_template_counts_by_its_content_and_not_at_all_where_there_is_none():
    templated = replace(BEFORE, settings=Settings(ctx=8192, chat_template_file=TEMPLATE))
    one, two = (hash_of(templated, templates={TEMPLATE: content}) for content in (b"a", b"b"))
    assert one != two
    assert hash_of(BEFORE, templates={TEMPLATE: b"a"}) == hash_of(BEFORE)


def test_mlx_is_told_a_template_as_it_was_seen_without_another_look_at_the_disk():
    folder = replace(CODE, files=(replace(CODE.files[0], path="config.json"),))
    templated = replace(BEFORE, backend="mlx", settings=Settings(chat_template_file=TEMPLATE))
    engines = {"mlx": Engine(("/usr/bin/mlx_lm.server",))}
    whole = here(templated, artifacts=(folder,), engines=engines, templates={TEMPLATE: b"{{ messages }}"})
    argv = desired.programs(whole).ready["code"].spec.argv
    assert argv[argv.index("--chat-template") + 1] == "{{ messages }}"


def test_a_template_that_cannot_be_read_refuses_its_profile_alone():
    templated = replace(BEFORE, settings=Settings(ctx=8192, chat_template_file=TEMPLATE))
    error = LmctlError("E-FILE", "chat.jinja does not exist")
    asked = desired.programs(here(templated, profile("chat"), templates={TEMPLATE: error}))
    assert (dict(asked.refused), set(asked.ready)) == ({"code": error}, {"chat"})


def test_neither_lmctl_s_version_nor_its_python_is_in_the_hash(monkeypatch):
    python = {"llama.cpp": Engine(("{python}", "-P", "-m", "lmctl.embedded"), embedded=True)}
    before = hash_of(BEFORE, engines=python)
    monkeypatch.setattr("lmctl.__version__", "99.0")
    monkeypatch.setattr("sys.executable", "/elsewhere/python")
    assert hash_of(BEFORE, engines=python) == before
    assert hash_of(BEFORE) != before  # another engine is another process


def test_the_values_of_variables_are_in_no_field_that_the_ledger_keeps():
    secret = replace(GPU, changed={"env": {"CUDA_VISIBLE_DEVICES": "hidden"}, "ctx": 8192})
    fields = desired.programs(here(secret)).ready["code"].fields
    settings = {"start by itself": True, "stop_timeout": 10.0, "listen": f"127.0.0.1:{BEFORE.port}"}
    assert fields == {"ctx": 8192, "commit of org/code": CODE.commit[:12], **settings}


def test_a_profile_without_a_port_gets_the_next_free_one_and_keeps_it():
    both = (profile("code", port=None), profile("chat", port=None))
    assert addresses.listens(here(*both)) == {"code": "127.0.0.1:28000", "chat": "127.0.0.1:28001"}
    sticky = Memory(ports={"chat": "127.0.0.1:28000"})
    assert addresses.listens(here(*both, memory=sticky)) == {"code": "127.0.0.1:28001", "chat": "127.0.0.1:28000"}
    # a profile that went keeps its address until it is forgotten
    gone = Memory(ports={"old": "127.0.0.1:28000"})
    assert addresses.listens(here(both[0], memory=gone)) == {"code": "127.0.0.1:28001"}


def test_a_declared_port_wins_over_a_remembered_one():
    sticky = Memory(ports={"code": "127.0.0.1:28000"})
    assert addresses.listens(here(profile("code", port=8081), memory=sticky)) == {"code": "127.0.0.1:8081"}


def grouped(*profiles, running: str, scope: Scope | None = None, exclusive: bool = True) -> Case:
    whole = here(*profiles)
    group = Group("one at a time", tuple(p.name for p in profiles), exclusive)
    whole = replace(whole, declaration=replace(whole.declaration, groups=(group,)))
    after = worlds.applied(replace(whole, declaration=replace(whole.declaration, groups=())), {running: "RUNNING"})
    whole = replace(whole, world=after.world)
    return replace(whole, scope=scope) if scope else whole


def test_apply_never_stops_the_member_of_a_group_that_runs():
    asked = desired.programs(grouped(profile("code"), profile("chat", start="manual"), running="chat"))
    assert dict(asked.waiting) == {"code": "chat runs in its place"}
    assert set(asked.ready) == {"chat"}


def test_a_start_takes_the_place_of_the_member_that_runs():
    run = frozenset({"code"})
    scope = Scope(names=run, run=run)
    asked = desired.programs(grouped(profile("code"), profile("chat"), running="chat", scope=scope))
    assert asked.ready["code"].runs
    assert not asked.waiting


def test_members_of_a_group_that_is_not_exclusive_run_together():
    asked = desired.programs(grouped(profile("code"), profile("chat"), running="chat", exclusive=False))
    assert not asked.waiting


@pytest.mark.parametrize(
    ("start", "held", "scope", "runs"),
    [
        ("always", False, Scope(), True),
        ("manual", False, Scope(), False),
        ("always", True, Scope(), False),
        ("always", True, Scope(names=frozenset({"code"})), True),
        ("manual", False, Scope(names=frozenset({"code"})), False),
        ("manual", True, Scope(names=frozenset({"code"}), run=frozenset({"code"})), True),
    ],
)
def test_what_runs(start, held, scope, runs):
    memory = Memory(holds={"code": "stopped"} if held else {})
    whole = replace(here(profile("code", start=start)), scope=scope)
    rows = {row.path: row for row in map(owned, (CODE, CHAT))}
    whole = replace(whole, world=replace(whole.world, memory=memory, owned=rows))
    assert desired.programs(whole).ready["code"].runs is runs


def test_what_is_not_locked_waits():
    whole = replace(here(profile("code")), lock=Lock())
    assert dict(desired.programs(whole).waiting) == {"code": "not locked"}


def test_an_engine_that_is_not_there_refuses_with_how_to_get_it():
    asked = desired.programs(here(profile("code"), engines={}))
    assert asked.refused["code"].code == "E-ENGINE"
    broken = LmctlError("E-ENGINE", "not executable")
    assert desired.programs(here(profile("code"), engines={"llama.cpp": broken})).refused["code"] is broken


def test_the_time_to_become_healthy_grows_with_the_weights():
    assert desired.programs(here(profile("code"))).ready["code"].timeout == 60 + 5 * 4
    assert desired.programs(here(profile("code", start_timeout=7.0))).ready["code"].timeout == 7.0


def test_more_profiles_than_ports_are_refused():
    whole = here(profile("code", port=None), profile("chat", port=None))
    whole = replace(whole, declaration=replace(whole.declaration, engine_ports=(28000, 28000)))
    with pytest.raises(LmctlError, match="no port of engine_ports is free") as caught:
        addresses.listens(whole)
    assert caught.value.code == "E-PORT"
