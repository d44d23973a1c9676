"""What a kind of resource must answer, and the snapshot of the world that all of them look at."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

from lmctl.backend import Engine
from lmctl.errors import LmctlError
from lmctl.host import Daemon, Found, Host, OnProgress
from lmctl.ledger import Ledger, Memory, Owned
from lmctl.plan import Change, Kept, Stage
from lmctl.record import NOTHING, record
from lmctl.spec import GATEWAY, Declaration, Hardware, Lock, Profile, Signature

Hashed = Mapping[Path, tuple[Signature, str]]  # content path -> the signature that it had when it was read, its sha256


@record
class Scope:
    """What a run is about. `names` None: everything; `run`: profiles that must run whatever their `start` says."""

    names: frozenset[str] | None = None
    exclude: frozenset[str] = frozenset()
    left: frozenset[str] = frozenset()  # profiles that stay as they are, though nothing is left out
    run: frozenset[str] = frozenset()
    again: frozenset[str] = frozenset()  # profiles to restart even when nothing changed
    waive_wait: bool = False  # prune without the waiting time
    prune: bool = True
    only: Stage | None = None  # this stage alone
    approved: bool = False  # a person said yes to what is large
    # prune these artifacts alone: a person named them, so neither their protection nor the waiting time keeps them
    artifacts: frozenset[str] | None = None
    leaving: frozenset[str] = frozenset()  # declarations that leave this machine: nothing of theirs wants anything

    def covers(self, name: str) -> bool:
        """Whether the profile called `name` belongs to this run."""
        return name not in self.exclude | self.left and (self.names is None or name in self.names)

    def touches(self, name: str) -> bool:
        """Whether one of lmctl's own programs belongs to this run: the gateway stands before every profile."""
        return self.covers(name) or (name == GATEWAY and name not in self.exclude | self.left)

    def named(self, name: str) -> bool:
        """Whether a person named it, which lifts holds and fetches what waits for a start."""
        return self.covers(name) and (name in self.run or self.names is not None)

    @property
    def whole(self) -> bool:
        """Whether nothing was left out: only then may anything be pruned."""
        return self.names is None and not self.exclude


@record
class References:
    """Who else refers to content by sha256: `None` when a declaration of this machine cannot be read."""

    others: frozenset[str] | None = frozenset()


@record
class Stray:
    """A partial file that nobody is writing."""

    path: str
    size: int
    age: float  # seconds since the last byte


@record
class World:
    """One immutable look at this machine, taken before planning."""

    daemon: Daemon
    hardware: Hardware
    now: float  # seconds since the epoch
    found: Mapping[str, tuple[Found, ...]] = NOTHING  # by artifact id
    received: Mapping[str, int] = NOTHING  # sha256 of a missing file -> bytes that an interrupted download left
    memory: Memory = Memory()
    engines: Mapping[str, Engine | LmctlError | None] = NOTHING  # by backend
    templates: Mapping[Path, bytes | LmctlError] = NOTHING  # content of the chat templates that profiles name
    references: References = References()
    held: Mapping[str, tuple[int, ...]] = NOTHING  # content path -> processes that have it open
    there: frozenset[str] = frozenset()  # owned paths whose signature is unchanged
    gone: frozenset[str] = frozenset()  # owned paths that no longer exist
    changed: Mapping[str, Signature] = NOTHING  # owned paths that are there with another signature: theirs
    served: frozenset[str] = frozenset()  # owned paths to which the argv of a program leads
    linked: Mapping[str, str] = NOTHING  # owned paths to which a link may lead that lmctl did not place: why
    outside: frozenset[str] = frozenset()  # owned paths that do not lie in the cache as it is configured now
    let_go: Mapping[str, tuple[str, ...]] = NOTHING  # content path -> programs that have it open and are removed first
    shared: frozenset[str] = frozenset()  # owned paths whose content has another name (a hard link)
    environ: Mapping[str, str] = NOTHING  # what lmctl's own programs are given of this process's environment
    taken_ports: Mapping[int, str] = NOTHING  # with the name of the declaration whose program has it, else empty
    strays: tuple[Stray, ...] = ()
    owned: Mapping[str, Owned] = NOTHING  # the ledger's rows by path


@record
class Case:
    """All that planning depends on."""

    declaration: Declaration
    lock: Lock
    world: World
    scope: Scope = Scope()

    def owned_at(self, path: str) -> Owned | None:
        """Return the ledger's row for a file."""
        return self.world.owned.get(path)

    def fetches(self, profile: Profile) -> bool:
        """Whether this run may fetch the profile's weights: `fetch = "start"` waits until a person names it."""
        return profile.fetch == "apply" or self.scope.named(profile.name)

    def profiles(self) -> tuple[Profile, ...]:
        """Return the profiles this run covers."""
        return tuple(profile for profile in self.declaration.profiles if self.scope.covers(profile.name))


@record
class Outcome:
    """How one change ended; `error` None: done."""

    change: Change
    error: LmctlError | None = None


@record
class Run:
    """What carrying out changes needs beside the case."""

    host: Host
    ledger: Ledger
    generation: int
    on_progress: OnProgress
    stop: threading.Event  # set by the first Ctrl-C: begin nothing new
    say: Callable[[str], None]
    hashed: Hashed = NOTHING  # of what was read before anything began
    # lets others change programs while something takes long; what was looked at before may have changed then
    unlocked: Callable[[], AbstractContextManager[None]] = nullcontext


class Kind(Protocol):
    """A module of `resources/`: decides purely, then carries out what was decided and decides nothing more."""

    @property
    def NAME(self) -> str: ...

    @property
    def STAGE(self) -> Stage: ...

    # what this kind would change; pure
    def changes(self, case: Case) -> Iterable[Change]: ...

    # what it deliberately leaves, with the reason; pure
    def kept(self, case: Case) -> Iterable[Kept]: ...

    # carry out changes of one stage; every one of them gets an outcome, failures do not stop the others
    def apply(self, changes: tuple[Change, ...], case: Case, run: Run) -> Iterable[Outcome]: ...


def keeps_nothing(case: Case) -> Iterable[Kept]:
    """The default of `Kind.kept`."""
    return ()
