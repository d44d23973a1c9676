"""Edits of a declaration that leave comments, order and style as they are; judged before anything is written."""

from __future__ import annotations

import difflib
import os
import stat
import tomllib
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import InlineTable

from lmctl.config.compose import table
from lmctl.config.find import matches
from lmctl.config.layers import Inputs, Layer, assignment, value_of
from lmctl.config.make import names_file
from lmctl.config.names import name as check_name
from lmctl.errors import LmctlError, escape
from lmctl.paths import disk_error, write_atomic
from lmctl.record import record

Keys = Mapping[tuple[str, ...], Any]


@record
class Edit:
    """New content of one file of the declaration; None: the file goes."""

    path: Path
    content: bytes | None


def assignments(texts: Sequence[str]) -> Keys:
    """Return the keys and values of KEY=VALUE texts, as `--set` reads them. Raises E-USAGE, E-KEY and E-LIMIT."""
    keys: dict[tuple[str, ...], Any] = {}
    for text in texts:
        path, value = assignment(text)
        keys[path] = value_of(value, escape(".".join(path), 80))
    return keys


def located(inputs: Inputs, name: str, keys: Keys, typed_in: Path, home: Path) -> Keys:
    """Return the keys with their paths as the file that declares, or will declare, the profile has to say them.

    What is typed starts in the folder `typed_in` where that lies in the declaration's, else in the declaration's.
    Whether a path may lead where it leads is judged later, with everything else.
    """
    layer = _layer_of(inputs, name)
    file = place(inputs, name) if layer is None else _path(inputs, layer)
    here = Path(os.path.realpath(typed_in))
    start = here if here.is_relative_to(inputs.folder) else inputs.folder
    declared = table(layer.tree, "profiles", name) if layer is not None else {}
    of_hub = keys.get(("model",)) is not None or ("model" in declared and ("path",) not in keys)

    def seen_from_file(text: str) -> str:
        path = Path(os.path.normpath(start / (str(home) + text[1:] if text.startswith("~/") else text)))
        stays = text.startswith(("/", "~/")) and not path.is_relative_to(inputs.folder)
        return text if stays else os.path.relpath(path, file.parent)

    def moved(key: tuple[str, ...], value: Any) -> Any:
        if isinstance(value, list):
            return [moved((*key, ""), item) for item in value]
        if isinstance(value, dict):
            return {inner: moved((*key, inner), item) for inner, item in value.items()}
        return seen_from_file(value) if isinstance(value, str) and _is_path(key, value, of_hub) else value

    return {key: moved(key, value) for key, value in keys.items()}


def _is_path(key: tuple[str, ...], value: str, of_hub: bool) -> bool:
    """Return whether a key's text is a path on this machine."""
    match key:
        case ("path",) | ("draft", "path") | ("lora", "", "path"):
            return True
        case ("mmproj",):
            return value != "auto" and not of_hub
        case ("chat_template",):
            return names_file(value)
        case _:
            return False


def add(inputs: Inputs, name: str, keys: Keys) -> Edit:
    """Return the edit that declares a profile: in a file of its own where `include` finds it, else in the declaration.

    Raises E-NAME, and E-CONFLICT for a profile that is declared already.
    """
    check_name(name)
    if _layer_of(inputs, name):
        raise LmctlError("E-CONFLICT", f"profile {name} is declared already", fix="use `lmctl profile set`")
    path = place(inputs, name)
    if path != inputs.file:
        if path.exists():
            shown = escape(str(path.relative_to(inputs.folder)))
            raise LmctlError("E-CONFLICT", f"{shown} is there already", fix="use `lmctl profile set`")
        document = tomlkit.document()
        _assign(document, keys)
        return Edit(path, tomlkit.dumps(document).encode())
    main = inputs.layers[0]
    document = tomlkit.parse(main.text)
    profiles: Any = document.setdefault("profiles", tomlkit.table(is_super_table=True))
    own = tomlkit.inline_table() if isinstance(profiles, InlineTable) else tomlkit.table()
    _assign(own, keys)
    profiles[name] = own
    return _checked(main, inputs.file, document, ("profiles", name), keys)


def place(inputs: Inputs, name: str) -> Path:
    """Return the file that a new profile is declared in."""
    own = f"profiles/{name}.toml"
    return inputs.folder / own if any(matches(pattern, own) for pattern in inputs.patterns) else inputs.file


def change(inputs: Inputs, name: str, keys: Keys) -> Edit:
    """Return the edit that gives keys of a declared profile other values; a value of None removes the key.

    Raises E-REF for a profile that no committed file declares and E-KEY for a key to remove that is not there.
    """
    layer = _declared(inputs, name)
    document = tomlkit.parse(layer.text)
    _assign(_at(document, _inside(layer, name)), keys)
    return _checked(layer, _path(inputs, layer), document, _inside(layer, name), keys)


def remove(inputs: Inputs, name: str) -> Edit:
    """Return the edit that a profile's declaration goes with. Raises E-REF for one that no committed file declares."""
    layer = _declared(inputs, name)
    if layer.kind == "profile":
        return Edit(_path(inputs, layer), None)
    document = tomlkit.parse(layer.text)
    _delete(_at(document, ("profiles",)), name)
    return _checked(layer, inputs.file, document, ("profiles",), {(name,): None})


def save(edit: Edit) -> None:
    """Write the edit; readers see the old or the new file. Raises E-SPACE, E-PERM and E-IO."""
    try:
        if edit.content is None:
            edit.path.unlink()
            return
        path = edit.path.resolve()  # a link stays one
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise disk_error(edit.path, error) from error
    write_atomic(path, edit.content, mode)


def first(name: str) -> str:
    """Return what `init` writes: the least that is a declaration, and how to go on."""
    return f"""\
# The language models of this declaration. `lmctl profile add NAME model=owner/name` adds one,
# `lmctl plan` shows what this machine lacks, `lmctl apply` makes it so.
version = 1
name    = "{name}"
include = ["profiles/*.toml"]   # one profile per file; the file's stem is the profile's name
"""


def _layer_of(inputs: Inputs, name: str) -> Layer | None:
    committed = (layer for layer in inputs.layers if layer.committed)
    return next((layer for layer in committed if name in layer.tree.get("profiles", {})), None)


def _declared(inputs: Inputs, name: str) -> Layer:
    layer = _layer_of(inputs, name)
    if layer is None:
        committed = (layer.tree for layer in inputs.layers if layer.committed)
        near = difflib.get_close_matches(name, [each for tree in committed for each in table(tree, "profiles")], n=1)
        fix = f"did you mean `{near[0]}`?" if near else "see `lmctl config`, or add it with `lmctl profile add`"
        raise LmctlError("E-REF", f"no committed file declares a profile '{escape(name, 70)}'", fix=fix)
    return layer


def _inside(layer: Layer, name: str) -> tuple[str, ...]:
    return () if layer.kind == "profile" else ("profiles", name)


def _path(inputs: Inputs, layer: Layer) -> Path:
    return inputs.folder / layer.file if layer.kind == "profile" else inputs.file


def _at(document: Any, path: Sequence[str]) -> Any:
    for part in path:
        document = document[part]
    return document


def _assign(table: MutableMapping[str, Any], keys: Keys) -> None:
    for path, value in keys.items():
        here: Any = table
        for part in path[:-1]:
            if part not in here:
                here[part] = tomlkit.inline_table()
            here = here[part]
            if not isinstance(here, MutableMapping):
                raise LmctlError("E-TYPE", f"{escape(part, 70)} is no table", fix="set it as a whole")
        if value is None:
            _delete(here, path[-1])
        else:
            here[path[-1]] = _item(value)


def _item(value: Any) -> Any:
    """Return the value as TOML writes it on one line."""
    if not isinstance(value, dict):
        return tomlkit.item(value)
    table: InlineTable = tomlkit.inline_table()
    for key, held in value.items():
        table[key] = _item(held)
    return table


def _delete(table: Any, key: str) -> None:
    if key not in table:
        raise LmctlError("E-KEY", f"{escape(key, 70)} is not declared there", fix="see `lmctl config`")
    del table[key]


def _checked(layer: Layer, path: Path, document: tomlkit.TOMLDocument, at: tuple[str, ...], keys: Keys) -> Edit:
    """Return the edit when its text means what was asked; tomlkit does not see every form of a table alike."""
    text = tomlkit.dumps(document)
    wanted = _copy(layer.own)
    here = wanted
    for part in at:
        here = here.setdefault(part, {})
    for key, value in keys.items():
        inner = here
        for part in key[:-1]:
            inner = inner.setdefault(part, {})
        if value is None:
            inner.pop(key[-1])
        else:
            inner[key[-1]] = value
    try:
        agrees = _without_empty(tomllib.loads(text)) == _without_empty(wanted)
    except (ValueError, TOMLKitError):
        agrees = False
    if not agrees:
        what = f"{layer.file} writes that table in a form that cannot be edited without losing something"
        raise LmctlError("E-CONFLICT", what, fix="edit it by hand")
    return Edit(path, text.encode())


def _copy(tree: Any) -> Any:
    return {key: _copy(value) for key, value in tree.items()} if isinstance(tree, dict) else tree


def _without_empty(tree: Any) -> Any:
    """Leave out tables without keys: whether their header stands there means nothing."""
    if not isinstance(tree, dict):
        return tree
    return {key: kept for key, value in tree.items() if (kept := _without_empty(value)) != {}}
