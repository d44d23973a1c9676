"""The JSON Schemas of every file and output, made of the models; schemas/ in the repository holds them for editors."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from lmctl.config.file_models import MachineFile, MainFile
from lmctl.config.models import ProfileFile
from lmctl.schema_accounts import CleanupFile, UsageFile
from lmctl.schema_models import DriftFile, HistoryFile, LockFile, PlanFile, ResultEnvelope

MODELS: dict[str, type[BaseModel]] = {
    "localmodels": MainFile,
    "profile": ProfileFile,
    "machine": MachineFile,
    "lock": LockFile,
    "plan": PlanFile,
    "drift": DriftFile,
    "history": HistoryFile,
    "usage": UsageFile,
    "cleanup": CleanupFile,
    "result": ResultEnvelope,
}


def schemas() -> dict[str, str]:
    """Return the JSON text of every schema by the name of its file, such as `plan.schema.json`."""
    return {f"{name}.schema.json": _text(model) for name, model in MODELS.items()}


def _text(model: type[BaseModel]) -> str:
    made = model.model_json_schema(by_alias=True)
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **_cleaned(made)}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _cleaned(node: Any) -> Any:
    """Drop what says nothing: titles that repeat the key, defaults of null, which mean absent."""
    if isinstance(node, list):
        return [_cleaned(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {}
    for key, value in node.items():
        empty = key == "default" and value is None
        if not empty and not (key == "title" and isinstance(value, str) and not value.startswith("lmctl ")):
            kept[key] = _cleaned(value)
    return kept
