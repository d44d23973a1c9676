"""The registry of resource kinds, in the order in which their stages run."""

from __future__ import annotations

from lmctl.resource import Kind
from lmctl.resources import content, program, weights

KINDS: dict[str, Kind] = {
    weights.NAME: weights,
    program.NAME: program,
    content.NAME: content,
}
