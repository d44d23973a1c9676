"""Clouds of a declaration: what is wrong with them, and which of them this machine's owner allows."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lmctl.config import check
from lmctl.config.compose import Composed
from lmctl.config.gated import Consent, shown
from lmctl.config.layers import Layer
from lmctl.config.make import place_of
from lmctl.config.names import is_loopback
from lmctl.errors import Problem, escape
from lmctl.front import CLOUD, Cloud
from lmctl.portable import same_name
from lmctl.record import record
from lmctl.trust import Field

GATED = ("base_url", "model", "key_env", "key_file")  # where prompts go, and which key with them
_NEEDED = frozenset(["cloud"])


@record
class Clouds:
    """Those that may be asked, what there is to trust of all, and what is said about those left out."""

    allowed: tuple[Cloud, ...]
    untrusted: tuple[str, ...]
    gated: tuple[Field, ...]
    warnings: tuple[Problem, ...]


def clouds(layers: Sequence[Layer], home: Path, consent: Consent) -> Clouds:
    """Return the clouds of layers in which nothing is wrong.

    One that is not trusted is left out, with a warning, where a profile would refuse the whole declaration: what is
    not declared is stopped and pruned, so a profile must not be left out unseen; of a cloud nothing is taken away by
    that, no prompt leaves the machine, and a pulled file keeps no local model from being served.
    """
    allowed, untrusted, gated, warnings = [], [], [], []
    for name in check.table_names(layers, "cloud"):
        merged = check.Merged(layers, "cloud", name)
        if "key_file" in merged.keys:
            merged.keys["key_file"] = _key_file(merged, home)
        fields = tuple(_fields(name, merged))
        gated += [field for field in fields if not field.permissions <= consent.allowed]
        if consent.permits(fields) >= _NEEDED:
            allowed.append(Cloud(name, **merged.keys))
            continue
        untrusted.append(name)
        overridden = any(merged.parts_of(key)[-1].layer.overrides for key in GATED if key in merged.keys)
        what = f"cloud {name} is left out: where prompts go is for this machine's owner to allow"
        warnings.append(Problem("W-TRUST", what, consent.way("cloud", overridden), merged.place("base_url")))
    return Clouds(tuple(allowed), tuple(untrusted), tuple(gated), tuple(warnings))


def problems(layers: Sequence[Layer], every: Sequence[Layer], ports: Collection[int]) -> Iterator[Problem]:
    """Yield what is wrong with each cloud in sound `layers`; of one of which a part was left out nothing is said.

    `every` are the layers as they were read, `ports` those on which the gateway answers: a cloud there would be asked
    by itself.
    """
    for name in check.table_names(layers, "cloud"):
        merged = check.Merged(layers, "cloud", name)
        if len(merged.parts) < len(check.Merged(every, "cloud", name).parts):
            continue
        for key in ("base_url", "model"):
            if key not in merged.keys:
                yield Problem("E-KEY", f"cloud.{name}.{key}: is required", f"add `{key}`", merged.place())
        here = urlsplit(merged.keys.get("base_url", ""))
        if here.hostname and is_loopback(here.hostname) and here.port in ports:
            what = f"cloud.{name}.base_url: on port {here.port} the gateway itself answers"
            yield Problem("E-CONFLICT", what, "name another server", merged.place("base_url"))
        if "key_env" in merged.keys and "key_file" in merged.keys:
            what = f"cloud.{name}: key_env and key_file exclude each other"
            yield Problem("E-CONFLICT", what, "keep one", merged.place("key_file"))


def aliases(composed: Mapping[str, Composed], declared: Collection[str]) -> Iterator[Problem]:
    """Yield aliases that are the names of clouds; no profile can be called so, for its name holds no colon."""
    taken = {same_name(f"{CLOUD}{name}"): f"cloud {name}" for name in declared}
    for name, one in composed.items():
        for alias in one.keys.get("aliases", ()):
            if owner := taken.get(same_name(alias)):
                what = f"alias '{escape(alias)}' of profile {name} already names {owner}"
                yield Problem("E-CONFLICT", what, "remove the alias", place_of(one, "aliases"))


def _key_file(cloud: check.Merged, home: Path) -> Path:
    """Return the path that the strongest layer names, relative to the folder of its file."""
    part = cloud.parts_of("key_file")[-1]
    text = str(part.keys["key_file"])
    text = str(home) + text[1:] if text == "~" or text.startswith("~/") else text
    return Path(os.path.normpath(part.layer.folder / text))


def _fields(name: str, merged: check.Merged) -> Iterator[Field]:
    quoted = f'"{name}"' if "." in name else name
    keys: Mapping[str, Any] = merged.keys
    for key in GATED:
        if key in keys:
            value = str(keys[key])
            address = f"cloud.{quoted}.{key}"
            yield Field(address, f"cloud:{name}", "", _NEEDED, value, shown(key, value, ()), merged.place(key))
