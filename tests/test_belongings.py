"""What lmctl writes into its state folder is told from what somebody else put there."""

from __future__ import annotations

import pytest

from lmctl import belongings
from lmctl.paths import Folders

OURS = (
    *("lock", "apply.lock", "ledger.db", "ledger.db-wal", "ledger.db.corrupt-17", "ledger.db.schema-1", "trust.json"),
    *(
        "supervisord.conf",
        "supervisord.conf.edited",
        "supervisord.conf.edited.4",
        "supervisord.log.1",
        "supervisord.pid",
        "supervisord.lock",
    ),
    *("launch", "service", "s.sock", "lmctl.log", "lmctl.log.1", "undeclared.json", "undeclared.lock", ".x.17.tmp"),
    *("programs/p-0123456789ab.json", "programs/.p.json.17.tmp", "logs/p-0123456789ab.log.2", "starts/p-0123456789ab"),
    *("g.sock", "gateway.lock", "watch.lock", "watch.json", "usage.db", "usage.db.corrupt-17", "usage.db-wal"),
    *("programs/gateway.json", "logs/watch.log", "keys/p-0123456789ab", "keys/.p-0123456789ab.17.tmp"),
    *("snapshots/17/profiles/a b.toml", "snapshots/.17/x", "declaration/localmodels.lock", "snapshots/3", "logs"),
)
THEIRS = (
    "notes",
    "programs/x.json",
    "keys/mine",
    "logs/mine.log",
    "snapshots/x",
    "lock/x",
    "snapshots/0/x",
    "mine/ledger.db",
    "LOCK",
)


@pytest.mark.parametrize("path", OURS)
def test_what_lmctl_writes_is_its_own(path):
    assert belongings.ours(path)


@pytest.mark.parametrize("path", THEIRS)
def test_everything_else_is_not(path):
    assert not belongings.ours(path)


@pytest.mark.parametrize(
    ("name", "files", "is_state"),
    [
        ("team", ["ledger.db"], True),
        ("team", ["trust.json", "notes"], True),
        ("team", ["lock"], True),
        ("team", ["lock", "notes"], False),
        ("team", ["notes"], False),
        ("team", [], False),
        (".team", ["ledger.db"], False),
        ("a b", ["ledger.db"], False),
        ("declarations", ["ledger.db"], False),
    ],
)
def test_a_folder_is_a_declarations_by_its_name_and_its_files(home, name, files, is_state):
    folder = Folders.of({}, home).state / name
    folder.mkdir(parents=True)
    for file in files:
        (folder / file).touch()
    assert belongings.is_state(folder) is is_state
