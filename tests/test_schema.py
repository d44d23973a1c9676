"""The schemas are as the models are, and what lmctl reads and writes is as the schemas say."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest

from lmctl import lockfile, plan
from lmctl.errors import LmctlError, Place, Problem
from lmctl.fit import Verdict
from lmctl.plan import Cause, Change, Plan
from lmctl.result import Result, envelope
from lmctl.schema import schemas
from lmctl.spec import Artifact, Lock, LockedFile

ROOT = Path(__file__).parent.parent
NAMES = sorted(schemas())


def schema(name):
    return json.loads(schemas()[f"{name}.schema.json"])


def kind_of(path):
    known = {"localmodels.toml": "localmodels", "localmodels.lock": "lock", "machine.toml": "machine"}
    return known.get(path.name, "profile")


DECLARED = [ROOT / "localmodels.toml", ROOT / "localmodels.lock", *sorted((ROOT / "profiles").glob("*.toml"))]
DECLARED += [path for kind in ("*.toml", "*.lock") for path in sorted((ROOT / "examples").rglob(kind))]
DECLARED = [path for path in DECLARED if path.exists() and path.name != "localmodels.local.toml"]


@pytest.mark.parametrize("name", NAMES)
def test_the_committed_schema_is_what_the_models_say(name):
    """When this fails: `lmctl schema --write schemas`."""
    assert (ROOT / "schemas" / name).read_text() == schemas()[name]


@pytest.mark.parametrize("name", NAMES)
def test_every_schema_is_one(name):
    jsonschema.Draft202012Validator.check_schema(json.loads(schemas()[name]))


@pytest.mark.parametrize("path", DECLARED, ids=lambda path: str(path.relative_to(ROOT)))
def test_profiles_and_examples_are_valid(path):
    jsonschema.validate(tomllib.loads(path.read_text()), schema(kind_of(path)))


@pytest.mark.parametrize("name", ["localmodels", "profile", "machine"])
def test_every_key_has_a_description_for_editors(name):
    whole = schema(name)
    for table in (whole, *whole.get("$defs", {}).values()):
        assert table["additionalProperties"] is False
        assert all("description" in key for key in table["properties"].values())


CASES = tomllib.loads((ROOT / "tests/cases/refused_config.toml").read_text())["case"]
BY_SHAPE = [
    case for case in CASES if case["code"] in {"E-TYPE", "E-KEY"} and case["id"][:3] in {"I16", "I25", "I26", "I68"}
]


@pytest.mark.parametrize("case", BY_SHAPE, ids=[case["id"] for case in BY_SHAPE])
def test_an_editor_sees_what_lmctl_refuses(case):
    if "another-backend" in case["id"]:
        return  # which keys go together is beyond a schema
    text = case.get("text", 'version = 1\nname = "team"\n[profiles.x]\nmodel = "o/m"\n' + case.get("keys", ""))
    tree = json.loads(json.dumps(tomllib.loads(text), default=lambda date: {"date": str(date)}))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tree, schema("localmodels"))


def test_the_lock_that_is_written():
    big = LockedFile("x.gguf", "weights", 10, "a" * 64)
    small = LockedFile("config.json", "config", 5, "b" * 64, "c" * 40)
    shape = {"architecture": "qwen2", "block_count": 64, "head_count_kv": [1, 2], "scale": 0.5, "tied": True}
    hub, local = (
        Artifact("o/m@main:Q4", "gguf", "d" * 40, shape, (big, small)),
        Artifact("path=x", "local", None, {}, (big,)),
    )
    text = lockfile.render(Lock({artifact.id: artifact for artifact in (hub, local)}))
    jsonschema.validate(tomllib.loads(text), schema("lock"))
    jsonschema.validate(tomllib.loads(lockfile.render(Lock())), schema("lock"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(tomllib.loads(text.replace("d" * 40, "main")), schema("lock"))


def test_the_plan_and_the_envelope_that_are_written():
    changes = (
        Change("lock", "create", "lock:x", (Cause("revision", None, "main"),), download=None),
        Change(
            "prune",
            "delete",
            "weights:y",
            (Cause("ctx", 1, [2, {"a": None}]),),
            free=3,
            destroys=True,
            needs=("lock:x",),
        ),
    )
    made = plan.to_json(Plan("team", "f" * 64, changes, Verdict(None, 1, (2,), {"x": 3}, 3)))
    jsonschema.validate(json.loads(json.dumps(made)), schema("plan"))
    error = Problem("E-HASH", "wrong", "fetch it again", Place("profiles/x.toml", 4, 1), "weights:y")
    for result in (Result(made), Result(warnings=(Problem("W-STALE", "old"),)), Result.failed(LmctlError.of([error]))):
        jsonschema.validate(json.loads(json.dumps(envelope("plan", result))), schema("result"))
