"""Which profile a request means: by name, alias or the model's own id. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from lmctl.all_backends import BACKENDS
from lmctl.errors import escape
from lmctl.gateway.refused import Refused
from lmctl.record import NOTHING, record
from lmctl.spec import Profile

DEFAULTS = ("local", "default")  # names that mean the default profile, as an absent one does

_LONGEST = 200  # characters of a name that are compared with others
# what listens everywhere is asked on the loopback address
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104


@record
class Target:
    """Where one profile's engine listens, and under which name it knows its model."""

    profile: str
    host: str
    port: int
    model: str
    anthropic: bool = False  # the engine speaks Anthropic's dialect itself


@record
class Routes:
    """All targets in the order of their declaration; `names` are the other names of profiles."""

    targets: Mapping[str, Target] = NOTHING
    names: Mapping[str, str] = NOTHING
    default: str | None = None

    def find(self, model: str | None) -> Target:
        """Return the target that `model` means.

        Raises Refused: 404 for an unknown name, 400 for none where no default is declared.
        """
        if model is None or model in DEFAULTS:
            if self.default is None or self.default not in self.targets:
                message = "name a model: [gateway] declares no default"
                raise Refused(400, "model_required", message, "model")
            return self.targets[self.default]
        target = self.targets.get(model) or self.targets.get(self.names.get(model, ""))
        if target is None:
            near = difflib.get_close_matches(model[:_LONGEST], [*self.targets, *self.names], 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            message = f"no profile is called {escape(model, 60)}{hint}"
            raise Refused(404, "model_not_found", message, "model")
        return target


def routes(profiles: tuple[Profile, ...], listens: Mapping[str, str], default: str | None) -> Routes:
    """Return the routes to all profiles whose engine has an address (`listens`: profile -> "127.0.0.1:8081").

    A name that several profiles share, as the id of one model that two of them serve, means the first declared.
    """
    targets: dict[str, Target] = {}
    names: dict[str, str] = {}
    for profile in profiles:
        if profile.name not in listens:
            continue
        host, _, port = listens[profile.name].rpartition(":")
        backend = BACKENDS[profile.backend]
        served = backend.served(profile)
        host = host.strip("[]")
        host = _EVERYWHERE.get(host, host)
        targets[profile.name] = Target(profile.name, host, int(port), served, backend.NAME == "llama.cpp")
        for name in _names(profile):
            names.setdefault(name, profile.name)
    return Routes(targets, names, default)


def _names(profile: Profile) -> Iterator[str]:
    yield from profile.aliases
    if profile.weights is not None and profile.weights.repo is not None:
        yield profile.weights.repo
