"""What is written into supervisord.conf, and that nothing else ever is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from supervised import Supervised
from supervisor.options import UnhosedConfigParser

from lmctl.errors import LmctlError
from lmctl.hosts import supervisor_conf
from lmctl.hosts.supervisor_files import Files
from lmctl.record import replace
from lmctl.spec import ProgramSpec, program_id

ANY = st.text(st.characters() | st.sampled_from("\n\r%[];#=\"'\\, \0"), max_size=40)
SPECS = st.builds(
    ProgramSpec,
    id=st.uuids().map(lambda value: program_id(str(value))),
    profile=ANY,
    argv=st.lists(ANY, min_size=1, max_size=4).map(tuple),
    env=st.dictionaries(ANY, ANY, max_size=3),
    cwd=ANY,
    hash=st.from_regex(r"[0-9a-f]{64}", fullmatch=True),
    listen=ANY,
    key_file=st.none() | ANY,
    inherit=st.lists(ANY, max_size=2).map(tuple),
    autostart=st.booleans(),
    stop_timeout=st.floats(0.001, 86400),
)


@given(specs=st.lists(SPECS, max_size=4, unique_by=lambda spec: spec.id))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_F72_no_text_of_a_program_reaches_the_configuration(tmp_path: Path, specs: list[ProgramSpec]) -> None:
    blocks = supervisor_conf.sections(specs, "s.sock", 20 << 20)
    text = supervisor_conf.join(blocks)
    parser = UnhosedConfigParser()
    parser.read_string(text)
    fixed = {"supervisord", "unix_http_server", "rpcinterface:supervisor"}
    assert set(parser.sections()) == fixed | {f"program:{spec.id}" for spec in specs}
    bare = {"profile": "", "argv": ("",), "env": {}, "cwd": "", "listen": "", "key_file": None, "inherit": ()}
    plain = [replace(spec, **bare) for spec in specs]
    assert text == supervisor_conf.join(supervisor_conf.sections(plain, "s.sock", 20 << 20))
    assert supervisor_conf.split(text) == (blocks, ())
    supervisor_conf.check(text, specs)
    for spec in specs:
        path = tmp_path / f"{spec.id}.json"
        path.write_bytes(supervisor_conf.program_file(spec))
        path.chmod(0o600)
        assert supervisor_conf.read_program(path) == replace(spec, autostart=False, stop_timeout=10.0)


@pytest.mark.parametrize(
    "changes",
    [{"id": "p-1\n[program:x]"}, {"id": "../x"}, {"id": ""}, {"hash": 'a"\ncommand=x'}, {"hash": "%(here)s"}],
    ids=ascii,
)
def test_F72_an_id_or_hash_that_lmctl_does_not_form_writes_nothing(stack: Supervised, changes: dict[str, str]) -> None:
    with pytest.raises(LmctlError, match="E-SUPERVISOR"):
        stack.supervisor.write([replace(stack.spec("code"), **changes)])  # type: ignore[arg-type]
    assert not stack.folder.exists()


@pytest.mark.parametrize(
    "broken",
    [
        lambda text: text + "\n[program:p-000000000000]\ncommand=x\n",
        lambda text: text.replace("autostart=true", "autostart=maybe"),
        lambda text: text.replace("autostart=true", "autostart=false"),
        lambda text: text.replace("command=./launch", "command=./other"),
        lambda text: text.replace("[supervisord]", "[other]"),
        lambda text: text.replace("LMCTL_HASH", "OTHER"),
        lambda text: "\n" + text.replace("=", "", 1),
        lambda text: text + "\n[include]\nfiles=x\n",
    ],
    ids=["section", "value", "meaning", "command", "head", "environment", "syntax", "include"],
)
def test_F72_a_configuration_that_says_something_else_replaces_nothing(
    stack: Supervised, monkeypatch: pytest.MonkeyPatch, broken: Any
) -> None:
    stack.supervisor.write([stack.spec("code")])
    before = {path: path.read_bytes() for path in stack.folder.rglob("*") if path.is_file()}
    join = supervisor_conf.join
    monkeypatch.setattr(supervisor_conf, "join", lambda blocks: broken(join(blocks)))
    with pytest.raises(LmctlError, match=r"the new supervisord.conf is not used"):
        stack.supervisor.write([stack.spec("code", version=2)])
    assert {path: path.read_bytes() for path in stack.folder.rglob("*") if path.is_file()} == before


def test_where_the_size_of_logs_is_not_known_what_is_written_stays(tmp_path: Path) -> None:
    known, unknown = Files(tmp_path, 3 << 20), Files(tmp_path, None)
    one, two = (ProgramSpec(program_id(name), name, ("x",), {}, ".", "0" * 64, "127.0.0.1:1") for name in ("a", "b"))
    known.write([one, two])
    assert unknown.declared()[1] == ()
    unknown.write([one])
    unknown.sweep(())
    assert known.named() == {one.id}
    assert known.declared()[1] == ()
    unknown.write([one, two])
    assert known.declared()[1] == (two.id,)  # a section that nobody had written gets the usual size
