"""What this machine's owner trusts of a declaration: fields that execute or open something, each by its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from lmctl.errors import LmctlError, Place, Problem, escape
from lmctl.paths import Folders, disk_error, make_private, read_own, read_regular, sync_folder, write_atomic
from lmctl.record import record

FILE = "trust.json"
_SCHEMA = 1
_LIMIT = 16 << 20  # bytes


@record
class Field:
    """A field that this machine's owner alone may allow, as it stands here after every layer and overlay."""

    address: str  # profiles.own.command
    profile: str  # whose it is: also `cloud:NAME`, which no profile is called
    backend: str  # what the value means depends on who reads it
    permissions: frozenset[str]  # what machine.toml would have to allow instead
    value: str | tuple[str, ...]
    shown: str  # the whole value on one line, as a shell would have it; without secrets
    place: Place | None = None
    code_of: tuple[str, ...] = ()  # artifacts whose code it lets run, by id: repository and asked revision, or path

    @property
    def digest(self) -> str:
        """The sha256 of address, backend, value and whose code it lets run, nothing else, in their one written form."""
        value = self.value if isinstance(self.value, str) else list(self.value)
        said = {"address": self.address, "backend": self.backend, "value": value, "code_of": list(self.code_of)}
        return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@record
class Trusted:
    """What is recorded of one field; `shown` is for people alone, the hash decides."""

    address: str
    profile: str
    permissions: frozenset[str]
    sha256: str
    shown: str


def path(folders: Folders, name: str) -> Path:
    """Return where the trust in the declaration called `name` (checked to be a name) is recorded."""
    return folders.declaration(name) / FILE


def read(file: Path) -> bytes | None:
    """Return the content of the record, None where there is none.

    One that a link, another user or a loose mode could have brought counts as none.
    """
    try:
        return read_own(file, _LIMIT, private=True)
    except (OSError, LmctlError):
        return None


def parse(content: bytes | None, name: str, folder: Path) -> tuple[Trusted, ...]:
    """Return what is trusted of the declaration `name` in `folder`, nothing where the record says no such thing."""
    try:
        said = json.loads(content or b"{}")
        if (said["schema"], said["name"], said["folder"]) != (_SCHEMA, name, str(folder)):
            return ()
        return tuple(_trusted(entry) for entry in said["fields"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ()


def _trusted(entry: Mapping[str, object]) -> Trusted:
    """Return one entry. Raises KeyError, TypeError and ValueError for what `write` does not write."""
    address, profile, sha256, shown = (entry[key] for key in ("address", "profile", "sha256", "shown"))
    permissions = entry["permissions"]
    texts = (address, profile, sha256, shown)
    if not isinstance(permissions, list) or not all(isinstance(text, str) for text in (*texts, *permissions)):
        raise ValueError("not an entry of lmctl's")
    return Trusted(str(address), str(profile), frozenset(permissions), str(sha256), str(shown))


def recorded(field: Field) -> Trusted:
    """Return what is recorded of a field."""
    return Trusted(field.address, field.profile, field.permissions, field.digest, field.shown)


def write(file: Path, folder: Path, fields: Iterable[Field]) -> None:
    """Record trust in exactly these fields of the declaration in `folder`. Raises E-SPACE, E-PERM or E-IO."""
    known = sorted(map(recorded, fields), key=lambda one: one.address)
    entries = [{**vars(one), "permissions": sorted(one.permissions)} for one in known]
    content = {"schema": _SCHEMA, "name": file.parent.name, "folder": str(folder), "fields": entries}
    make_private(file.parent)
    write_atomic(file, json.dumps(content, indent=1, sort_keys=True).encode() + b"\n")


def forget(folders: Folders, folder: Path) -> Mapping[str, frozenset[str]]:
    """Take back what is trusted of any declaration in `folder`; return by name the profiles that it was trusted for.

    Asks no configuration: what was trusted of a file that is broken or gone is found as well. What the disk refuses of
    one keeps no other; it is raised at the end: E-PERM or E-IO.
    """
    gone: dict[str, frozenset[str]] = {}
    problems: list[Problem] = []
    for file in sorted(folders.state.glob(f"*/{FILE}")):
        content = _of_folder(file, folder)
        if content is None:
            continue
        try:
            file.unlink(missing_ok=True)
            sync_folder(file.parent)
        except OSError as error:
            problems += disk_error(file, error).problems
        else:
            name = file.parent.name
            gone[name] = frozenset(one.profile for one in parse(content, name, folder))
    if problems:
        raise LmctlError.of(problems)
    return gone


def _of_folder(file: Path, folder: Path) -> bytes | None:
    """Return the content of a record that names this folder, whoever may have written it."""
    try:
        content = read_regular(file, _LIMIT)
        return content if json.loads(content)["folder"] == str(folder) else None
    except (OSError, LmctlError, ValueError, KeyError, TypeError, RecursionError):
        return None


def grants(fields: Iterable[Field], trusted: Iterable[Trusted], allowed: frozenset[str]) -> frozenset[str]:
    """Return what the fields of one profile are permitted by trust: all that they need, or nothing.

    They are when what is recorded of the profile are these fields and no others, value by value. What machine.toml
    allows by itself, `allowed`, counts on neither side.
    """
    asked = {field.address: field for field in fields if not field.permissions <= allowed}
    names = {field.profile for field in asked.values()}
    known = {one.address: one.sha256 for one in trusted if one.profile in names and not one.permissions <= allowed}
    if not asked or known != {address: field.digest for address, field in asked.items()}:
        return frozenset()
    return frozenset().union(*(field.permissions for field in asked.values()))


def whole(text: str) -> str:
    """Return `text` on one line to its last character: what somebody is asked to trust is never cut."""
    return escape(text, max(1, len(text)))
