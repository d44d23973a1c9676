"""Every form that a profile takes on some machine: what is wrong with it there, and what it asks for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lmctl.all_backends import BACKENDS
from lmctl.config.compose import Composed, Sources, compose, gather
from lmctl.config.gated import EVERYTHING, Consent, fields, key_of
from lmctl.config.machines import Platform, anywhere, here
from lmctl.config.make import Maker, place_of
from lmctl.config.sound import Sound
from lmctl.errors import Problem
from lmctl.record import record, replace
from lmctl.spec import Hardware, Profile, Wanted
from lmctl.trust import Field


@record
class Form:
    """A profile where the same overlays hold, and the platforms of the machines on which they do."""

    composed: Composed
    platforms: tuple[Platform, ...]

    @property
    def systems(self) -> frozenset[str]:
        return frozenset(system for system, _, _ in self.platforms)


@record
class Forms:
    """The forms of one profile: on this machine, on others where it is not the same, and on all that could exist."""

    here: Composed
    elsewhere: tuple[Form, ...]
    anywhere: tuple[Composed, ...]


def forms(sources: Sources, hardware: Hardware) -> Forms:
    """Return every form that a profile takes, each composed once."""
    mine, found = here(sources.conditions, hardware), anywhere(sources.conditions)
    composed = {mask: compose(sources, mask) for mask in sorted({mine, *found})}
    elsewhere = tuple(Form(composed[mask], found[mask]) for mask in sorted(found) if mask != mine)
    return Forms(composed[mine], elsewhere, tuple(composed[mask] for mask in sorted(found)))


def runnable(composed: Composed) -> bool:
    """True when the features that the profile needs have landed."""
    return composed.backend in BACKENDS and "source" not in composed.keys


def profiles(
    maker: Maker,
    sources: Mapping[str, Sources],
    composed: Mapping[str, Composed],
    consent: Consent,
    hardware: Hardware,
) -> tuple[tuple[Profile, ...], tuple[Field, ...]]:
    """Make the profiles that can run here and ask their backends; what they refuse is refused.

    Returned with them is what of them only this machine's owner may allow, and machine.toml does not.
    """
    made: list[Profile] = []
    gated: list[Field] = []
    for name, one in composed.items():
        if not runnable(one):
            continue
        profile = replace(maker.profile(name, one), file=_declared_in(one))
        found = fields(profile, one, sources[name].defaults, hardware)
        gated += (field for field in found if not field.permissions <= consent.allowed)
        permitted = consent.permits(found)
        made.append(replace(profile, remote_code="remote_code" in permitted))
        problems = _asked_backend(one, profile, permitted, hardware)
        _refuse(maker, one, tuple(consent.told(problem, one) for problem in problems))
    return tuple(made), tuple(gated)


def elsewhere(maker: Maker, known: Mapping[str, Forms]) -> None:
    """Ask the backends about the forms on other machines; what one refuses on all that have that form is refused.

    What the owners of those machines may allow, they may have allowed.
    """
    for name, form in ((name, form) for name, some in known.items() for form in some.elsewhere):
        if runnable(form.composed):
            profile = maker.profile(name, form.composed)
            machines = (Hardware(system, arch, "", 0, kind) for system, arch, kind in form.platforms)
            refusals = (_asked_backend(form.composed, profile, EVERYTHING, machine) for machine in machines)
            _refuse(maker, form.composed, _least(refusals))


def _least(refusals: Iterator[tuple[Problem, ...]]) -> tuple[Problem, ...]:
    """Return the fewest problems; asks no further once there are none."""
    least = next(refusals)
    for found in refusals:
        if not least:
            break
        least = min(least, found, key=len)
    return least


def _asked_backend(
    composed: Composed, profile: Profile, allowed: frozenset[str], hardware: Hardware
) -> tuple[Problem, ...]:
    if composed.backend == "command" and not profile.command:
        return ()  # refused already; its backend has nothing to judge
    return BACKENDS[composed.backend].check(profile, allowed, hardware)


def _refuse(maker: Maker, composed: Composed, problems: tuple[Problem, ...]) -> None:
    for problem in problems:
        maker.problems[_placed(problem, composed)] = None


def _declared_in(composed: Composed) -> str:
    return next((p.layer.file for p in composed.origin.values() if p.path[0] == "profiles"), "")


def _placed(problem: Problem, composed: Composed) -> Problem:
    """Give a backend's problem its place."""
    return replace(problem, place=problem.place or place_of(composed, key_of(problem)))


@record
class Asked:
    """What any machine could ask for: by the committed files, only by the stronger layers, and who asks, by id."""

    committed: tuple[Wanted, ...]
    local: tuple[Wanted, ...]
    by: Mapping[str, tuple[str, ...]]


def asked(maker: Maker, sound: Sound, sources: Mapping[str, Sources], known: Mapping[str, Forms]) -> Asked:
    """Return every artifact of every form; `known` are the forms of `sources`."""
    committed: dict[Wanted, None] = {}
    every: dict[Wanted, None] = {}
    asking: dict[str, dict[str, None]] = {}
    declared = gather([layer for layer in sound.layers if layer.committed])
    below = {
        name: _anywhere(one) if sources[name].has_local else known[name].anywhere
        for name, one in declared.items()
        if name not in sound.never
    }
    stronger = {name: known[name].anywhere for name, one in sources.items() if one.has_local}
    for found, those in ((committed, below), (every, stronger)):
        for name, some in those.items():
            for wanted in (wanted for composed in some for wanted in _wanted(maker, composed)):
                found[wanted] = None
                asking.setdefault(wanted.id, {})[name] = None
    local = tuple(wanted for wanted in every if wanted not in committed)
    return Asked(tuple(committed), local, {wanted: tuple(names) for wanted, names in asking.items()})


def _anywhere(sources: Sources) -> tuple[Composed, ...]:
    return tuple(compose(sources, mask) for mask in sorted(anywhere(sources.conditions)))


def _wanted(maker: Maker, composed: Composed) -> Iterator[Wanted]:
    """Yield every artifact that a profile needs where it is composed like this."""
    if not runnable(composed):
        return
    draft, loras = maker.draft(composed), maker.lora(composed)
    parts: list[Any] = [maker.weights(composed), maker.mmproj(composed), *(lora.wanted for lora in loras)]
    yield from (part for part in (*parts, draft.wanted if draft else None) if isinstance(part, Wanted))
