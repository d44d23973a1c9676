"""lmctl's own programs, the gateway and the watcher, as a declaration asks for them: argv, address, hash. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from ipaddress import ip_address

from lmctl import addresses
from lmctl.backend import words
from lmctl.errors import LmctlError
from lmctl.record import NOTHING, record
from lmctl.secret import hidden
from lmctl.spec import GATEWAY, WATCH, Declaration, Json, Probe, Profile, ProgramSpec, Settings

PATIENCE = 60.0  # seconds to become healthy
_SCHEMA = 1  # raised when the meaning of these programs changes: they restart once
_SLACK = 5.0  # seconds beyond the time that requests have to end
_WATCH_STOP = 30.0  # seconds to finish what is being applied

# of a person's environment, what says where things are and what is declared: no secrets, and no proxy that holds one
_PASSED = words(
    "XDG_STATE_HOME XDG_CONFIG_HOME XDG_CACHE_HOME HF_HOME HF_HUB_CACHE HF_ENDPOINT HF_HUB_OFFLINE HF_TOKEN_PATH"
    " LMCTL_OFFLINE HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY http_proxy https_proxy all_proxy no_proxy"
)


@record
class Service:
    """One of these programs. `fields` is what a person declared, for causes; `probe` None: its lock tells of health."""

    profile: Profile  # its `stand_in`
    spec: ProgramSpec
    fields: Mapping[str, Json]
    probe: Probe | None = None


def passed(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the part of an environment that these programs are given beside what every program is.

    Declared keys (`LMCTL_GATEWAY__PORT`) are part of it: what a person applies and what these programs see must agree.
    """
    named = {k: v for k, v in environ.items() if k in _PASSED or (k.startswith("LMCTL_") and "__" in k)}
    return {k: v for k, v in named.items() if hidden(v, k) == v and (k.startswith("LMCTL_") or "@" not in v)}


def names(declaration: Declaration) -> tuple[str, ...]:
    """Return which of these programs are asked for; without a profile none is."""
    asked = {GATEWAY: declaration.front.enabled, WATCH: declaration.watched}
    return tuple(name for name, on in asked.items() if on and declaration.profiles)


def known(declaration: Declaration) -> list[str]:
    """Return the names of all programs that are asked for: profiles, then these."""
    return [*(profile.name for profile in declaration.profiles), *names(declaration)]


def make(name: str, declaration: Declaration, environ: Mapping[str, str] = NOTHING) -> Service:
    """Return one of these programs; `environ` is as `passed` returns it.

    Raises E-BIND for a gateway that others reach and that asks for no key.
    """
    argv = ("{python}", "-P", "-m", "lmctl", "--config", str(declaration.file), *_sets(declaration), name)
    bind = declaration.machine.bind if name == GATEWAY else ""
    if bind:
        refuse_open(declaration)
    # the keys of clouds reach the gateway by their variables' names alone
    keys = sorted({cloud.key_env for cloud in declaration.clouds if cloud.key_env}) if bind else []
    parts = [_SCHEMA, list(argv), dict(environ), bind, *keys]
    spec = ProgramSpec(
        id=name,
        profile=name,
        argv=argv,
        env=dict(environ),
        cwd=".",
        hash=hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest(),
        listen=addresses.gateway(declaration) if bind else "",
        inherit=tuple(keys),
        autostart=True,
        stop_timeout=declaration.front.drain_timeout + _SLACK if bind else _WATCH_STOP,
    )
    fields: dict[str, Json] = {"start by itself": True, "stop_timeout": float(spec.stop_seconds), "listen": spec.listen}
    fields |= {"inherits": ", ".join(keys)} if keys else {}
    return Service(stand_in(name), spec, fields, Probe() if bind else None)


def _sets(declaration: Declaration) -> Iterator[str]:
    """Yield the `--set` of the run as these programs are given them, but for secrets."""
    for text in declaration.sets:
        key, _, value = text.partition("=")
        if hidden(value, key) == value:
            yield from ("--set", text)


def stand_in(name: str) -> Profile:
    """Return what stands in for a profile where programs of all kinds are handled alike."""
    return Profile(name, "", None, Settings())


def refuse_open(declaration: Declaration) -> None:
    """Raise E-BIND where the gateway would answer others without asking for a key."""
    bind = declaration.machine.bind
    if declaration.front.keys_file is None and not ip_address(bind).is_loopback:
        what = f"the gateway would listen on {bind} and ask nobody for a key"
        raise LmctlError("E-BIND", what, fix="set `gateway.api_keys_file` in machine.toml, or `bind` to 127.0.0.1")
