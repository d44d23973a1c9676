"""Where a value comes from: everything that was said about a key, weakest first, and what of it holds."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from lmctl.config.check import Merged
from lmctl.config.compose import Composed, Sources, known_keys
from lmctl.config.file_models import MainFile
from lmctl.config.judge import fields_at
from lmctl.config.resolution import Resolved
from lmctl.errors import LmctlError, Place, escape
from lmctl.record import record, replace
from lmctl.secret import LOOKS_SECRET, NAMES_SECRET
from lmctl.spec import Json

TABLES = ("gateway", "watch", "usage", "prune", "groups", "cloud", "router", "engines")
Key = tuple[str, ...]


@record
class Said:
    """One value of a key: where it was said (None: the default) and whether it wins, or why it does not."""

    value: Json
    place: Place | None
    why: str  # wins | overridden | does not hold here | …


def keys(resolved: Resolved, key: Key) -> list[Key]:
    """Return the keys that a table holds here, else `key` itself. Raises as `explain`."""
    _known(resolved, key)
    here = _within(everything(resolved), key)
    return [(*key, inner) for inner in here] if isinstance(here, dict) and len(key) < 3 and here else [key]


def explain(resolved: Resolved, key: Key) -> tuple[Said, ...]:
    """Return what was said about `key`, weakest first. Raises E-KEY and E-REF for a key or profile that is none."""
    _known(resolved, key)
    if key[0] == "profiles" and len(key) > 2:
        said = list(_of_profile(resolved.sources[key[1]], resolved.composed[key[1]], key[2:]))
    else:
        found = ((layer, _within(layer.tree, key)) for layer in resolved.inputs.layers)
        said = [Said(_hidden(value, key), layer.place(key), "") for layer, value in found if value is not None]
    default = _default(key)
    whole = [*([Said(default, None, "")] if default is not None else []), *said]
    winner = max((index for index, one in enumerate(whole) if not one.why), default=None)
    return tuple(
        replace(one, why=one.why or ("wins" if index == winner else "overridden")) for index, one in enumerate(whole)
    )


def _known(resolved: Resolved, key: Key) -> None:
    if key[0] == "profiles" and len(key) > 1 and key[1] not in resolved.sources:
        raise LmctlError("E-REF", f"there is no profile '{escape(key[1], 70)}'", fix="see `lmctl config`")
    for length in range(len(key)):
        fields = fields_at(MainFile, key[:length])
        if fields and key[length] not in fields:
            near = difflib.get_close_matches(key[length], fields, n=1)
            what = f"there is no key `{escape('.'.join(key), 80)}`"
            raise LmctlError("E-KEY", what, fix=f"did you mean `{near[0]}`?" if near else "see `lmctl schema`")


def _of_profile(sources: Sources, composed: Composed, key: Key) -> Iterator[Said]:
    """Yield what each part says; a part that was dropped on the way says why."""
    holding = set(map(id, composed.parts))
    for part in (*sources.defaults, *sources.below, *sources.blocks, *sources.above):
        value = _within(part.keys, key)
        if value is None:
            continue
        why = ""
        if part.block is not None and id(part) not in holding:
            why = "does not hold here"
        elif key[0] not in composed.keys:
            known = key[0] in known_keys(composed.backend)
            why = "replaced with the weights" if known else f"backend {composed.backend} has no such key"
        yield Said(_hidden(value, key), part.layer.place((*part.path, *key)), why)


def _within(tree: Any, key: Key) -> Any:
    for part in key:
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree


def _default(key: Key) -> Any:
    """Return the documented default of a key, None when it has none."""
    field: Any = None
    model: Any = MainFile
    for part in key:
        if isinstance(model, type) and hasattr(model, "model_fields"):
            field = model.model_fields[part]
            model = field.annotation
        else:
            model = model.__args__[-1]
            field = None
    return field.default if field is not None and not field.is_required() else None


def everything(resolved: Resolved) -> dict[str, Any]:
    """Return the resolved configuration as one tree: profiles as they are here, the other tables merged; no secrets."""
    layers = resolved.inputs.layers
    tree: dict[str, Any] = {"name": resolved.declaration.name}
    tree["profiles"] = {name: {"backend": one.backend, **one.keys} for name, one in sorted(resolved.composed.items())}
    for key in TABLES:
        merged = Merged(layers, key).keys
        if merged:
            tree[key] = merged
    hidden: dict[str, Any] = _hidden(tree, ())
    return hidden


def _hidden(value: Any, path: Key) -> Any:
    """Return `value` without what is, or looks like, a secret."""
    if isinstance(value, Mapping):
        return {key: _hidden(held, (*path, key)) for key, held in value.items()}
    if isinstance(value, list):
        return [_hidden(item, path) for item in value]
    if isinstance(value, str) and path and NAMES_SECRET.search(path[-1]):
        return "(hidden)"
    return LOOKS_SECRET.sub("(hidden)", value) if isinstance(value, str) else value
