"""What a command refuses, in one line that says what to do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from e2e_tools import error, humbly


@pytest.mark.parametrize(
    ("config", "said"),
    [
        pytest.param("missing.toml", "E-FILE", id="I73-missing"),
        pytest.param(".", "E-FILE", id="I73-folder"),
        pytest.param("pipe", "E-FILE", id="I73-fifo"),
    ],
)
def test_a_configuration_that_is_no_file_is_refused(declared, config, said):
    os.mkfifo(declared.folder / "pipe")
    assert f"error[{said}]" in error(declared.run("--config", config, "plan", code=65))


def test_I73_a_configuration_that_may_not_be_read_is_refused(declared):
    (declared.folder / "localmodels.toml").chmod(0)
    ran = humbly(declared, "plan")
    assert ran.code == 8
    assert "error[E-PERM]" in error(ran) and "may not be read" in error(ran)


def test_a_command_about_a_profile_lists_them_where_none_is_named(declared):
    for command in ("stop", "restart", "logs"):
        ran = declared.run(command, code=64)
        assert error(ran) == "error[E-USAGE]: no profile is named — name one of: hello"


@pytest.mark.parametrize("command", [("logs", "hello"), ("logs", "hello", "--json")], ids=["text", "json"])
def test_the_log_of_a_profile_that_never_ran_is_none(declared, command):
    ran = declared.run(*command)
    assert ran.err == "hello has not run here yet, so it has no log (`lmctl start hello` starts it)\n"
    assert ran.out == "" if len(command) == 2 else ran.data == {"profile": "hello", "lines": []}


def test_I76_prune_with_nothing_declared_removes_nothing_even_when_told_yes(declared):
    weights = _owned_blob(declared)
    declared.declare("")
    ran = declared.run("prune", "--yes", "--now", code=4)
    assert "error[E-PRUNE]: nothing is declared, so everything would be removed" in error(ran)
    listed = declared.run("prune", "--dry-run").out
    assert "keep" in listed and "nothing is declared" in listed
    assert weights.exists()


def _owned_blob(machine) -> Path:
    """Write a blob that the ledger says lmctl brought, and nothing refers to."""
    from lmctl.ledger import Ledger, Owned
    from lmctl.spec import Signature

    blob = machine.home / ".cache/huggingface/hub/models--o--m/blobs" / ("a" * 64)
    blob.parent.mkdir(parents=True)
    blob.write_bytes(b"weights")
    status = blob.stat()
    signature = Signature(status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev)
    with Ledger(machine.state() / "ledger.db").writing(1.0) as ledger:
        ledger.own([Owned(str(blob), "blob", "o/m@main:Q4_K_M", signature, "a" * 64, 1.0, 1.0)])
    return blob


@pytest.mark.parametrize("command", ["status", "start", "plan", "logs"])
def test_I77_a_name_that_is_no_text_is_shown_escaped(declared, command):
    line = error(declared.run(command, "\udcff\x1b[31m", code=65))
    assert line.startswith("error[E-NAME]: '\\udcff\\x1b[31m' cannot be the name")


def test_I77_a_new_profile_whose_name_is_no_text_is_refused(declared):
    before = (declared.folder / "localmodels.toml").read_bytes()
    ran = declared.run("profile", "add", "\udcff", "path=hello.gguf", "--json", code=65)
    assert ran.json["errors"][0]["code"] == "E-NAME"
    assert (declared.folder / "localmodels.toml").read_bytes() == before


def test_I79_a_command_that_nobody_trusted_is_refused_with_the_line_that_would(declared):
    canary = declared.folder / "ran"
    file = declared.declare(f'[profiles.own]\ncommand = ["touch", "{canary}"]\nbackend = "command"\n')
    for command in ("apply", "plan", "status", "validate"):
        ran = declared.run(command, code=4)
        assert error(ran).startswith("error[E-TRUST]: localmodels.toml:4:1: command runs a program")
        assert f" — read it, then run `lmctl trust {file}`, or allow it" in error(ran)
    assert not canary.exists()
    assert not declared.state().exists()
