"""The words in which the scheduler is told of profiles and says what is to be done. Seconds are monotonic."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from lmctl.record import record
from lmctl.spec import Start as Kind

Seen = Literal["loading", "ready"]  # what runs: not yet healthy, or healthy
State = Literal["asleep", "starting", "loading", "ready", "draining", "stopping"]
Cause = Literal["ttl", "room"]
Fits = Callable[[frozenset[str]], bool | None]  # whether these profiles fit in memory together; None: not known


@record
class Policy:
    """How a profile is served. Beyond `slots` requests `queue` more wait; `rivals` must not run beside it."""

    kind: Kind = "always"
    ttl: float = 900.0
    slots: int = 1
    queue: int = 64
    rivals: frozenset[str] = frozenset()
    load_timeout: float = 300.0  # longest wait for it to run


@record
class Why:
    """Why a request is refused: what a client is answered."""

    status: int
    code: str
    message: str
    retry: float  # seconds after which it may be worth asking again


@record
class Start:
    name: str


@record
class Stop:
    name: str
    cause: Cause


@record
class Admit:
    """The request has a slot; it is given back with `leave`."""

    name: str
    ticket: int


@record
class Refuse:
    name: str
    ticket: int
    why: Why


@record
class Look:
    """See what runs; what is known of the `doubted` has to be asked anew."""

    doubted: frozenset[str] = frozenset()


@record
class Drained:
    """Nothing is in flight any more, or the time that was given for it is over."""

    name: str


Effect = Start | Stop | Admit | Refuse | Look | Drained


@record
class Standing:
    """One profile now, for whoever asks."""

    state: State
    in_flight: int
    waiting: int
    failed: str = ""  # why the last start failed
    sleeps: float = math.inf  # when it will have idled long enough to be stopped
