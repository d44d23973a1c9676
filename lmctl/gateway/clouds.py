"""The clouds of a declaration as the gateway asks them, and why one of them cannot be asked."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from urllib.parse import urlsplit

from lmctl.errors import LmctlError
from lmctl.front import CLOUD, Cloud
from lmctl.gateway import router
from lmctl.gateway.cloud_keys import key
from lmctl.gateway.routing import Elsewhere, Routes, Target
from lmctl.record import replace
from lmctl.spec import Declaration


def with_clouds(routes: Routes, declaration: Declaration, environ: Mapping[str, str], *, offline: bool) -> Routes:
    """Return the routes with what may leave this machine: clouds, who falls back to them, and the router."""
    return replace(
        routes,
        clouds={cloud.name: target(cloud, environ, offline=offline) for cloud in declaration.clouds},
        untrusted=declaration.untrusted,
        fallback={one.name: one.fallback for one in declaration.profiles if one.fallback},
        router=router.table(declaration),
    )


def notes(routes: Routes) -> Iterator[str]:
    """Yield which clouds are not asked, and why."""
    for name in routes.untrusted:
        yield f"cloud {name} is not asked: it is not trusted on this machine (`lmctl trust`)"
    for one in routes.clouds.values():
        if one.cloud is not None and one.cloud.problem:
            yield f"{one.profile} is not asked: {one.cloud.problem}"


def target(cloud: Cloud, environ: Mapping[str, str], *, offline: bool = False) -> Target:
    """Return how a cloud is asked; why it cannot be is told with it. Reads the file of its key."""
    parts = urlsplit(cloud.base_url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    problem, secret = "", None
    try:
        secret = key(cloud, environ)
    except LmctlError as error:
        first = error.problems[0]
        problem = f"{first.what} — {first.fix}" if first.fix else first.what
    if offline and not _is_here(host):
        problem = "lmctl was started with --offline, and asks nobody but this machine"
    return Target(
        profile=f"{CLOUD}{cloud.name}",
        host=host,
        port=parts.port or (443 if secure else 80),
        model=cloud.model,
        weights=cloud.model,
        key=secret,
        cloud=Elsewhere(parts.path.rstrip("/"), secure, problem),
    )


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
