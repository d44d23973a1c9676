"""A Declaration as JSON and back, without pydantic: what equals its default is left out, so it reads quickly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmctl.errors import Place, Problem
from lmctl.front import Accounts, Cloud, Front, Router
from lmctl.record import defaults, fields
from lmctl.spec import Declaration, Draft, Group, Lora, Machine, Profile, Settings, Wanted

Tree = dict[str, Any]


def encode(value: Any) -> Any:
    """Return `value` as JSON; records become objects of the fields that differ from their defaults."""
    if names := fields(value):
        usual = defaults(value)
        return {
            name: encode(held)
            for name in names
            if (held := getattr(value, name)) != usual.get(name) or name not in usual
        }
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    return value


def declaration(tree: Tree) -> Declaration:
    """Return the record that `encode` was given; what it was not given raises KeyError, TypeError or ValueError."""
    tree["folder"], tree["file"] = Path(tree["folder"]), Path(tree["file"])
    tree["profiles"] = tuple(map(_profile, tree["profiles"]))
    for key in ("variants", "local_variants"):
        if key in tree:
            tree[key] = tuple(map(_wanted, tree[key]))
    if "groups" in tree:
        tree["groups"] = tuple(Group(**_tuples(group, "members")) for group in tree["groups"])
    if "machine" in tree:
        tree["machine"] = _machine(tree["machine"])
    if "front" in tree:
        tree["front"] = _front(tree["front"])
    if "clouds" in tree:
        tree["clouds"] = tuple(map(_cloud, tree["clouds"]))
    if tree.get("router") is not None:
        tree["router"] = Router(**tree["router"])
    if "accounts" in tree:
        tree["accounts"] = Accounts(**_tuples(tree["accounts"], "compare"))
    if "warnings" in tree:
        tree["warnings"] = tuple(Problem(**_record(problem, place=Place)) for problem in tree["warnings"])
    if "asked_by" in tree:
        tree["asked_by"] = {name: tuple(profiles) for name, profiles in tree["asked_by"].items()}
    return Declaration(**_tuples(tree, "inert", "engine_ports", "untrusted"))


def _tuples(tree: Tree, *keys: str) -> Tree:
    for key in keys:
        if key in tree:
            tree[key] = tuple(tree[key])
    return tree


def _record(tree: Tree, **kinds: Any) -> Tree:
    for key, kind in kinds.items():
        if tree.get(key) is not None:
            tree[key] = kind(**tree[key])
    return tree


def _wanted(tree: Tree) -> Wanted:
    if "path" in tree:
        tree["path"] = Path(tree["path"])
    return Wanted(**tree)


def _profile(tree: Tree) -> Profile:
    settings = _tuples(tree["settings"], "devices", "extra_args")
    if "chat_template_file" in settings:
        settings["chat_template_file"] = Path(settings["chat_template_file"])
    tree["settings"] = Settings(**settings)
    if tree["weights"] is not None:
        tree["weights"] = _wanted(tree["weights"])
    if isinstance(tree.get("mmproj"), dict):
        tree["mmproj"] = _wanted(tree["mmproj"])
    for key, kind in (("lora", Lora), ("draft", Draft)):
        held = tree.get(key)
        if isinstance(held, list):
            tree[key] = tuple(kind(**_with_wanted(item)) for item in held)
        elif held is not None:
            tree[key] = kind(**_with_wanted(held))
    return Profile(**_tuples(tree, "aliases", "tasks", "command", "fallback"))


def _with_wanted(tree: Tree) -> Tree:
    tree["wanted"] = _wanted(tree["wanted"])
    return tree


def _front(tree: Tree) -> Front:
    if "keys_file" in tree:
        tree["keys_file"] = Path(tree["keys_file"])
    return Front(**_tuples(tree, "origins"))


def _cloud(tree: Tree) -> Cloud:
    if tree.get("key_file") is not None:
        tree["key_file"] = Path(tree["key_file"])
    return Cloud(**tree)


def _machine(tree: Tree) -> Machine:
    for key in ("token_file", "hub_cache"):
        if key in tree:
            tree[key] = Path(tree[key])
    tree["weight_roots"] = tuple(map(Path, tree.get("weight_roots", ())))
    tree["allow"] = {name: tuple(granted) for name, granted in tree.get("allow", {}).items()}
    return Machine(**tree)
