"""A gateway that listens is asked all that its OpenAPI document says, and all that it does not say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.config import SchemathesisConfig
from standing import Asked, standing

from lmctl.gateway.bodies import checked, parsed
from lmctl.gateway.openapi import document
from lmctl.gateway.paths import ENDPOINTS

ENGINES = {one.upstream: one for one in ENDPOINTS if one.upstream}
CONFIG = SchemathesisConfig.from_dict(
    {"generation": {"deterministic": True}, "phases": {"coverage": {"enabled": False}, "examples": {"enabled": False}}}
)
SCHEMA = schemathesis.openapi.from_dict(document("0"), config=CONFIG)
FEW = settings(
    max_examples=10,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def gateway() -> Iterator[tuple[str, list[Asked], requests.Session]]:
    with standing() as (base, asked), requests.Session() as session:
        session.trust_env = False
        yield base, asked, session


def written(value: Any) -> Any:
    """Return a body as clients write it: 1.0 is a whole number to a schema, and none to the gateway."""
    if isinstance(value, dict):
        return {name: written(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [written(inner) for inner in value]
    return int(value) if isinstance(value, float) and abs(value) < 2**53 and value.is_integer() else value


@SCHEMA.parametrize()
@FEW
def test_every_answer_is_one_that_the_document_knows(case, gateway):
    base, asked, session = gateway
    before = len(asked)
    case.body = written(case.body)
    if isinstance(case.body, dict) and case.meta.generation.mode.is_positive:
        if isinstance(case.body.get("model"), str):
            case.body["model"] = "chat"  # otherwise nearly all of them would be asked for what there is not
        if case.body.get("raw"):  # which does not go with these: no schema says so
            for name in ("system", "images", "format"):
                case.body.pop(name, None)
    case.call_and_validate(base_url=base, session=session)
    for path, body in asked[before:]:
        told = parsed(body)
        assert told.pop("model") == "served"
        passed = json.loads(json.dumps(told))
        checked(passed, ENGINES[path])
        assert passed == told
