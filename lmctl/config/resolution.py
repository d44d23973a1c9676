"""Layers to the Declaration of this machine, or every reason why there is none."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from lmctl import trust
from lmctl.config import check, inert, variants
from lmctl.config import clouds as elsewhere
from lmctl.config.compose import Composed, Sources, gather
from lmctl.config.find import own_files
from lmctl.config.gated import Consent
from lmctl.config.judge import judge
from lmctl.config.layers import Inputs, Layer
from lmctl.config.make import Maker
from lmctl.config.sound import Sound, leave_out
from lmctl.config.values import byte_count, duration, port_range
from lmctl.config.variants import Forms
from lmctl.errors import LmctlError, Place, Problem
from lmctl.front import Accounts, Front, Router
from lmctl.paths import Folders
from lmctl.record import record, replace
from lmctl.spec import Declaration, Group, Hardware, Machine, Profile
from lmctl.trust import Field


@record
class Resolved:
    """A Declaration and what it was made of, for those who explain it."""

    declaration: Declaration
    inputs: Inputs
    sources: Mapping[str, Sources]
    composed: Mapping[str, Composed]
    consent: Consent
    gated: tuple[Field, ...]  # what only this machine's owner may allow, and machine.toml does not


def resolve(
    inputs: Inputs, folders: Folders, hardware: Hardware, *, empty: bool = False, trusting: bool = False
) -> Resolved:
    """Judge and merge the layers. Raises every problem at once; `empty` welcomes a declaration without profiles.

    `trusting`: nothing is refused for want of trust, so that what there is to trust can be shown.
    """
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
    known = {name: variants.forms(one, hardware) for name, one in sources.items()}
    composed = {name: forms.here for name, forms in known.items()}
    maker = Maker(inputs.folder, folders.home, leads=inputs.leads)
    machine = _machine(sound.machine, folders)
    name = str(inputs.layers[0].tree.get("name"))
    consent = _consent(inputs, folders, machine.allow.get(name, ()), name if sound.trust else None)
    consent = replace(consent, anything=consent.anything or trusting)
    problems += _each(known, sound, hardware)
    problems += _together(inputs, sound, composed)
    profiles, gated = variants.profiles(maker, sources, composed, consent, hardware)
    variants.elsewhere(maker, known)
    asked = variants.asked(maker, sound, sources, known)
    _refuse([*problems, *maker.problems])
    clouds = elsewhere.clouds(inputs.layers, folders.home, consent)
    gateway, prune = (check.Merged(inputs.layers, key).keys for key in ("gateway", "prune"))
    declaration = Declaration(
        name=name,
        folder=inputs.folder,
        file=inputs.file,
        profiles=profiles,
        variants=asked.committed,
        local_variants=asked.local,
        asked_by=asked.by,
        groups=_groups(inputs.layers, profiles),
        engine_ports=port_range(gateway.get("engine_ports", "28000-28999")),
        front=_front(gateway, sound.machine, folders),
        watched=check.Merged(inputs.layers, "watch").keys.get("enabled", False),
        clouds=clouds.allowed,
        untrusted=clouds.untrusted,
        router=_router(check.Merged(inputs.layers, "router").keys),
        accounts=_accounts(check.Merged(inputs.layers, "usage").keys),
        prune_auto=prune.get("auto", True),
        prune_after=duration(prune.get("after", "7d")),
        machine=machine,
        inert=inert.keys(inputs.layers, inputs.machine, composed),
        warnings=(*warnings, *clouds.warnings),
        hash=_hash(inputs, hardware),
        sources=own_files(inputs.file, inputs.listing, inputs.contents),
    )
    return Resolved(declaration, inputs, sources, composed, consent, (*gated, *clouds.gated))


def _consent(inputs: Inputs, folders: Folders, allowed: Sequence[str], name: str | None) -> Consent:
    """Return what this machine's owner allows; where the name is not known, nothing is said for want of it.

    The record of trust is an input like all others: what was kept of it ends when it changes.
    """
    if name is None:
        return Consent(inputs.file, anything=True)
    file = trust.path(folders, name)
    content = trust.read(file)
    inputs.hashes[str(file)] = sha256(content).hexdigest() if content is not None else None
    return Consent(inputs.file, frozenset(allowed), trust.parse(content, name, inputs.folder))


def _nothing(inputs: Inputs) -> LmctlError:
    shown, fix = inputs.file.name, "run `lmctl profile add NAME model=owner/name`"
    return LmctlError("E-EMPTY", f"no profiles in {shown}", fix=fix, place=Place(shown))


def _each(known: Mapping[str, Forms], sound: Sound, hardware: Hardware) -> Iterator[Problem]:
    """Yield what is wrong with each profile by itself, here and in every form that it takes elsewhere."""
    for name, forms in known.items():
        whole = name not in sound.partly
        if whole and check.only_overridden(forms.here):
            declared = sound.names - {name for name, forms in known.items() if check.only_overridden(forms.here)}
            yield check.unknown_profile(name, forms.here, declared)
            continue
        yield from check.profile(name, forms.here, frozenset([hardware.os]), whole=whole)
        for form in forms.elsewhere:
            yield from check.profile(name, form.composed, form.systems, whole=whole)
    everywhere = ((forms.here, *(form.composed for form in forms.elsewhere)) for forms in known.values())
    yield from check.files(one for all_forms in everywhere for one in all_forms)


def _together(inputs: Inputs, sound: Sound, composed: Mapping[str, Composed]) -> Iterator[Problem]:
    """Yield what is wrong between profiles, and between them and the other tables, on this machine."""
    yield from check.aliases(composed)
    clouds = check.table_names(inputs.layers, "cloud")
    yield from check.references(sound.layers, composed, sound.names, clouds)
    gateway = check.Merged(sound.layers, "gateway")
    ports = {gateway.keys.get("port", 8080), *(one.keys["port"] for one in composed.values() if "port" in one.keys)}
    yield from elsewhere.problems(sound.layers, inputs.layers, ports)
    yield from elsewhere.aliases(composed, clouds)
    whole = {name: one for name, one in composed.items() if name not in sound.partly}
    yield from check.groups(sound.layers, whole, sound.names)
    yield from check.ports(whole, gateway.keys if sound.gateway else None, gateway.place("port"))


def _refuse(problems: Iterable[Problem]) -> None:
    found = list(dict.fromkeys(problems))
    if found:
        raise LmctlError.of(found)


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


def _front(gateway: Mapping[str, Any], machine: Layer | None, folders: Folders) -> Front:
    own = machine.tree.get("gateway", {}) if machine else {}
    return Front(
        enabled=gateway.get("enabled", True),
        port=gateway.get("port", 8080),
        default=gateway.get("default"),
        origins=tuple(gateway.get("origins", ())),
        max_body=byte_count(gateway.get("max_body", 32 << 20)),
        request_timeout=duration(gateway.get("request_timeout", "10m")),
        load_timeout=duration(gateway.get("load_timeout", "5m")),
        drain_timeout=duration(gateway.get("drain_timeout", "30s")),
        keys_file=_path(own.get("api_keys_file"), folders),
    )


def _router(keys: Mapping[str, Any]) -> Router | None:
    return Router(**keys) if keys else None


def _accounts(keys: Mapping[str, Any]) -> Accounts:
    compare = tuple(keys.get("compare", ()))
    return Accounts(keys.get("enabled", True), duration(keys.get("keep", "90d")), compare)


def _path(text: str | None, folders: Folders) -> Path | None:
    """Return a path of machine.toml: relative ones start in its folder, `~` is the home."""
    if text is None:
        return None
    text = str(folders.home) + text[1:] if text == "~" or text.startswith("~/") else text
    return folders.config / text


def _machine(layer: Layer | None, folders: Folders) -> Machine:
    """Return machine.toml's values."""
    tree = layer.tree if layer else {}

    def path(text: str | None) -> Path | None:
        return _path(text, folders)

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
