"""The reference in docs/ is what the models say, and leaves nothing out."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lmctl.all_backends import BACKENDS
from lmctl.code_docs import CODES, EXITS
from lmctl.config import inert
from lmctl.errors import EXIT_CODES, WARNINGS
from lmctl.schema import schemas
from lmctl.schema_docs import markdown

ROOT = Path(__file__).parent.parent
PAGE = markdown()


def test_the_committed_page_is_what_the_models_say():
    """When this fails: `lmctl schema --markdown > docs/reference.md`."""
    assert (ROOT / "docs/reference.md").read_text() == PAGE


@pytest.mark.parametrize("name", ["localmodels", "profile", "machine"])
def test_every_key_has_a_row(name):
    whole = json.loads(schemas()[f"{name}.schema.json"])
    keys = {key for table in whole["$defs"].values() for key in table["properties"]}
    assert not [key for key in keys if not re.search(rf"^\| `([a-z.<>]+\.)?{key}` \|", PAGE, re.MULTILINE)]


def test_every_code_and_exit_code_is_explained():
    assert CODES.keys() == EXIT_CODES.keys() | WARNINGS
    assert EXITS.keys() >= set(EXIT_CODES.values())
    assert all(f"| `{code}` | {means} |" in PAGE for code, means in CODES.items())


@pytest.mark.parametrize("key", sorted({"dtype", *inert.KEYS}))
def test_what_has_no_effect_yet_says_so(key):
    row = next(line for line in PAGE.splitlines() if line.startswith(f"| `{key}` |"))
    assert row.endswith("**Not yet.** |")


def test_the_backends_of_a_key_are_those_that_take_it():
    row = next(line for line in PAGE.splitlines() if line.startswith("| `gpu_layers` |"))
    having = [name for name, backend in BACKENDS.items() if "gpu_layers" in backend.KEYS]
    assert f"| {', '.join(having)} |" in row


def test_rows_have_the_cells_of_their_table():
    cells = 0
    for line in PAGE.splitlines():
        if not line.startswith("|"):
            cells = 0
            continue
        found = len(re.findall(r"(?<!\\)\|", line))
        assert cells in (0, found), line
        cells = found


def test_the_page_is_printed_alone():
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "lmctl", "schema", *words], capture_output=True, text=True)

    assert run("--markdown").stdout == PAGE
    refused = run("plan", "--markdown")
    assert (refused.returncode, refused.stdout) == (64, "")
    assert refused.stderr.startswith("error[E-USAGE]")
