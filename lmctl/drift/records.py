"""What a drift is: where something is not as declared, how it was applied, who moved, and what mends it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lmctl import plan
from lmctl.classes import Class, Moved
from lmctl.condition import Condition
from lmctl.record import NOTHING, record
from lmctl.secret import HIDDEN, LOOKS_SECRET, names_secret
from lmctl.spec import Json

APPLY, DOWN = "lmctl apply", "lmctl down, then lmctl apply"


@record
class Field:
    """One thing that differs: as declared, as last applied, as it is. None stands for absent, or not known."""

    name: str
    desired: Json
    applied: Json
    observed: Json


@record
class Drift:
    """One thing that is not as declared. `mend` is the command, or the words, after which it is."""

    kind: Class
    address: str
    fields: tuple[Field, ...]
    moved: Moved | None  # your file, the world, or both; None where nothing remembers what was applied
    mend: str

    @property
    def fingerprint(self) -> str:
        """64 hex digits, the same for the same drift: no process and no time is in it."""
        rows: list[Json] = [[field.name, field.desired, field.applied, field.observed] for field in self.fields]
        return plan.fingerprint(self.kind, self.address, rows)


@record
class Seen:
    """What only asking tells: how programs are, by profile, and who else listens where one should."""

    conditions: Mapping[str, Condition] = NOTHING
    listeners: Mapping[str, str] = NOTHING
    declared: bool = True  # False: the configuration or the lock cannot be read, and what was applied has to do


def made(kind: Class, address: str, fields: Iterable[Field], mend: str = APPLY) -> Drift:
    """Return a drift of which the fields tell who moved. Values that look like secrets are hidden."""
    rows = tuple(map(_without_secrets, fields))
    file = any(row.desired != row.applied for row in rows)
    world = any(row.observed != row.applied for row in rows)
    return Drift(kind, address, rows, "both" if file and world else "file" if file else "world", mend)


def _without_secrets(row: Field) -> Field:
    values = (row.desired, row.applied, row.observed)
    if not names_secret(row.name) and not any(LOOKS_SECRET.search(str(value)) for value in values):
        return row
    # which of them are equal still tells who moved
    known = {str(value): n for n, value in enumerate(values)}
    hidden = (None if value is None else f"{HIDDEN} {known[str(value)]}".removesuffix(" 0") for value in values)
    return Field(row.name, *hidden)
