"""One declaration beside others on a machine: whose name it is, and what the others refer to."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from declarations import LINUX, PRELUDE, Place
from worlds import artifact

from lmctl import addresses, adhoc, lockfile
from lmctl.errors import LmctlError
from lmctl.host import Daemon, Found
from lmctl.record import replace
from lmctl.resource import Scope
from lmctl.session import Session
from lmctl.spec import Lock, Signature, Wanted

CODE, CHAT = artifact("code"), artifact("chat")
SIGNATURE = Signature(1, 2, 3, 4)


@pytest.fixture
def make(tmp_path, home):
    """Return the session of a folder's declaration on a machine that shows nothing."""

    def session(folder: str = "repo", name: str = "team", text: str = '[profiles.code]\nmodel = "o/m"\n') -> Session:
        place = Place(tmp_path / folder, home)
        place.write("localmodels.toml", PRELUDE.replace("team", name) + text)
        store = SimpleNamespace(signature=lambda path: SIGNATURE, partials=lambda: (), locate=lambda *_: ())
        host = SimpleNamespace(
            store=store,
            supervisor=SimpleNamespace(observe=lambda: Daemon(None, {}, {})),
            engines=SimpleNamespace(find=lambda backend: None),
            processes=SimpleNamespace(
                holders=lambda paths: dict.fromkeys(paths, ()), busy=lambda ports: frozenset({ports[0]})
            ),
            hardware=LINUX,
            environ={},
            now=lambda: 100.0,
        )
        return Session.of(place.load(), place.folders, host)  # type: ignore[arg-type]

    return session


def test_a_name_belongs_to_the_folder_that_registered_it(make):
    first, second = make("one"), make("two")
    first.refuse_foreign_name()  # nobody's yet
    first.register()
    first.refuse_foreign_name()
    with pytest.raises(LmctlError, match=r"belongs to .*/one on this machine") as caught:
        second.refuse_foreign_name()
    assert (caught.value.code, caught.value.exit_code) == ("E-NAME-TAKEN", 4)
    second.register()  # what `apply --take` does
    second.refuse_foreign_name()


def test_registering_again_writes_nothing(make):
    session = make()
    session.register()
    before = session.record.stat()
    session.register()
    assert session.record.stat().st_mtime_ns == before.st_mtime_ns
    assert before.st_mode & 0o777 == 0o600
    assert json.loads(session.record.read_text()) == {
        "folder": str(session.declaration.folder), "file": str(session.declaration.file)
    }  # fmt: skip


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "\udcff"], ids=repr)
def test_a_broken_record_is_told(make, content):
    session = make()
    session.register()
    session.record.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(LmctlError, match="is broken") as caught:
        session.refuse_foreign_name()
    assert caught.value.code == "E-STATE"


def test_where_the_committed_lock_knows_an_artifact_it_counts(make):
    session = make()
    folder = session.declaration.folder
    elsewhere = replace(CODE, commit="b" * 40)
    lockfile.write(folder / lockfile.COMMITTED, Lock({CODE.id: CODE}))
    lockfile.write(folder / lockfile.LOCAL, Lock({CODE.id: elsewhere, CHAT.id: CHAT}))
    assert session.lock().artifacts == {CODE.id: CODE, CHAT.id: CHAT}


def test_only_what_runs_undeclared_is_locked_beside_and_only_while_it_runs(make):
    one, two = (Wanted(each.id, "org/x", "main", "Q4_K_M", "gguf") for each in (CODE, CHAT))
    session = make()
    session = replace(
        session, declaration=replace(session.declaration, asked_by={one.id: ("loose",), two.id: ("loose", "code")})
    )
    session.state.mkdir(parents=True)
    lockfile.write(session.beside, Lock({CODE.id: CODE, CHAT.id: CHAT}))
    assert session.lock().artifacts == {}
    adhoc.remember(session.folders, "team", "loose", {"path": "/w.gguf"})
    assert session.lock().artifacts == {CODE.id: CODE}, "what is declared as well has to be locked where it is declared"
    assert session.forget(frozenset(["loose", "code"])) == {"loose"}
    assert lockfile.read(session.beside).artifacts == {}


def test_a_broken_lock_of_what_runs_undeclared_keeps_nobody_from_stopping_it(make):
    session = make()
    adhoc.remember(session.folders, "team", "loose", {"path": "/w.gguf"})
    session.beside.write_text("broken [")
    assert session.forget(frozenset(["loose"])) == {"loose"}


def test_looking_reads_templates_by_content(make):
    session = make(text='[profiles.code]\nmodel = "o/m"\nchat_template = "./t.jinja"\n')
    template = Path(session.declaration.folder / "t.jinja")
    (error,) = session.look(Scope()).world.templates.values()
    assert isinstance(error, LmctlError) and error.code == "E-FILE"
    template.write_text("x")
    first = dict(session.look(Scope()).world.templates)
    template.write_text("y")
    assert (first, session.look(Scope()).world.templates) == ({template: b"x"}, {template: b"y"})
    assert session.look(Scope(names=frozenset())).world.templates == {}


def test_only_of_what_is_missing_a_rest_is_asked_for(make):
    session, asked = make(), []
    wanted, file = session.declaration.profiles[0].artifacts[0], CODE.files[0]
    lockfile.write(session.declaration.folder / lockfile.COMMITTED, Lock({wanted.id: replace(CODE, id=wanted.id)}))
    session.host.store.received = lambda missing: asked.append(missing.file) or 7
    for signature in (SIGNATURE, None):
        session.host.store.locate = lambda *_, seen=signature: (Found(file, Path("/w"), Path("/w"), seen),)
        received = dict(session.look(Scope()).world.received)
        assert (asked, received) == (([], {}) if signature else ([file], {file.sha256: 7}))


def test_looking_writes_nothing(make, home):
    session = make()
    before = sorted(path for path in home.rglob("*"))
    session.look(Scope())
    assert [path for path in sorted(home.rglob("*")) if ".local" in path.parts] == [
        path for path in before if ".local" in path.parts
    ]


def test_keys_that_a_killed_run_left_half_written_go(make):
    session = make()
    left = session.state / "keys" / ".p-0123456789ab.999999999.tmp"
    left.parent.mkdir(parents=True)
    left.write_text("0123")
    session.tidy()
    assert not left.exists()


def test_a_port_at_which_a_stranger_listens_is_not_chosen(make):
    case = make().look(Scope())
    assert case.world.taken_ports == {28000: ""}
    assert addresses.listens(case) == {"code": "127.0.0.1:28001"}
