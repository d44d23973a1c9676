"""What the configuration says about watching it."""

from __future__ import annotations

from typing import Literal, cast

from lmctl.config.check import Merged
from lmctl.config.layers import Inputs
from lmctl.config.values import duration
from lmctl.record import record

Mode = Literal["safe", "all", "never"]


@record
class Settings:
    """What may be applied unasked, and when to look. Seconds."""

    apply: Mode = "safe"
    debounce: float = 0.3  # quiet time after an edit
    interval: float = 60.0  # between two looks at the world
    notify: tuple[str, ...] = ()  # argv of the program that is told what is noticed


def of(inputs: Inputs) -> Settings:
    """Return the settings of a configuration that was found whole."""
    keys = Merged(inputs.layers, "watch").keys
    notify = inputs.machine.tree.get("watch", {}).get("notify", ()) if inputs.machine else ()
    debounce, interval = duration(keys.get("debounce", "300ms")), duration(keys.get("interval", "60s"))
    return Settings(cast("Mode", keys.get("apply", "safe")), debounce, interval, tuple(notify))
