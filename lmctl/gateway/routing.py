"""Which profile a request means: by name, alias or the model's own id, and by the port that it came to. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping

from lmctl.all_backends import BACKENDS
from lmctl.errors import escape
from lmctl.gateway.ollama_models import Known
from lmctl.gateway.refused import Refused
from lmctl.gateway.router import Table
from lmctl.record import NOTHING, record
from lmctl.spec import Profile
from lmctl.usage.rows import model_name

DEFAULTS = ("local", "default")  # names that mean the default profile, as an absent one does

_LONGEST = 200  # characters of a name that are compared with others
# what listens everywhere is asked on the loopback address
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


@record
class Elsewhere:
    """What is different where a model is served by a cloud: `base` comes before its paths, `problem` keeps it away."""

    base: str = "/v1"
    secure: bool = True
    problem: str = ""


@record
class Target:
    """Where one profile's engine listens, and under which name it knows its model; or the same of a cloud."""

    profile: str
    host: str
    port: int
    model: str
    anthropic: bool = False  # the engine speaks Anthropic's dialect itself
    backend: str = ""
    weights: str = ""  # what usage calls the model: a repository, or a file
    key: bytes | None = None  # that the engine demands
    cloud: Elsewhere | None = None  # `profile` is then `cloud:NAME`


@record
class Routes:
    """All targets in the order of their declaration; `names` are the other names of profiles.

    `ports` are the ports of profiles' own, each with the profiles that are reached there. `clouds` are by name, as are
    the `untrusted` ones; `fallback` says by profile who is asked when it cannot answer, `router` what `auto` means.
    """

    targets: Mapping[str, Target] = NOTHING
    names: Mapping[str, str] = NOTHING
    default: str | None = None
    ports: Mapping[int, tuple[str, ...]] = NOTHING
    models: Mapping[str, Known] = NOTHING  # what is known of the profiles' models
    clouds: Mapping[str, Target] = NOTHING
    untrusted: tuple[str, ...] = ()
    fallback: Mapping[str, tuple[str, ...]] = NOTHING
    router: Table | None = None

    def find(self, model: str | None) -> Target:
        """Return the target that `model` means.

        Raises Refused: 404 for an unknown name, 400 for none where no default is declared.
        """
        if model is None or model in DEFAULTS:
            default = self.named(self.default) if self.default is not None else None
            if default is None:
                message = "name a model: [gateway] declares no default"
                raise Refused(400, "model_required", message, "model")
            return default
        target = self.named(model)
        if target is None:
            near = difflib.get_close_matches(model[:_LONGEST], [*self.targets, *self.names], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            shown = f"no profile is called {escape(model, 60)}" if model else "the name of the model is empty"
            raise Refused(404, "model_not_found", f"{shown}{hint}", "model")
        return target

    def named(self, model: str) -> Target | None:
        """Return the target of a profile, an alias or an id; None where nothing is called so."""
        return self.targets.get(model) or self.targets.get(self.names.get(model, ""))

    def at(self, port: int, model: str | None, running: Callable[[], Collection[str]]) -> Target:
        """Return the target that a request to a profile's own port means, whatever it calls the model.

        Of several profiles on one port it is the one that `model` names, else one that runs, else the first declared.
        `running` returns the profiles that run, and is asked only where that matters.
        """
        found = [self.targets[name] for name in self.ports.get(port, ()) if name in self.targets]
        if not found:
            raise Refused(503, "model_not_running", "no profile is reached at this port any more")
        if len(found) == 1:
            return found[0]
        named = self.named(model) if model is not None else None
        if named is not None and named in found:
            return named
        runs = running()
        return next((one for one in found if one.profile in runs), found[0])


def routes(
    profiles: tuple[Profile, ...],
    listens: Mapping[str, str],
    default: str | None,
    keys: Mapping[str, bytes] = NOTHING,
) -> Routes:
    """Return the routes to all profiles whose engine has an address (`listens`: profile -> "127.0.0.1:8081").

    A name that several profiles share, as the id of one model that two of them serve, means the first declared. A
    profile whose engine listens elsewhere than it declares is reached at its own port too. `keys` are the engines'.
    """
    targets: dict[str, Target] = {}
    names: dict[str, str] = {}
    ports: dict[int, tuple[str, ...]] = {}
    for profile in profiles:
        if profile.name not in listens:
            continue
        host, _, port = listens[profile.name].rpartition(":")
        backend = BACKENDS[profile.backend]
        host = host.strip("[]")
        targets[profile.name] = Target(
            profile=profile.name,
            host=_EVERYWHERE.get(host, host),
            port=int(port),
            model=backend.served(profile),
            anthropic=backend.NAME == "llama.cpp",
            backend=profile.backend,
            weights=model_name(profile),
            key=keys.get(profile.name),
        )
        for name in _names(profile):
            names.setdefault(name, profile.name)
        if profile.port is not None and profile.port != int(port):
            ports[profile.port] = (*ports.get(profile.port, ()), profile.name)
    return Routes(targets, names, default, ports)


def _names(profile: Profile) -> Iterator[str]:
    yield from profile.aliases
    if profile.weights is not None and profile.weights.repo is not None:
        yield profile.weights.repo
