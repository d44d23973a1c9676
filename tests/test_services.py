"""lmctl's own programs: who asks for them, what they are told, and what restarts them."""

from __future__ import annotations

from pathlib import Path

import pytest
import worlds
from worlds import artifact, case, owned, profile

from lmctl import addresses, desired, services
from lmctl.errors import LmctlError
from lmctl.front import Cloud, Front
from lmctl.host import Daemon
from lmctl.ledger import Memory
from lmctl.reconcile import make_plan
from lmctl.record import replace
from lmctl.resource import Case, Scope
from lmctl.spec import Machine, ProgramSpec, program_id

CODE, CHAT = artifact("code"), artifact("chat")
PORT = profile("code").port


def fronted(*profiles, scope: Scope | None = None, front: Front | None = None, **how) -> Case:
    """Return a case of verified weights behind a gateway."""
    declaration = {key: how.pop(key) for key in ("watched", "clouds", "machine") if key in how}
    rows = tuple(map(owned, (CODE, CHAT)))
    whole = case(*(profiles or (profile("code"),)), artifacts=(CODE, CHAT), here=(CODE, CHAT), rows=rows, **how)
    whole = replace(whole, declaration=replace(whole.declaration, front=front or Front(), **declaration))
    return replace(whole, scope=scope) if scope else whole


def serve(whole: Case) -> dict[str, str]:
    """Return the verb of each planned change of a program, by its name."""
    changes = make_plan(whole).changes
    return {c.address.partition(":")[2]: c.word for c in changes if c.address.startswith("program:")}


def spec_of(whole: Case, name: str) -> ProgramSpec:
    return desired.programs(whole).ready[name].spec


def test_the_gateway_is_asked_for_where_profiles_are_and_the_watcher_where_it_is_declared():
    assert services.names(fronted().declaration) == ("gateway",)
    assert services.names(fronted(watched=True).declaration) == ("gateway", "watch")
    assert services.names(fronted(front=worlds.DIRECT, watched=True).declaration) == ("watch",)
    assert services.names(replace(fronted(watched=True).declaration, profiles=())) == ()


def test_they_name_the_declaration_and_nothing_that_a_person_typed():
    whole = fronted(watched=True)
    for name in ("gateway", "watch"):
        spec = spec_of(whole, name)
        assert spec.argv == ("{python}", "-P", "-m", "lmctl", "--config", "/repo/localmodels.toml", name)
        assert (spec.id, spec.cwd, spec.autostart) == (name, ".", True)


@pytest.mark.parametrize(
    "changed",
    [
        {"front": Front(port=9999, default="code", load_timeout=1.0, drain_timeout=99.0)},
        {"watched": True},
        {"front": Front(keys_file=Path("/keys"))},
    ],
    ids=["port and times", "watched", "keys"],
)
def test_what_the_gateway_follows_by_itself_is_not_in_its_hash(changed):
    assert spec_of(fronted(**changed), "gateway").hash == spec_of(fronted(), "gateway").hash


@pytest.mark.parametrize(
    "changed",
    [
        {"environ": {"HF_HOME": "/elsewhere"}},
        {"machine": Machine(bind="127.0.0.2")},
        {"clouds": (Cloud("big", "https://big.example", "large", key_env="BIG_KEY"),)},
    ],
    ids=["environment", "bind", "variables of clouds"],
)
def test_what_it_cannot_take_over_is(changed):
    assert spec_of(fronted(**changed), "gateway").hash != spec_of(fronted(), "gateway").hash


def test_a_variable_with_the_key_of_an_allowed_cloud_is_named_and_its_value_is_nowhere():
    whole = fronted(clouds=(Cloud("big", "https://big.example", "large", key_env="BIG_KEY"),), watched=True)
    assert (spec_of(whole, "gateway").inherit, spec_of(whole, "watch").inherit) == (("BIG_KEY",), ())


def test_what_is_passed_on_says_where_things_are_and_is_no_secret():
    passed = {"XDG_STATE_HOME": "/s", "HF_HUB_CACHE": "/c", "LMCTL_GATEWAY__PORT": "9", "HTTPS_PROXY": "http://p:1"}
    kept = {
        "HF_TOKEN": "hf_" + "a" * 34,
        "HTTP_PROXY": "http://me:word@p:1",
        "LMCTL_DEBUG": "1",
        "LMCTL_CONFIG": "/x",
        "LMCTL_PROFILES__X__ENV__API_KEY": "short",
        "HF_ENDPOINT": "https://hf_" + "a" * 34,
        "PYTHONPATH": "/evil",
    }
    assert services.passed({**passed, **kept}) == passed


def test_a_gateway_that_others_reach_asks_for_keys():
    asked = desired.programs(fronted(machine=Machine(bind="0.0.0.0")))
    assert asked.refused["gateway"].code == "E-BIND"
    keyed = fronted(machine=Machine(bind="0.0.0.0"), front=Front(keys_file=Path("/keys")))
    assert spec_of(keyed, "gateway").listen == "0.0.0.0:8080"
    assert spec_of(keyed, "code").listen == "127.0.0.1:28000", "nobody else reaches an engine"


def test_engines_move_behind_the_gateway_and_demand_a_key():
    whole = fronted(profile("code"), profile("chat", port=None))
    assert addresses.listens(whole) == {"code": "127.0.0.1:28000", "chat": "127.0.0.1:28001"}
    asked = desired.programs(whole).ready
    assert (asked["code"].front, asked["chat"].front) == (f"127.0.0.1:{PORT}", "127.0.0.1:8080")
    assert asked["code"].spec.key_file == f"keys/{program_id('code')}"
    assert asked["code"].probe and asked["code"].probe.key_file == asked["code"].spec.key_file
    assert "--api-key-file" in asked["code"].spec.argv


def test_without_the_gateway_they_listen_where_they_declare_and_demand_none():
    asked = desired.programs(fronted(front=worlds.DIRECT)).ready["code"]
    assert (asked.spec.listen, asked.front, asked.spec.key_file) == (f"127.0.0.1:{PORT}", None, None)


def test_a_command_that_is_told_no_port_stays_where_it_is():
    words = ("serve", "--at", "9000")
    stays = profile("code", weights=None, mmproj=None, command=words, port=9000)
    whole = fronted(replace(stays, backend="command"))
    assert addresses.listens(whole) == {"code": "127.0.0.1:9000"}
    assert addresses.front(whole.declaration, whole.declaration.profiles[0]) is None
    moves = replace(stays, backend="command", command=("serve", "{port}"))
    assert addresses.listens(fronted(moves)) == {"code": "127.0.0.1:28000"}


def test_a_private_port_never_moves_by_itself():
    both = (profile("code"), profile("chat"))
    sticky = Memory(ports={"chat": "127.0.0.1:28000"})
    assert addresses.listens(fronted(*both, memory=sticky)) == {"code": "127.0.0.1:28001", "chat": "127.0.0.1:28000"}
    before = worlds.applied(fronted(*both), {})
    files = replace(before, world=replace(before.world, memory=Memory()))
    assert addresses.listens(files) == addresses.listens(before), "the files tell where the ledger is lost"
    moved = replace(files, declaration=replace(files.declaration, engine_ports=(30000, 30009)))
    assert set(addresses.listens(moved).values()) == {"127.0.0.1:30000", "127.0.0.1:30001"}
    assert addresses.listens(fronted(taken_ports={28000: "other"})) == {"code": "127.0.0.1:28001"}


def running(whole: Case, *names: str) -> Case:
    return worlds.applied(whole, dict.fromkeys(names, "RUNNING"))


def test_they_are_created_run_and_then_as_declared():
    whole = fronted(watched=True)
    assert serve(whole) == {"code": "create", "gateway": "create", "watch": "create"}
    assert serve(running(whole, "code", "gateway", "watch")) == {}
    assert serve(running(whole, "code", "watch")) == {"gateway": "start"}


def test_switching_the_gateway_off_shows_what_moves():
    before = running(fronted(profile("code"), profile("chat", port=None)), "code", "chat", "gateway")
    after = replace(before, declaration=replace(before.declaration, front=worlds.DIRECT))
    changes = {change.address: change for change in make_plan(after).changes}
    assert {address: change.verb for address, change in changes.items()} == {
        "program:code": "restart",
        "program:chat": "restart",
        "program:gateway": "delete",
    }
    told = {cause.field: (cause.before, cause.after) for cause in changes["program:code"].cause}
    assert told == {"listen": ("127.0.0.1:28000", f"127.0.0.1:{PORT}")}


def test_another_port_is_an_update_that_restarts_nothing():
    before = running(fronted(), "code", "gateway")
    after = replace(before, declaration=replace(before.declaration, front=Front(port=9090)))
    (change,) = make_plan(after).changes
    assert (change.address, change.verb) == ("program:gateway", "update")
    assert [(cause.field, cause.after) for cause in change.cause] == [("listen", "127.0.0.1:9090")]


def test_a_run_about_one_profile_brings_a_gateway_and_leaves_one_that_runs():
    one = Scope(names=frozenset({"code"}))
    assert serve(fronted(watched=True, scope=one)) == {"code": "create", "gateway": "create"}
    before = running(fronted(), "code", "gateway")
    moved = replace(before, declaration=replace(before.declaration, front=Front(port=9090)))
    assert serve(replace(moved, scope=one)) == {}
    off = replace(before, declaration=replace(before.declaration, front=worlds.DIRECT))
    assert serve(replace(off, scope=one)) == {"code": "restart"}


def test_one_that_a_person_stopped_stays_stopped_until_it_is_named():
    held = running(fronted(), "code")
    memory = replace(held.world.memory, holds={"gateway": "stopped"})
    held = replace(held, world=replace(held.world, memory=memory))
    assert serve(held) == {}
    assert [warning.what for warning in make_plan(held).warnings] == ["gateway is held (stopped)"]
    named = frozenset({"gateway"})
    assert serve(replace(held, scope=Scope(names=named, run=named))) == {"gateway": "start"}


def test_they_count_neither_as_memory_nor_as_profiles():
    whole = running(fronted(watched=True), "code", "gateway", "watch")
    assert set(make_plan(whole).memory.need) == {"code"}


def test_a_broken_or_empty_declaration_ends_none_of_them():
    before = running(fronted(watched=True), "code", "gateway", "watch")
    assert serve(replace(before, declaration=replace(before.declaration, profiles=()))) == {}


def test_a_program_that_runs_without_its_key_is_restarted_with_a_new_one():
    before = running(fronted(), "code", "gateway")
    daemon = replace(before.world.daemon, keyless=frozenset({program_id("code")}))
    (change,) = make_plan(replace(before, world=replace(before.world, daemon=daemon))).changes
    assert (change.address, change.verb, change.cause[0].field) == ("program:code", "restart", "key")


def test_profiles_on_demand_are_noted_as_what_they_are():
    whole = fronted(profile("code", start="on-demand"), profile("chat", start="on-demand"))
    assert "code, chat: started when a request asks for it" in make_plan(whole).notes
    assert not spec_of(whole, "code").autostart
    off = replace(whole, declaration=replace(whole.declaration, front=worlds.DIRECT))
    assert 'code, chat: start = "on-demand" counts as "manual" while the gateway is off' in make_plan(off).notes


def test_the_names_of_these_programs_are_their_ids():
    assert [program_id(name) for name in ("gateway", "watch")] == ["gateway", "watch"]
    with pytest.raises(LmctlError, match="no port of engine_ports is free"):
        whole = fronted(taken_ports={28000: "other"}, daemon=Daemon(None, {}, {}))
        addresses.listens(replace(whole, declaration=replace(whole.declaration, engine_ports=(28000, 28000))))
