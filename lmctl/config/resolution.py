"""Layers to the Declaration of this machine, or every reason why there is none."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from lmctl.all_backends import BACKENDS
from lmctl.config import check, inert
from lmctl.config.compose import Composed, Sources, compose, gather
from lmctl.config.judge import judge
from lmctl.config.kinds import PERMISSIONS
from lmctl.config.layers import Inputs, Layer
from lmctl.config.machines import anywhere, here
from lmctl.config.make import Maker, place_of
from lmctl.config.sound import Sound, leave_out
from lmctl.config.values import byte_count, duration, port_range
from lmctl.errors import LmctlError, Place, Problem
from lmctl.paths import Folders
from lmctl.record import record, replace
from lmctl.spec import Declaration, Group, Hardware, Machine, Profile, Wanted


@record
class Resolved:
    """A Declaration and what it was made of, for those who explain it."""

    declaration: Declaration
    inputs: Inputs
    sources: Mapping[str, Sources]
    composed: Mapping[str, Composed]


def resolve(inputs: Inputs, folders: Folders, hardware: Hardware, *, empty: bool = False) -> Resolved:
    """Judge and merge the layers. Raises every problem at once; `empty` welcomes a declaration without profiles."""
    if not inputs.layers[0].tree:
        _refuse(inputs.problems)
        raise _nothing(inputs)
    errors, warnings, faults = judge(inputs)
    problems = [*inputs.problems, *check.names(inputs.layers), *errors]
    if inputs.overrides_unread:  # they may change anything: nothing more can be said
        _refuse(problems)
    sound = leave_out(inputs, faults)
    sources = {name: one for name, one in gather(sound.layers).items() if name not in sound.never}
    if not sources and not problems and not empty:
        raise _nothing(inputs)
    composed = {name: compose(one, here(one.conditions, hardware)) for name, one in sources.items()}
    maker = Maker(inputs.folder, folders.home, leads=inputs.leads)
    machine = _machine(sound.machine, folders)
    name = str(inputs.layers[0].tree.get("name"))
    allowed = frozenset(machine.allow.get(name, ()) if sound.trust else PERMISSIONS)
    problems += _together(inputs, sound, sources, composed, hardware)
    profiles = _profiles(maker, composed, allowed, hardware)
    committed, local, asked_by = _variants(maker, sound, sources)
    _refuse([*problems, *maker.problems])
    gateway, prune = (check.Merged(inputs.layers, key).keys for key in ("gateway", "prune"))
    declaration = Declaration(
        name=name,
        folder=inputs.folder,
        file=inputs.file,
        profiles=profiles,
        variants=committed,
        local_variants=local,
        asked_by=asked_by,
        groups=_groups(inputs.layers, profiles),
        engine_ports=port_range(gateway.get("engine_ports", "28000-28999")),
        prune_auto=prune.get("auto", True),
        prune_after=duration(prune.get("after", "7d")),
        machine=machine,
        inert=inert.keys(inputs.layers, inputs.machine, composed),
        warnings=tuple(warnings),
        hash=_hash(inputs, hardware),
    )
    return Resolved(declaration, inputs, sources, composed)


def _nothing(inputs: Inputs) -> LmctlError:
    shown = inputs.file.name
    return LmctlError("E-EMPTY", f"no profiles in {shown}", fix="run `lmctl profile add`", place=Place(shown))


def _together(
    inputs: Inputs,
    sound: Sound,
    sources: Mapping[str, Sources],
    composed: Mapping[str, Composed],
    hardware: Hardware,
) -> Iterator[Problem]:
    """Yield what is wrong with profiles, and between them and the other tables."""
    yield from _everywhere(sources, sound, hardware)
    yield from check.aliases(composed)
    clouds = check.table_names(inputs.layers, "cloud")
    yield from check.references(sound.layers, composed, sound.names, clouds)
    whole = {name: one for name, one in composed.items() if name not in sound.partly}
    yield from check.groups(sound.layers, whole, sound.names)
    gateway = check.Merged(sound.layers, "gateway")
    yield from check.ports(whole, gateway.keys if sound.gateway else None, gateway.place("port"))


def _refuse(problems: Iterable[Problem]) -> None:
    found = list(dict.fromkeys(problems))
    if found:
        raise LmctlError.of(found)


def _everywhere(sources: Mapping[str, Sources], sound: Sound, hardware: Hardware) -> Iterator[Problem]:
    """Judge each profile for every set of overlays that some machine satisfies."""
    for name, one in sources.items():
        mine, whole = here(one.conditions, hardware), name not in sound.partly
        for mask in sorted({mine, *anywhere(one.conditions)}):
            yield from check.profile(name, compose(one, mask), hardware if mask == mine else None, whole=whole)


def _profiles(
    maker: Maker, composed: Mapping[str, Composed], allowed: frozenset[str], hardware: Hardware
) -> tuple[Profile, ...]:
    """Make the profiles that can run here and ask their backends; what they refuse is refused."""
    made = []
    for name, one in composed.items():
        if not runnable(one):
            continue
        profile = replace(maker.profile(name, one), file=_declared_in(one))
        made.append(profile)
        if one.backend == "command" and not profile.command:
            continue  # refused already; its backend has nothing to judge
        for problem in BACKENDS[one.backend].check(profile, allowed, hardware):
            maker.problems[_placed(problem, one, maker.folder / "localmodels.toml")] = None
    return tuple(made)


def runnable(composed: Composed) -> bool:
    """True when the features that the profile needs have landed."""
    return composed.backend in BACKENDS and "source" not in composed.keys


def _declared_in(composed: Composed) -> str:
    return next((p.layer.file for p in composed.origin.values() if p.path[0] == "profiles"), "")


def _placed(problem: Problem, composed: Composed, file: Path) -> Problem:
    """Give a backend's problem its place: the first word of what it says is the key."""
    key = problem.what.split(" ")[0].rstrip(":")
    fix = problem.fix
    if problem.code == "E-TRUST":
        fix = f"read it, then run: lmctl trust {shlex.quote(str(file))}"
    return replace(problem, fix=fix, place=problem.place or place_of(composed, key))


Variants = dict[Wanted, None]
AskedBy = dict[str, tuple[str, ...]]


def _variants(
    maker: Maker, sound: Sound, sources: Mapping[str, Sources]
) -> tuple[tuple[Wanted, ...], tuple[Wanted, ...], AskedBy]:
    """Return what any machine could ask for: by the committed files, only by the stronger layers, and who asks."""
    committed: Variants = {}
    every: Variants = {}
    asked_by: dict[str, dict[str, None]] = {}
    declared = gather([layer for layer in sound.layers if layer.committed])
    below = {name: one for name, one in declared.items() if name not in sound.never}
    stronger = {name: one for name, one in sources.items() if one.has_local}
    for found, those in ((committed, below), (every, stronger)):
        for name, one in those.items():
            for mask in sorted(anywhere(one.conditions)):
                for wanted in _asked(maker, compose(one, mask)):
                    found[wanted] = None
                    asked_by.setdefault(wanted.id, {})[name] = None
    local = tuple(wanted for wanted in every if wanted not in committed)
    return tuple(committed), local, {wanted: tuple(names) for wanted, names in asked_by.items()}


def _asked(maker: Maker, composed: Composed) -> list[Wanted]:
    """Return every artifact that a profile needs where it is composed like this."""
    if not runnable(composed):
        return []
    draft, loras = maker.draft(composed), maker.lora(composed)
    parts: list[Any] = [
        maker.weights(composed),
        maker.mmproj(composed),
        *(lora.wanted for lora in loras),
    ]
    return [part for part in (*parts, draft.wanted if draft else None) if isinstance(part, Wanted)]


def _groups(layers: Sequence[Layer], profiles: Sequence[Profile]) -> tuple[Group, ...]:
    """Return the declared groups, and one for each port that profiles share."""
    known = {profile.name for profile in profiles}
    found = []
    for name in check.table_names(layers, "groups"):
        keys = check.Merged(layers, "groups", name).keys
        members = tuple(dict.fromkeys(member for member in keys["members"] if member in known))
        if len(members) > 1:
            found.append(Group(name, members, keys.get("exclusive", True)))
    shared: dict[int, list[str]] = {}
    for profile in profiles:
        if profile.port is not None:
            shared.setdefault(profile.port, []).append(profile.name)
    found += [Group(f"port {port}", tuple(members)) for port, members in shared.items() if len(members) > 1]
    return tuple(found)


def _machine(layer: Layer | None, folders: Folders) -> Machine:
    """Return machine.toml's values; relative paths start in its folder, `~` is the home."""
    tree = layer.tree if layer else {}

    def path(text: str | None) -> Path | None:
        if text is None:
            return None
        text = str(folders.home) + text[1:] if text == "~" or text.startswith("~/") else text
        return folders.config / text

    def part(key: str) -> dict[str, Any]:
        value: dict[str, Any] = tree.get(key, {})
        return value

    hub, memory, download = part("hub"), part("memory"), part("download")
    binaries = {name: engine["binary"] for name, engine in part("engines").items() if "binary" in engine}
    return Machine(
        endpoint=hub.get("endpoint"),
        token_file=path(hub.get("token_file")),
        hub_cache=path(hub.get("cache")),
        binaries={name: str(path(text)) if "/" in text else text for name, text in binaries.items()},
        bind=tree.get("bind", "127.0.0.1"),
        allow={name: tuple(granted) for name, granted in part("allow").items()},
        weight_roots=tuple(root for text in part("weights").get("roots", ()) if (root := path(text))),
        memory_reserve=byte_count(memory.get("reserve", 4 << 30)),
        memory_gpu=byte_count(memory["gpu"]) if "gpu" in memory else None,
        prune_max_bytes=byte_count(part("prune").get("max_bytes", 200 << 30)),
        connections=download.get("connections", 4),
        files=download.get("files", 3),
        rate=byte_count(download["rate"]) if "rate" in download else None,
        log_max_bytes=byte_count(part("logs").get("max_bytes", 20 << 20)),
    )


def _hash(inputs: Inputs, hardware: Hardware) -> str:
    """Return the fingerprint of everything that was read and of the machine it was resolved for."""
    said = [(layer.file, layer.kind, layer.text or repr(layer.tree)) for layer in inputs.layers]
    said += [(inputs.machine.file, "machine", inputs.machine.text)] if inputs.machine else []
    return sha256(repr((said, hardware)).encode("utf-8", "surrogatepass")).hexdigest()
