"""The configuration: found, read, judged, merged and resolved for this machine; kept while nothing changes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lmctl.config import cache
from lmctl.config.find import Request, discover
from lmctl.paths import Folders
from lmctl.spec import Declaration, Hardware

if TYPE_CHECKING:
    from lmctl.config.resolution import Resolved


def load(request: Request, folders: Folders, environ: Mapping[str, str], hardware: Hardware) -> Declaration:
    """Return the Declaration for this machine. Raises every problem of the configuration at once (exit 65 or 4).

    From an unchanged configuration it comes out of the cache, without pydantic or tomllib.
    """
    if request.earlier is not None:
        return resolve(request, folders, environ, hardware).declaration
    file = discover(request, folders, environ)
    path, key = cache.entry(folders, file), cache.key(file, request, folders, environ, hardware)
    kept = cache.load(path, key, file)
    if kept is not None:
        return kept
    resolved = resolve(request, folders, environ, hardware)
    inputs = resolved.inputs
    said = {"hashes": inputs.hashes, "patterns": inputs.patterns, "listing": inputs.listing, "leads": inputs.leads}
    cache.save(path, key, said, resolved.declaration)
    return resolved.declaration


def resolve(
    request: Request,
    folders: Folders,
    environ: Mapping[str, str],
    hardware: Hardware,
    instead: Mapping[Path, bytes | None] | None = None,
    *,
    trusting: bool = False,
) -> Resolved:
    """Return the Declaration with the layers that it was made of; never asks the cache. Raises as `load`.

    `instead` is content to take for what lies on disk, by real path; None for a file that is to go. `trusting`: nothing
    is refused for want of trust.
    """
    from lmctl.config import layers, resolution  # pydantic and tomllib: not on the warm path

    file = discover(request, folders, environ)
    inputs = layers.read(file, request, folders, environ, instead)
    return resolution.resolve(inputs, folders, hardware, empty=request.empty, trusting=trusting)
