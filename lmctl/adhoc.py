"""Models that run without being declared: kept as `--set` expressions in the state folder until they are stopped."""

from __future__ import annotations

import json
import re
from pathlib import Path

from lmctl.errors import LmctlError, Place, escape
from lmctl.paths import Folders, make_private, read_regular, write_atomic
from lmctl.spec import Declaration, Json

NAME = "undeclared"  # of the declaration that stands in where there is none
_LIMIT = 1 << 20  # bytes


def alone(folders: Folders) -> Path:
    """Return the declaration that stands in for a missing one; it exists once something ran undeclared."""
    return folders.declaration(NAME) / "declaration" / "localmodels.toml"


def stand_in(folders: Folders) -> Path:
    """Write the stand-in declaration; return its file."""
    file = alone(folders)
    if not file.exists():
        make_private(file.parent)
        write_atomic(file, f'version = 1\nname = "{NAME}"\n'.encode())
    return file


def refuse_name(name: str, place: Place | None = None) -> None:
    """Raise E-NAME for the name of the declaration that stands in, in whatever case: file systems may ignore it."""
    if name.casefold() == NAME:
        what = f"the name '{name}' is reserved for models that nothing declares"
        raise LmctlError("E-NAME", what, fix="choose another name", place=place)


def _file(folders: Folders, name: str) -> Path:
    return folders.declaration(name) / "undeclared.json"


def profiles(folders: Folders, name: str) -> dict[str, dict[str, Json]]:
    """Return what runs undeclared beside the declaration `name`: profile -> its keys. Broken content counts as none.

    Raises E-PERM where the state folder is another user's.
    """
    try:
        content = json.loads(read_regular(_file(folders, name), _LIMIT))
        return {str(key): dict(keys) for key, keys in content.items()}
    except (ValueError, TypeError, AttributeError):
        return {}
    except LmctlError as error:
        if error.problems[0].code == "E-PERM":
            raise
        return {}


def sets(folders: Folders, name: str, without: frozenset[str] = frozenset()) -> tuple[str, ...]:
    """Return the same as `--set` expressions, but for the profiles of `without`."""
    found = {profile: keys for profile, keys in profiles(folders, name).items() if profile not in without}
    return tuple(expression for profile, keys in found.items() for expression in expressions(profile, keys))


def undeclared(folders: Folders, declaration: Declaration) -> frozenset[str]:
    """Return the profiles of a declaration that only run undeclared beside it."""
    return frozenset(profiles(folders, declaration.name)) - declared(declaration)


def only_for(declaration: Declaration, names: frozenset[str]) -> frozenset[str]:
    """Return the ids of the artifacts that only the profiles `names` ask for."""
    return frozenset(name for name, asking in declaration.asked_by.items() if names.issuperset(asking))


def declared(declaration: Declaration) -> frozenset[str]:
    """Return the profiles of a declaration that its files declare."""
    return frozenset(profile.name for profile in declaration.profiles if not profile.file.startswith("--set "))


def shadowed(folders: Folders, declaration: Declaration) -> frozenset[str]:
    """Return what runs undeclared under a name or an alias that is declared, in whatever case."""
    taken = {name.casefold() for profile in declaration.profiles for name in (profile.name, *profile.aliases)}
    return frozenset(name for name in profiles(folders, declaration.name) if name.casefold() in taken)


def expressions(profile: str, keys: dict[str, Json]) -> tuple[str, ...]:
    """Return a profile's keys as `--set` expressions; JSON's strings, numbers and booleans are TOML's as well."""
    return tuple(f'profiles."{profile}".{key}={json.dumps(value)}' for key, value in keys.items())


def remember(folders: Folders, name: str, profile: str, keys: dict[str, Json]) -> None:
    """Add one profile to what runs undeclared."""
    _write(folders, name, {**profiles(folders, name), profile: keys})


def forget(folders: Folders, name: str, gone: frozenset[str]) -> frozenset[str]:
    """Drop profiles; return those that were there."""
    before = profiles(folders, name)
    found = frozenset(before) & gone
    if found:
        _write(folders, name, {profile: keys for profile, keys in before.items() if profile not in found})
    return found


def _write(folders: Folders, name: str, content: dict[str, dict[str, Json]]) -> None:
    file = _file(folders, name)
    if not content:
        file.unlink(missing_ok=True)
        return
    make_private(file.parent)
    write_atomic(file, json.dumps(content, sort_keys=True).encode())


def name_for(model: str, taken: frozenset[str]) -> str:
    """Return a profile name made from a file's stem or a repository's name; numbered when it is in `taken`.

    Names are in lower case, in `taken` as well.
    """
    stem = Path(model).name.removesuffix(".gguf").removesuffix("-GGUF")
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:50].lower()
    if not base:
        raise LmctlError("E-NAME", f"no name can be made from {escape(model)!r}", fix="give one with --save NAME")
    names = (base, *(f"{base}-{n}" for n in range(2, 100)))
    return next(name for name in names if name not in taken)
