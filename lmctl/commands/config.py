"""`lmctl config`: the configuration as it is on this machine, and where each value comes from."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from lmctl.command import Context
from lmctl.config import loading
from lmctl.config.find import Request
from lmctl.errors import LmctlError, escape
from lmctl.result import Result
from lmctl.spec import Json
from lmctl.text import Style, table

if TYPE_CHECKING:
    from lmctl.config.explain import Said
    from lmctl.config.resolution import Resolved

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--explain", metavar="KEY", help="say where a value comes from, e.g. profiles.code.ctx")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Return the resolved configuration, or the history of one key.

    Raises the configuration's problems; E-KEY and E-REF for a key or a profile that is none.
    """
    from lmctl.config import explain  # pydantic: this command asks the models

    options = context.options
    request = Request(options.directory, options.config, options.sets, options.elsewhere, empty=True)
    resolved = loading.resolve(request, context.folders, context.environ, context.hardware())
    if args.explain is not None:
        return _explained({key: explain.explain(resolved, key) for key in explain.keys(resolved, _key(args.explain))})
    tree = explain.everything(resolved)
    data: dict[str, Json] = {
        "file": str(resolved.declaration.file),
        "config": tree,
        "inert": list(resolved.declaration.inert),
    }
    return Result(data, lambda style: _text(resolved, tree, style), resolved.declaration.warnings)


def _key(text: str) -> tuple[str, ...]:
    from lmctl.config.positions import Broken, parse_key  # tomllib

    try:
        return parse_key(text)
    except (Broken, ValueError) as error:
        raise LmctlError("E-KEY", f"'{escape(text, 80)}' is no key", fix="write it like profiles.code.ctx") from error


def _explained(said: Mapping[tuple[str, ...], tuple[Said, ...]]) -> Result:
    """Show the history of each key, the winner first."""
    rows, entries = [["KEY", "VALUE", "FROM", ""]], list[Json]()
    for key, history in said.items():
        shown = ".".join(_quoted(part) for part in key)
        for one in reversed(history):
            place = str(one.place) if one.place else "default"
            rows.append([shown, _value(one.value), place, one.why])
            entries.append({"key": shown, "value": one.value, "place": place, "why": one.why})
    nothing = "nothing declares it, and it has no default\n"
    return Result({"said": entries}, lambda style: table(rows, style) if entries else nothing)


def _text(resolved: Resolved, tree: dict[str, Any], style: Style) -> str:
    """Return the tree as TOML, with the file that declares each profile and a note on what has no effect yet."""
    lines = [style.dim(f"# {escape(str(resolved.declaration.file))}"), f"name = {_value(tree['name'])}"]
    for name, table_ in ((name, held) for name, held in tree.items() if isinstance(held, dict)):
        nested = name in {"profiles", "groups", "cloud", "engines"}
        for header, keys in ((f"{name}.{_quoted(k)}", v) for k, v in table_.items()) if nested else [(name, table_)]:
            lines += ["", style.bold(f"[{header}]"), *_keys(keys)]
    if resolved.declaration.inert:
        lines += ["", style.dim(f"# no effect yet: {', '.join(resolved.declaration.inert)}")]
    return "\n".join(lines) + "\n"


def _keys(keys: dict[str, Any]) -> Iterator[str]:
    for key, value in keys.items():
        yield f"{_quoted(key)} = {_value(value)}"


def _quoted(key: str) -> str:
    return key if _BARE.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_quoted(key)} = {_value(held)}" for key, held in value.items()) + " }"
    if isinstance(value, list):
        return f"[{', '.join(_value(item) for item in value)}]"
    return json.dumps(value, ensure_ascii=False)
