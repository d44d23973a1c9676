"""Numbers of a shape, believed within bounds; a shape comes from a file somebody else wrote."""

from __future__ import annotations

from lmctl.spec import Shape

STEP = 256  # caches hold a multiple of this many tokens, in llama.cpp and MLX alike
MAX_NUMBER = 1 << 40  # a header that claims more is not believed


class Unknown(Exception):
    """Why there is no estimate."""


def pad(value: int, multiple: int) -> int:
    """Return `value` rounded up."""
    return value + -value % multiple


def number(shape: Shape, key: str, other: str | None = None, *, default: int | None = None, layer: int = 0) -> int:
    """Return a number of the shape, of `layer` where it has one per layer; else that of `other`, else `default`."""
    value = shape.get(key, shape.get(other, default) if other else default)
    if isinstance(value, list):
        value = value[layer] if layer < len(value) else None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_NUMBER:
        raise Unknown(f"the header gives no usable {key}")
    return value
