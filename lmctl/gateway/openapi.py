"""The gateway's OpenAPI document, made of the tables of its paths and fields. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lmctl.gateway.contents import COMPONENTS
from lmctl.gateway.fields import FIELDS, OPTIONS, REQUIRED
from lmctl.gateway.openapi_answers import ANSWERS, ERRORS, EVENTS, SCHEMAS
from lmctl.gateway.paths import ENDPOINTS, MODEL, Endpoint
from lmctl.gateway.rules import Rule
from lmctl.spec import Json

_REFUSALS = {
    "400": "A header, the body or a field of it is not allowed; or the engine says so.",
    "401": "A key is missing, or it is not one of this gateway's.",
    "403": "The Host or the Origin is not allowed.",
    "405": "The path is served with another method.",
    "431": "The headers are too large.",
}
_OF_BODIES = {
    "404": "No model is called so, or its engine does not do this.",
    "408": "The body stalled.",
    "413": "The body is larger than `max_body`.",
    "415": "The body is not sent as application/json.",
    "429": "More requests wait for the model than `max_queue`.",
}
_OF_ENGINES = {
    "500": "The engine's own error.",
    "501": "The engine does not do this: what it needs is not declared.",
    "502": "The engine failed, or answered what is no answer.",
    "503": "The model does not run; Retry-After says when to come again.",
    "504": "The engine did not answer within `request_timeout`.",
}
_KEYS: dict[str, Json] = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


def document(version: str) -> dict[str, Json]:
    """Return the document; `version` is lmctl's."""
    shared = _shared()
    paths: dict[str, dict[str, Json]] = {}
    for endpoint in (*ENDPOINTS, MODEL):
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, shared)
    about = "One address for every profile. Fields that are not described here, or null, go no further."
    return {
        "openapi": "3.1.0",
        "info": {"title": "lmctl gateway", "version": version, "description": about},
        "servers": [{"url": "http://127.0.0.1:8080"}],
        "security": [{}, {"bearer": []}, {"x-api-key": []}],
        "paths": {path: dict(methods) for path, methods in paths.items()},
        "components": {
            "securitySchemes": _KEYS,
            "schemas": {**COMPONENTS, **SCHEMAS, **shared},
            "responses": _responses(),
        },
    }


def _shared() -> dict[str, Json]:
    """Return the fields that several endpoints have, as components by their own names: where two differ, the first."""
    seen: set[str] = set()
    made: dict[str, Json] = {}
    for name, rule in [pair for fields in (*FIELDS.values(), OPTIONS) for pair in fields.items()]:
        if name in seen and _field(rule).get("type") != "null":
            made.setdefault(name, _field(rule))
        seen.add(name)
    return made


def _operation(endpoint: Endpoint, shared: Mapping[str, Json]) -> Json:
    made: dict[str, Json] = {"operationId": endpoint.name, "tags": [endpoint.dialect]}
    if endpoint is MODEL:
        made["parameters"] = [_NAME]
    if endpoint.body:
        content: Json = {"application/json": {"schema": _body(endpoint, shared)}}
        made["requestBody"] = {"required": True, "content": content}
    return {**made, "responses": {"200": _answered(endpoint), **_refused(endpoint)}}


_NAME: Json = {
    "name": "name",
    "in": "path",
    "required": True,
    "description": "A profile, an alias or the id of a model, which may hold slashes.",
    "schema": {"type": "string", "pattern": "^[A-Za-z0-9_@+:-][A-Za-z0-9._@+:-]{0,127}$"},
}


def _body(endpoint: Endpoint, shared: Mapping[str, Json]) -> Json:
    required = REQUIRED.get(endpoint.name, ())
    made = _fields(FIELDS[endpoint.name], shared, required)
    properties = made["properties"]
    if isinstance(properties, dict) and "options" in properties and endpoint.dialect == "ollama":
        properties["options"] = {**_fields(OPTIONS, shared), "type": ["object", "null"]}
    return {**made, "required": [*required]} if required else made


def _fields(rules: Mapping[str, Rule], shared: Mapping[str, Json], required: Sequence[str] = ()) -> dict[str, Json]:
    """Return the schema of an object; fields that are refused for the same reason are told together."""
    fields: dict[str, Json] = {}
    refused: dict[str, list[str]] = {}
    for name, rule in rules.items():
        schema = dict(rule.schema) if name in required else _field(rule)
        if schema.get("type") == "null":
            refused.setdefault(str(schema["description"]), []).append(name)
        else:
            fields[name] = {"$ref": f"#/components/schemas/{name}"} if shared.get(name) == schema else schema
    patterns: dict[str, Json] = {
        f"^(?:{'|'.join(names)})$": {"type": "null", "description": why} for why, names in refused.items()
    }
    return {"type": "object", "properties": fields, **({"patternProperties": patterns} if patterns else {})}


def _field(rule: Rule) -> dict[str, Json]:
    """Return what a field may hold: null is as good as no field."""
    schema = dict(rule.schema)
    if isinstance(schema.get("type"), str) and schema["type"] != "null":
        return {**schema, "type": [schema["type"], "null"]}
    if isinstance(among := schema.get("anyOf"), list):
        return {**schema, "anyOf": [*among, {"type": "null"}]}
    return schema


def _answered(endpoint: Endpoint) -> Json:
    kind, schema = ANSWERS.get(endpoint.name, ("application/json", {"type": "object"}))
    content: dict[str, Json] = {kind: {"schema": schema}}
    if endpoint.stream:
        content[EVENTS[endpoint.dialect]] = {}  # what one event or line holds is the dialect's
    told = "The engine's answer, as it comes." if endpoint.upstream else "The answer."
    return {"description": told, "content": content}


def _responses() -> dict[str, Json]:
    """Return every refusal in every dialect, by names like `Error-400`."""
    made: dict[str, Json] = {}
    for schema in ERRORS.values():
        content: Json = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
        for status, why in sorted({**_REFUSALS, **_OF_BODIES, **_OF_ENGINES}.items()):
            made[f"{schema}-{status}"] = {"description": why, "content": content}
    return made


def _refused(endpoint: Endpoint) -> dict[str, Json]:
    statuses = [*_REFUSALS]
    if endpoint.body:
        statuses += [*_OF_BODIES, *_OF_ENGINES]
    elif endpoint is MODEL:
        statuses.append("404")
    name = ERRORS[endpoint.dialect]
    return {status: {"$ref": f"#/components/responses/{name}-{status}"} for status in sorted(statuses)}
