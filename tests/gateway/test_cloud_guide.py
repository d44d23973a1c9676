"""The guide of clouds says what the router does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from declarations import PRELUDE, Place

from lmctl.front import Router
from lmctl.gateway import router
from lmctl.gateway.cloud_fields import FIELDS
from lmctl.gateway.features import _BYTES_PER_TOKEN

GUIDE = (Path(__file__).parents[2] / "docs/cloud.md").read_text()


def test_the_table_of_weights_is_the_routers():
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| (\d+) \| (.+) \|$", GUIDE, re.MULTILINE)
    known = [(one.feature, f"{one.weight:.2f}", str(one.full), one.means) for one in router.WEIGHTS]
    assert rows == known


def test_the_numbers_and_headers_that_it_names_are_those():
    assert f"`threshold` ({Router().threshold})" in GUIDE
    assert _BYTES_PER_TOKEN == 4 and "four bytes of text each" in GUIDE
    for header in (router.TASK, router.COMPLEXITY):
        assert header.decode() in GUIDE.lower()
    assert set(FIELDS) == {"chat", "completions", "responses", "embeddings"}


def test_its_declaration_is_one(tmp_path, home):
    text = re.search(r"```toml\n(.*?)```", GUIDE, re.DOTALL)
    assert text and tomllib.loads(text[1])["name"] == "team" and text[1].startswith(PRELUDE)
    place = Place(tmp_path, home)
    place.write("localmodels.toml", text[1])
    place.machine('[allow]\nteam = ["cloud"]\n')
    found = place.load()
    assert [cloud.name for cloud in found.clouds] == ["big"]
    table = router.table(found)
    assert table is not None and (table.cloud, dict(table.tasks)) == ("big", {"classification": "chat"})
