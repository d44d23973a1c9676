"""Which fields only this machine's owner may allow, and what becomes of them when anything is edited."""

from __future__ import annotations

from pathlib import Path

import pytest
from declarations import LINUX, PRELUDE

from lmctl import trust
from lmctl.config import loading
from lmctl.config.find import Request
from lmctl.errors import LmctlError
from lmctl.record import replace

GATED = """
[defaults]
env = { BASE = "1" }
[profiles.own]
backend = "command"
command = ["serve", "--port", "{port}"]
env = { OWN = "a b" }
port = 9001
[profiles.flags]
model = "o/m"
extra_args = ["--swa-full", "--slot-save-path", "/tmp"]
[profiles.remote]
backend = "mlx"
model = "o/mlx"
extra_args = ["--trust-remote-code"]
env = { OMP_NUM_THREADS = "2" }
[profiles.plain]
model = "o/p"
extra_args = ["--swa-full"]
"""


@pytest.fixture
def gated(place):
    place.write("localmodels.toml", PRELUDE + GATED)
    return place


def resolved(place, *sets, environ=None):
    request = Request(place.folder, sets=sets)
    return loading.resolve(request, place.folders, environ or {}, LINUX, trusting=True)


def fields(place, *sets):
    return {field.address: field for field in resolved(place, *sets).gated}


def trusted(place):
    """Trust everything that the files say now."""
    found = resolved(place)
    trust.write(trust.path(place.folders, "team"), place.folder, found.gated)


def refused(place, *sets, **how):
    """Return the profiles whose keys are refused, by the places that the errors name."""
    try:
        place.load(*sets, **how)
    except LmctlError as error:
        return {problem.place.line for problem in error.problems}
    return set()


def test_fields_are_what_a_backend_refuses_unless_it_is_allowed(gated):
    found = fields(gated)
    assert {address: sorted(field.permissions) for address, field in found.items()} == {
        "profiles.own.command": ["command"],
        "profiles.own.env.OWN": ["env"],
        "profiles.flags.env.BASE": ["env"],
        "profiles.flags.extra_args": ["flags"],
        "profiles.remote.extra_args": ["flags", "remote_code"],
        "profiles.plain.env.BASE": ["env"],
    }
    assert found["profiles.own.env.OWN"].shown == "OWN='a b'"
    assert found["profiles.own.command"].shown == "serve --port '{port}'"
    assert found["profiles.flags.extra_args"].value == ("--swa-full", "--slot-save-path", "/tmp")


def test_every_field_has_the_place_where_it_was_said(gated):
    places = {address: str(field.place) for address, field in fields(gated).items()}
    assert places["profiles.own.command"] == "localmodels.toml:8:1"
    assert places["profiles.own.env.OWN"] == "localmodels.toml:9:9"
    assert places["profiles.plain.env.BASE"] == "localmodels.toml:5:9"
    assert places["profiles.flags.extra_args"] == "localmodels.toml:13:1"


def test_what_machine_toml_allows_is_no_field(gated):
    gated.machine('[allow]\nteam = ["env", "flags"]\n')
    assert fields(gated).keys() == {"profiles.own.command", "profiles.remote.extra_args"}


def test_a_name_with_a_dot_has_an_address_of_its_own(place):
    text = '[profiles."a.b"]\nbackend = "command"\ncommand = ["x"]\n'
    place.write("localmodels.toml", PRELUDE + text)
    assert fields(place).keys() == {'profiles."a.b".command'}


def test_trust_in_code_that_comes_with_weights_names_the_weights(gated):
    assert fields(gated)["profiles.remote.extra_args"].shown == "--trust-remote-code  (of o/mlx@main:mlx)"
    other = fields(gated, 'profiles.remote.model="evil/mlx"')["profiles.remote.extra_args"]
    assert other.shown == "--trust-remote-code  (of evil/mlx@main:mlx)"
    assert other.digest != fields(gated)["profiles.remote.extra_args"].digest


def test_a_secret_is_not_shown(place):
    token = "hf_" + "a" * 34
    text = f'[profiles.x]\nbackend = "command"\ncommand = ["x", "{token}"]\nenv = {{ A = "{token}" }}\n'
    place.write("localmodels.toml", PRELUDE + text)
    assert [field.shown for field in resolved(place).gated] == ["x (hidden)", "A=(hidden)"]


def test_what_is_trusted_is_welcome(gated):
    assert refused(gated)
    trusted(gated)
    names = {profile.name: profile.remote_code for profile in gated.load().profiles}
    assert names == {"own": False, "flags": False, "remote": True, "plain": False}


OWN, FLAGS, ALL = {8, 9}, {5, 13}, {5}  # lines of what is refused of a profile
EDITS = {
    "comment": ("port = 9001", "port = 9001 # so", set()),
    "another-key": ("port = 9001", "port = 9002", set()),
    "another-profile": ('model = "o/p"', 'model = "o/q"', set()),
    "harmless-variable": ('THREADS = "2"', 'THREADS = "3"', set()),
    "harmless-flags": ('extra_args = ["--swa-full"]\n', 'extra_args = ["--no-perf"]\n', set()),
    "new-profile": ("[profiles.own]", '[profiles.more]\nmodel = "o/n"\n[profiles.own]', {5}),
    "word": ('"serve"', '"serves"', OWN),
    "one-word-of-two": ('"--port", "{port}"', '"--port {port}"', OWN),
    "value-of-variable": ('OWN = "a b"', 'OWN = "a c"', OWN),
    "name-of-variable": ('OWN = "a b"', 'OWNER = "a b"', OWN),
    "variable-gone": ('env = { OWN = "a b" }', "env = {}", {8}),
    "flag": ('"--slot-save-path", "/tmp"', '"--slot-save-path", "/"', FLAGS),
    "model-whose-code-runs": ('model = "o/mlx"', 'model = "evil/mlx"', {17}),
    "revision-whose-code-runs": ('model = "o/mlx"', 'model = "o/mlx"\nrevision = "v2"', {18}),
    "draft-whose-code-runs": ('model = "o/mlx"', 'model = "o/mlx"\ndraft = { model = "evil/mlx" }', {18}),
    "model-without-code": ('model = "o/m"', 'model = "o/n"', set()),
    "for-all": ('BASE = "1"', 'BASE = "2"', {*FLAGS, *ALL}),
}


@pytest.mark.parametrize(("before", "after", "lines"), EDITS.values(), ids=EDITS)
def test_an_edit_of_a_trusted_field_ends_the_trust_in_its_profile_alone(gated, before, after, lines):
    trusted(gated)
    assert GATED.count(before) == 1
    gated.write("localmodels.toml", PRELUDE + GATED.replace(before, after))
    assert refused(gated) == lines


def test_trust_in_flags_ends_when_another_engine_reads_them(place):
    text = '[profiles.x]\nmodel = "o/m"\nbackend = "{}"\nextra_args = ["--new-flag", "/"]\n'
    place.write("localmodels.toml", PRELUDE + text.format("llama.cpp"))
    trusted(place)
    assert refused(place) == set()
    place.write("localmodels.toml", PRELUDE + text.format("mlx"))
    assert refused(place) == {6}


def test_trust_is_for_the_form_that_a_profile_takes_here(place):
    text = '[profiles.x]\nmodel = "o/m"\n[[profiles.x.when]]\n{}\nbackend = "command"\ncommand = ["x"]\n'
    place.write("localmodels.toml", PRELUDE + text.format('os = "darwin"'))
    assert fields(place) == {}
    place.write("localmodels.toml", PRELUDE + text.format('os = "linux"'))
    assert fields(place).keys() == {"profiles.x.command"}


OVERRIDES = [
    ('profiles.own.command=["evil"]',),
    ('profiles.own.env={ OWN = "evil" }',),
    ('profiles.flags.extra_args=["--slot-save-path", "/"]',),
    ('profiles.plain.backend="command"', 'profiles.plain.command=["evil"]'),
]


@pytest.mark.parametrize("sets", OVERRIDES, ids=str)
@pytest.mark.parametrize("way", ["set", "environment"])
def test_an_override_is_never_trusted(gated, sets, way):
    trusted(gated)
    environ = {f"LMCTL_{key.upper().replace('.', '__')}": value for key, _, value in (s.partition("=") for s in sets)}
    with pytest.raises(LmctlError, match="write it into a file of the declaration, then run `lmctl trust"):
        gated.load(*sets) if way == "set" else gated.load(environ=environ)


GRANTS = [
    {"text": "[allow]\nteam = ['command']\n"},
    {"text": "trust = true\n"},
    {"text": "[profiles.more]\nmodel = 'o/m'\ntrusted = true\n"},
    {"local": "[allow]\nteam = ['command']\n"},
    {"environ": {"LMCTL_ALLOW__TEAM": '["command", "env", "flags", "remote_code"]'}},
    {"environ": {"LMCTL_TRUST": "1", "LMCTL_YES": "1", "LMCTL_TRUST__TEAM": "true"}},
    {"sets": ('allow.team=["command"]',)},
    {"sets": ("profiles.own.trusted=true",)},
]


@pytest.mark.parametrize("grant", GRANTS, ids=str)
def test_neither_file_nor_environment_nor_set_grants_anything(gated, grant):
    head, _, tail = (PRELUDE + GATED).partition("[defaults]")
    gated.write("localmodels.toml", f"{head}{grant.get('text', '')}[defaults]{tail}")
    if "local" in grant:
        gated.write("localmodels.local.toml", grant["local"])
    with pytest.raises(LmctlError) as caught:
        gated.load(*grant.get("sets", ()), environ=grant.get("environ"))
    codes = {problem.code for problem in caught.value.problems}
    assert "E-TRUST" in codes or codes & {"E-MACHINE", "E-KEY"}
    assert not trust.path(gated.folders, "team").exists()


def test_a_record_that_the_repository_brings_is_not_read(gated):
    trusted(gated)
    brought = trust.path(gated.folders, "team").read_bytes()
    trust.path(gated.folders, "team").unlink()
    for name in ("trust.json", ".lmctl/trust.json", ".local/state/lmctl/team/trust.json", "team/trust.json"):
        gated.write(name, brought)
    assert refused(gated)


def test_another_folder_of_the_same_name_inherits_nothing(gated, tmp_path):
    trusted(gated)
    other = tmp_path / "clone"
    gated.folder, first = other, gated.folder
    gated.write("localmodels.toml", PRELUDE + GATED)
    assert refused(gated)
    gated.folder = first
    assert not refused(gated)


# ---- what was kept of the last run ----


def kept(place) -> list[Path]:
    return list((place.folders.cache / "config").iterdir())


@pytest.mark.parametrize(
    "end",
    [
        lambda place, file: trust.forget(place.folders, place.folder),
        lambda place, file: file.unlink(),
        lambda place, file: trust.write(file, place.folder, []),
        lambda place, file: trust.write(file, Path("/elsewhere"), resolved(place).gated),
        lambda place, file: file.write_text("{}"),
    ],
    ids=["revoked", "removed", "emptied", "of-another-folder", "broken"],
)
def test_what_was_kept_of_the_last_run_ends_with_the_trust(gated, end):
    trusted(gated)
    assert gated.load().profiles
    assert kept(gated)
    end(gated, trust.path(gated.folders, "team"))
    assert refused(gated)
    trusted(gated)
    assert gated.load().profiles


def test_what_was_kept_belongs_to_the_state_folder_that_gave_the_trust(gated, tmp_path):
    trusted(gated)
    assert gated.load().profiles
    gated.folders = replace(gated.folders, state=tmp_path / "elsewhere")
    assert refused(gated)


def test_what_was_refused_for_want_of_trust_is_not_kept(gated):
    assert refused(gated)
    assert not (gated.folders.cache / "config").exists()
