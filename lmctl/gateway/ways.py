"""Who may answer a request, in the order in which they are asked: a profile, clouds, what the router chose. Pure."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from lmctl.errors import escape
from lmctl.front import AUTO, CLOUD
from lmctl.gateway import router
from lmctl.gateway.cloud_fields import FIELDS
from lmctl.gateway.paths import Endpoint
from lmctl.gateway.refused import Refused
from lmctl.gateway.routing import Routes, Target
from lmctl.spec import Json

Headers = tuple[tuple[bytes, bytes], ...]

_BUSY, _BROKEN, _ABSENT = 429, 502, 503  # what another one may answer instead: nothing is wrong with the request


class Way(NamedTuple):
    """One who may answer; `why`: what brought the request there, empty where the client named it."""

    target: Target
    why: str = ""

    def told(self) -> Headers:
        """Return the headers that say where an answer comes from."""
        return _told(self.target.profile, self.target.cloud is not None, self.why)


Ways = tuple[Way, ...]


@lru_cache(maxsize=256)  # asked for by every request
def _told(name: str, away: bool, why: str) -> Headers:
    said = ((b"x-lmctl-target", (name if away else f"local:{name}").encode()),)
    return (*said, (b"x-lmctl-why", why.encode("ascii", "replace"))) if why else said


def ways(routes: Routes, endpoint: Endpoint, body: dict[str, Json], headers: Sequence[tuple[bytes, bytes]]) -> Ways:
    """Return who may answer a request to the gateway's own port, at least one.

    Raises Refused: 400, 403 or 404 for a model that nobody may be asked for, and what the router refuses.
    """
    model = body.get("model")
    if isinstance(model, str):
        if model == AUTO:
            return _routed(routes, endpoint, body, headers)
        if model.startswith(CLOUD) and routes.named(model) is None:  # an alias such as `cloud:latest` is a profile's
            return (Way(_cloud(routes, endpoint, model[len(CLOUD) :])),)
    else:
        model = None
    return behind(routes, endpoint, Way(routes.find(model)))


def behind(routes: Routes, endpoint: Endpoint, first: Way) -> Ways:
    """Return a profile, and the clouds that are asked when it cannot answer."""
    names = routes.fallback.get(first.target.profile)
    if names is None or endpoint.name not in FIELDS:
        return (first,)
    return (first, *(Way(routes.clouds[name], "fallback") for name in names if name in routes.clouds))


def passes_on(refused: Refused) -> bool:
    """Return whether somebody else may be asked after this refusal: not where the request itself is at fault."""
    return refused.status in (_BUSY, _BROKEN, _ABSENT) and refused.code != "ending"


def listed(routes: Routes) -> Iterator[tuple[str, str]]:
    """Yield the names that may stand as `model`, each with who owns what answers."""
    yield from ((name, "lmctl") for name in routes.targets)
    if routes.router is not None:
        yield AUTO, "lmctl"
    yield from ((one.profile, one.profile) for one in routes.clouds.values())


def _cloud(routes: Routes, endpoint: Endpoint, name: str) -> Target:
    if name in routes.untrusted:
        message = f"cloud {name} is not trusted on this machine: read it, then run `lmctl trust`"
        raise Refused(403, "cloud_not_trusted", message, "model")
    if name not in routes.clouds:
        near = difflib.get_close_matches(name[:200], routes.clouds, 1)
        hint = f"; did you mean {CLOUD}{near[0]}?" if near else ""
        raise Refused(404, "model_not_found", f"no cloud is called {escape(name, 60)}{hint}", "model")
    if endpoint.name not in FIELDS:
        raise Refused(404, "not_supported", f"{endpoint.path} is not asked of clouds", "model")
    return routes.clouds[name]


def _routed(routes: Routes, endpoint: Endpoint, body: dict[str, Json], headers: Sequence[tuple[bytes, bytes]]) -> Ways:
    if routes.router is None:
        message = "auto is decided by a router: declare [router], or name a profile"
        raise Refused(400, "no_router", message, "model")
    task = complexity = None
    for name, value in headers:
        if name == router.TASK:
            task = value
        elif name == router.COMPLEXITY:
            complexity = value
    found = router.decide(routes.router, endpoint.name, body, task, router.complexity(complexity))
    why = f"auto: {found.why}"
    first = () if found.cloud is None else (Way(routes.clouds[found.cloud], why),)
    if found.profile is None:
        return first
    target = routes.named(found.profile)
    if target is None:
        message = f"{found.profile} does not run: start it with `lmctl start {found.profile}`"
        raise Refused(503, "model_not_running", message, headers=(("Retry-After", "5"),))
    then = behind(routes, endpoint, Way(target, "fallback" if first else why))
    return (*first, *(way for way in then if way.target.profile not in {one.target.profile for one in first}))
