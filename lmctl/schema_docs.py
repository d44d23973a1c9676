"""The reference of every key and code as Markdown, made of the models: `lmctl schema --markdown` prints it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from lmctl.all_backends import BACKENDS
from lmctl.code_docs import CODES, EXITS
from lmctl.config import inert
from lmctl.config.kinds import BACKEND_NAMES
from lmctl.config.models import ProfileKeys
from lmctl.errors import EXIT_CODES
from lmctl.schema import schemas

Node = dict[str, Any]

_HEAD = """\
# Reference

Made by `lmctl schema --markdown` from the models that judge the files; do not edit. Editors get the same from
[schemas/](../schemas) by the first line of a file: `#:schema ./schemas/localmodels.schema.json`.

*bytes* is an integer or text such as `"12 GiB"` (KiB … TiB, kB … TB); a *duration* is text such as `"250ms"`,
`"90s"`, `"15m"`, `"2h"`, `"7d"`, above 0 and at most 365 days; a *name* is `[A-Za-z0-9][A-Za-z0-9._-]{0,62}`, unique
ignoring case. An unknown key is an error. **Not yet** marks what is judged and kept and has no effect in this
version; `lmctl plan` says so in one line.

## Files and layers

| file | holds |
| --- | --- |
| `localmodels.toml` | committed: the tables of this page but those of `machine.toml`. Found with `--config`, \
`LMCTL_CONFIG` or `-C`, else from the current folder upwards, else in `~/.config/lmctl/` |
| `profiles/*.toml`, or what `include` names | committed: one profile each, its keys at top level, `[[when]]` beside \
them; the file's stem is the profile's name |
| `localmodels.local.toml` | git-ignored, beside the first: the same tables for this machine alone |
| `LMCTL_<TABLE>__<KEY>` | environment, e.g. `LMCTL_DEFAULTS__CTX=4096`; a TOML value, else text |
| `--set KEY=VALUE` | command line, e.g. `--set profiles.code.ctx=4096` |
| `machine.toml` in `~/.config/lmctl/` | what a committed file must never decide; no other layer may set its keys |
| `localmodels.lock`, `localmodels.local.lock` | written by `lmctl lock`: committed; git-ignored, for what only the \
local layers ask for |

A profile's value comes from the last of these that says something: the built-in default; `[defaults]`; the profile in
the committed files; its `[[when]]` blocks that hold here, in their order; the profile in `localmodels.local.toml`; the
environment; `--set`. The last three may speak of `[defaults]` too. Tables merge, arrays replace.
`lmctl config --explain profiles.code.ctx` names the file and line that won. `$XDG_CONFIG_HOME`, `$XDG_STATE_HOME` and
`$XDG_CACHE_HOME` are respected, on macOS too.
"""
_WORDS = {  # how a pattern of the schema is called
    r"^\d+(\.\d+)?(ms|s|m|h|d)$": "duration",
    r"^(>=|<=|==|>|<) ?\d": "comparison",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$": "name",
    "^[^/]+/[^/]+$": "`owner/name`",
    r"^\d{4,5}-\d{4,5}$": 'range such as `"28000-28999"`',
    "^[A-Z_][A-Z0-9_]*$": "name of a variable",
}
_HUGE = 2**31 - 1
_TITLES = {"gateway": "`[gateway]`", "groups": "`[groups.X]`", "cloud": "`[cloud.X]`", "engines": '`[engines."X"]`'}


def markdown() -> str:
    """Return docs/reference.md."""
    main, machine = (json.loads(schemas()[f"{name}.schema.json"]) for name in ("localmodels", "machine"))
    parts = [_HEAD, *_profile(main), *_tables(main), *_machine(machine), _codes()]
    return "\n".join(parts)


def _profile(main: Node) -> Iterator[str]:
    tables = main["$defs"]
    yield "## Top of `localmodels.toml`\n"
    plain = {key: node for key, node in main["properties"].items() if key in ("version", "name", "include")}
    yield _table(plain, main["required"])
    names = ", ".join(f"`{name}`" for name in BACKENDS)
    later = ", ".join(f"`{name}`" for name in BACKEND_NAMES if name not in BACKENDS)
    yield "## Profile: `[profiles.X]`, or the top level of `profiles/X.toml`\n"
    yield f"Backends: {names}. Not yet: {later}.\n"
    yield "Declaring a key for a backend that the table does not name for it is an error. Keys with a `•` may stand in"
    yield "`[defaults]` too; there they are skipped for backends that lack them.\n"
    yield "| key | | type | default | backends | meaning |\n| --- | --- | --- | --- | --- | --- |"
    for key, node in tables["Profile"]["properties"].items():
        mark = "•" if key in ProfileKeys.model_fields else ""
        row = (f"`{key}`", mark, _kind(node), _default(node), _backends(key), _meaning(key, node))
        yield f"| {' | '.join(row)} |"
    yield "\nExactly one of `model`, `path` and `source`; `quant` and `file` exclude each other. Two profiles may share"
    yield 'a port when at most one of them has `start = "always"`; they then take turns.\n'
    yield "### `[[profiles.X.when]]`\n"
    yield "All conditions of a block must hold; a list means any of its entries. Beside them stand keys of a profile.\n"
    own = tables["Profile"]["properties"].keys()
    yield _table({key: node for key, node in tables["When"]["properties"].items() if key not in own})
    for key, name in (
        ("sampling", "Sampling"),
        ("lora", "LoraEntry"),
        ("draft", "DraftTable"),
        ("convert", "ConvertTable"),
    ):
        yield f"### `{key}`\n"
        properties = tables[name]["properties"]
        yield _table(properties, later=properties if key in inert.KEYS else ())


def _tables(main: Node) -> Iterator[str]:
    for key, node in main["properties"].items():
        name = _reference(node)
        if name and name not in ("Defaults", "Profile"):
            later = " **Not yet.**" if key in inert.NAMED else ""
            yield f"## {_TITLES.get(key, f'`[{key}]`')}\n\n{_sentence(node['description'])}{later}\n"
            yield _table(main["$defs"][name]["properties"], main["$defs"][name].get("required", ()))


def _machine(machine: Node) -> Iterator[str]:
    yield "## `machine.toml`\n"
    rows: Node = {}
    for key, node in machine["properties"].items():
        name = _reference(node)
        inner = f"{key}.<backend>" if key == "engines" else key
        rows |= {inner: node} if name is None else _under(inner, node, machine["$defs"][name]["properties"])
    yield _table(rows)
    yield "`allow` names what a declaration may do on this machine, by the declaration's name:"
    yield '`allow = { team = ["command", "env", "flags", "remote_code", "cloud"] }`. It allows all of that kind,'
    yield "now and later; `lmctl trust` allows the fields as they are now.\n"


def _under(key: str, table: Node, properties: Node) -> Node:
    """Return the keys of a table with their full names, each described with what the table is about."""
    about = table["description"]
    return {
        f"{key}.{name}": node | {"description": f"{about}: {node['description']}"} for name, node in properties.items()
    }


def _codes() -> str:
    lines = ["## Exit codes and error codes\n", "| exit | means | codes |", "| --- | --- | --- |"]
    for number, means in EXITS.items():
        codes = ", ".join(f"`{code}`" for code, found in EXIT_CODES.items() if found == number)
        lines.append(f"| {number} | {means} | {codes} |")
    lines += ["", "| code | means |", "| --- | --- |"]
    lines += [f"| `{code}` | {means} |" for code, means in CODES.items()]
    return "\n".join(lines) + "\n"


def _table(properties: Node, required: Iterable[str] = (), later: Collection[str] = ()) -> str:
    lines = ["| key | type | default | meaning |", "| --- | --- | --- | --- |"]
    for key, node in properties.items():
        default = "required" if key in required else _default(node)
        mark = " **Not yet.**" if key in later else ""
        lines.append(f"| `{key}` | {_kind(node)} | {default} | {_sentence(node['description'])}{mark} |")
    return "\n".join(lines) + "\n"


def _meaning(key: str, node: Node) -> str:
    return _sentence(node["description"]) + (" **Not yet.**" if key in inert.KEYS or not _backends(key) else "")


def _backends(key: str) -> str:
    having = [name for name, backend in BACKENDS.items() if key in backend.KEYS or key in ("when",)]
    return "all" if len(having) == len(BACKENDS) else ", ".join(having)


def _sentence(text: str) -> str:
    """Return a description as a sentence in a cell; one that begins with a key or `owner/name` keeps its case."""
    first = text.partition(" ")[0]
    start = text[0].upper() + text[1:] if first.isalpha() else text
    return start.replace("|", "\\|").rstrip(".") + "."


def _default(node: Node) -> str:
    return f"`{json.dumps(node['default'])}`" if node.get("default") is not None else ""


def _reference(node: Node) -> str | None:
    """Return the table that a key holds, or holds by name."""
    held = [node, *node.get("patternProperties", {}).values(), node.get("additionalProperties")]
    found = (one["$ref"].rpartition("/")[2] for one in held if isinstance(one, dict) and "$ref" in one)
    return next(found, None)


def _kind(node: Node) -> str:
    """Return a schema's type as people call it."""
    if "const" in node:
        return f"`{json.dumps(node['const'])}`"
    if "enum" in node:
        return " ".join(f"`{json.dumps(value)}`" for value in node["enum"])
    if "anyOf" in node:
        return _either(node["anyOf"])
    if "$ref" in node:
        return "table"
    kind = node.get("type")
    if kind == "array":
        return f"list of {_many(node['items'])}" if "$ref" not in node["items"] else "list of tables"
    if kind == "object":
        values = next(iter(node.get("patternProperties", {}).values()), node.get("additionalProperties"))
        return "table" if not isinstance(values, dict) or "$ref" in values else f"table of {_many(values)}"
    if kind in ("integer", "number"):
        return _number(node, str(kind))
    return {"boolean": "boolean"}.get(str(kind), _WORDS.get(node.get("pattern", ""), "text"))


def _many(node: Node) -> str:
    kind = _kind(node)
    return "names" if kind == "name" else kind


def _either(nodes: list[Node]) -> str:
    if any("iB" in node.get("pattern", "") for node in nodes):
        return "bytes"
    if nodes[-1].get("type") == "array":
        return f"{_kind(nodes[0])}, or a list"
    return ", ".join(_kind(node) for node in nodes)


def _number(node: Node, kind: str) -> str:
    low, high = node.get("minimum"), node.get("maximum")
    if high is None or (kind == "integer" and high >= _HUGE):
        return f"{kind}, {low} or more"
    return f"{kind}, {low} to {high}"
