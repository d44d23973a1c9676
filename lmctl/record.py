"""Frozen records whose classes cost next to nothing to make.

`dataclass` compiles several methods for every class, about a millisecond each time Python starts; a plan would wait
for a hundred of them. A `record` is declared the same way and shares one set of methods; type checkers see the fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, TypeVar, dataclass_transform

T = TypeVar("T")

NOTHING: Mapping[Any, Any] = {}  # the default of fields that map names; records are never changed, so one serves all


@dataclass_transform(frozen_default=True)
def record(cls: type[T]) -> type[T]:
    """Make a class a record: its annotations are the fields, in order, with their defaults, after those it inherits.

    Records are frozen, equal when type and fields are, hashable when all fields are, and print their fields.
    """
    own = tuple(cls.__annotations__)  # of this class alone; inspect, which asks in the same way, is slow to import
    set_on_class = {name: cls.__dict__[name] for name in own if name in cls.__dict__}
    cls._fields = (*(name for name in fields(cls) if name not in own), *own)  # type: ignore[attr-defined]
    cls._defaults = {**defaults(cls), **set_on_class}  # type: ignore[attr-defined]
    for method in (__init__, __setattr__, __delattr__, __eq__, __hash__, __repr__):
        if method.__name__ not in cls.__dict__ or method is __hash__:
            setattr(cls, method.__name__, method)
    return cls


def fields(record: object) -> tuple[str, ...]:
    """Return the names of a record's fields, of its class's too; nothing for what is no record."""
    return getattr(record, "_fields", ())


def defaults(record: object) -> Mapping[str, Any]:
    """Return the default of every field of a record that has one."""
    return getattr(record, "_defaults", NOTHING)


def replace(record: T, **changes: Any) -> T:
    """Return `record` with some fields changed."""
    return type(record)(**{**vars(record), **changes})


def __init__(self: Any, *values: Any, **named: Any) -> None:
    names = self._fields
    given = {**self._defaults, **dict(zip(names, values, strict=False)), **named}
    twice = bool(named) and not named.keys().isdisjoint(names[: len(values)])
    if len(given) != len(names) or len(values) > len(names) or twice:
        raise TypeError(f"{type(self).__name__} takes {', '.join(names)}")
    vars(self).update(given)


def __setattr__(self: Any, name: str, value: object) -> NoReturn:
    raise AttributeError(f"{type(self).__name__} is frozen")


def __delattr__(self: Any, name: str) -> NoReturn:
    raise AttributeError(f"{type(self).__name__} is frozen")


def __eq__(self: Any, other: object) -> bool:
    return type(self) is type(other) and vars(self) == vars(other)


def __hash__(self: Any) -> int:
    return hash((type(self), *(vars(self)[name] for name in self._fields)))


def __repr__(self: Any) -> str:
    return f"{type(self).__name__}({', '.join(f'{name}={vars(self)[name]!r}' for name in self._fields)})"
