"""The fields of a profile that execute something or open the machine, and whether this machine's owner allows them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lmctl.all_backends import BACKENDS
from lmctl.allowlist import allow
from lmctl.config.compose import Composed, Part
from lmctl.config.kinds import PERMISSIONS
from lmctl.config.make import place_of
from lmctl.errors import Place, Problem
from lmctl.record import record, replace
from lmctl.secret import LOOKS_SECRET, NAMES_SECRET
from lmctl.spec import Hardware, Profile
from lmctl.trust import Field, Trusted, grants, whole

EVERYTHING = frozenset(PERMISSIONS)
_ALLOWS = frozenset(map(allow, PERMISSIONS))
_OF_KEY = {"command": {"command"}, "extra_args": {"flags", "remote_code"}, "env": {"env"}}


@record
class Consent:
    """What this machine's owner allows of a declaration: by permission, and by field as long as it is what it was."""

    file: Path  # of the declaration
    allowed: frozenset[str] = frozenset()  # by machine.toml
    trusted: tuple[Trusted, ...] = ()
    anything: bool = False  # nothing is to be refused for want of it

    def permits(self, fields: Iterable[Field]) -> frozenset[str]:
        """Return the permissions of the profile whose gated fields these are."""
        return EVERYTHING if self.anything else self.allowed | grants(fields, self.trusted, self.allowed)

    def told(self, problem: Problem, composed: Composed) -> Problem:
        """Return the problem; one that consent would mend names the command first that gives it."""
        if problem.fix not in _ALLOWS:
            return problem
        part = composed.origin.get(key_of(problem))
        return replace(problem, fix=self._way(problem.fix, part is not None and part.layer.overrides))

    def way(self, permission: str, overrides: bool) -> str:
        """Return how consent is given; `overrides`: a layer that no file holds says what it would be for."""
        return self._way(allow(permission), overrides)

    def _way(self, other: str, overrides: bool) -> str:
        first = "write it into a file of the declaration" if overrides else "read it"
        return f"{first}, then run `lmctl trust {shlex.quote(str(self.file))}`, or {other}"


def key_of(problem: Problem) -> str:
    """Return the key that a backend's problem is about: the first word of what it says."""
    return problem.what.split(" ")[0].rstrip(":")


def fields(profile: Profile, composed: Composed, defaults: Iterable[Part], hardware: Hardware) -> tuple[Field, ...]:
    """Return what of the profile only this machine's owner may allow, with its place; `defaults` are its weakest parts.

    The backend itself says what: all that it refuses without a permission and lets pass with it.
    """
    if not (profile.command or profile.settings.extra_args or profile.settings.env):
        return ()
    needed = _needed(profile, hardware)
    found: list[Field] = []
    for key in ("command", "extra_args"):
        permissions = needed & _OF_KEY[key]
        if permissions:
            value = profile.command if key == "command" else profile.settings.extra_args
            place = place_of(composed, key)
            found.append(_field(profile, (key,), permissions, value, place))
    if needed & _OF_KEY["env"]:
        found += _variables(profile, composed, tuple(defaults), hardware)
    return tuple(found)


def _needed(profile: Profile, hardware: Hardware) -> frozenset[str]:
    """Return the permissions without each of which the backend refuses what it would let pass."""
    check = BACKENDS[profile.backend].check
    least = set(check(profile, EVERYTHING, hardware))
    return frozenset(one for one in PERMISSIONS if set(check(profile, EVERYTHING - {one}, hardware)) - least)


def _variables(profile: Profile, composed: Composed, defaults: tuple[Part, ...], hardware: Hardware) -> Iterator[Field]:
    for name, value in profile.settings.env.items():
        alone = replace(profile, settings=replace(profile.settings, env={name: value}))
        if "env" in _needed(alone, hardware):
            place = _place_of_variable(name, composed, defaults)
            yield _field(profile, ("env", name), frozenset(["env"]), value, place)


def _place_of_variable(name: str, composed: Composed, defaults: tuple[Part, ...]) -> Place | None:
    """Return where the strongest part declares the variable: the table is merged from all of them."""
    for part in reversed((*defaults, *composed.parts)):
        table: Any = part.keys.get("env", {})
        if name in table:
            return part.layer.place((*part.path, "env", name))
    return place_of(composed, "env")


def _field(
    profile: Profile,
    key: tuple[str, ...],
    permissions: frozenset[str],
    value: str | tuple[str, ...],
    place: Place | None,
) -> Field:
    quoted = f'"{profile.name}"' if "." in profile.name else profile.name
    address = ".".join(("profiles", quoted, *key))
    # what brings the code is as much of what is trusted as the flag that lets it run
    code_of = tuple(one.id for one in profile.artifacts) if "remote_code" in permissions else ()
    text = shown(key[-1], value, code_of)
    return Field(address, profile.name, profile.backend, permissions, value, text, place, code_of)


def shown(name: str, value: str | tuple[str, ...], code_of: tuple[str, ...]) -> str:
    """Return a value on one line, to its last character and without secrets."""
    if isinstance(value, str):
        text = "(hidden)" if NAMES_SECRET.search(name) else f"{name}={shlex.quote(value)}"
    else:
        text = shlex.join(value) + (f"  (of {', '.join(code_of)})" if code_of else "")
    return LOOKS_SECRET.sub("(hidden)", whole(text))
