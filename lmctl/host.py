"""Everything outside of lmctl, as small Protocols; `hosts/` implements them, the composition root picks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Literal, Protocol

from lmctl.backend import Engine
from lmctl.errors import LmctlError
from lmctl.premises import Premises
from lmctl.record import NOTHING, record
from lmctl.spec import Artifact, Hardware, Health, LockedFile, Probe, Process, ProgramSpec, Signature, Wanted


@record
class RemoteFile:
    """A file of a repository; the Hub gives no sha256 for small files, `blob` (git's sha1) names those in the cache."""

    path: str
    size: int
    sha256: str | None
    blob: str


@record
class Listing:
    """A repository at one commit."""

    repo: str
    revision: str  # as asked
    commit: str  # 40 hex digits
    files: tuple[RemoteFile, ...]


class Hub(Protocol):
    """The Hugging Face Hub. Every method raises E-NETWORK, E-HUB, E-AUTH, E-GATED, E-MISSING, E-RATE or E-OFFLINE."""

    def list(self, repo: str, revision: str) -> Listing: ...

    # bytes [start, start + length) of a file, fewer at its end; for headers and small files
    def read(self, repo: str, commit: str, path: str, start: int, length: int) -> bytes: ...


@record
class Fetch:
    """One file to bring."""

    repo: str
    revision: str  # as asked, for the cache's refs
    commit: str
    file: LockedFile


@record
class Progress:
    """What a person is told while bytes move; `done` of `total` bytes of one file."""

    path: str
    done: int
    total: int
    phase: Literal["download", "hash", "place", "wait", "done", "failed"] = "download"
    note: str = ""


OnProgress = Callable[[Progress], None]


@record
class Fetched:
    """How one file ended: the path in the cache and the signature of its content, or the error."""

    fetch: Fetch
    blob: Path | None = None
    signature: Signature | None = None
    error: LmctlError | None = None


class Transfer(Protocol):
    """Moves bytes from the Hub into the cache: resumed, hashed while received, placed by rename."""

    def room(self, fetches: Sequence[Fetch]) -> None: ...  # raises E-SPACE with the table of needs

    # `on_verified` is told of each file once its sha256 agrees and before it gets its place in the cache: the blob's
    # path to be and the signature, which a rename keeps
    def fetch(
        self, fetches: Sequence[Fetch], on_progress: OnProgress, on_verified: Callable[[Fetched], None]
    ) -> tuple[Fetched, ...]: ...


@record
class Found:
    """Where a file of an artifact lies: `path` as an engine opens it, `content` the real file behind links."""

    file: LockedFile
    path: Path
    content: Path
    signature: Signature | None  # None: not there
    readable: bool = True


@record
class Partial:
    """A partial file: bytes on disk, and when the last one was written (seconds since the epoch)."""

    path: Path
    size: int
    modified: float


class Store(Protocol):
    """Weights on disk: the Hugging Face cache, LM Studio's folder, Ollama's store, local files."""

    # where each file of the artifact is, or would be placed; `known` are content paths that the ledger verified before.
    # Files that lie elsewhere with the right name and size count as found: whoever uses them hashes them first.
    def locate(self, artifact: Artifact, wanted: Wanted, known: Mapping[str, Path]) -> tuple[Found, ...]: ...

    def signature(self, path: Path) -> Signature | None: ...

    # weights beside `files` that are none of them, and that an engine which is given the folder would load with them
    def beside(self, files: Sequence[Found]) -> tuple[Path, ...]: ...

    # bytes of a missing file that need not be fetched: its content, else what an interrupted download left
    def received(self, missing: Found) -> int: ...

    # sha256 of each file, side by side on all cores; None where it cannot be read
    def hashes(self, paths: Sequence[Path], on_progress: OnProgress) -> tuple[str | None, ...]: ...

    # whether the path lies in the Hugging Face cache as it is configured now: nothing else is ever pruned
    def holds(self, blob: Path) -> bool: ...

    # cache entries that point at the blob; a blob that something else uses is not ours to remove
    def links(self, blob: Path) -> tuple[Path, ...]: ...

    # whether the content has another name (a hard link): then removing the file frees nothing
    def shared(self, path: Path) -> bool: ...

    # unlink a blob and the links that lead to it when its signature still is `signature` and all of its links are in
    # `own`, those that lmctl placed; bytes freed. Reached by dir_fd with O_NOFOLLOW inside a configured root; raises
    # E-PRUNE when a rule does not hold.
    def remove(self, blob: Path, signature: Signature, own: Sequence[Path]) -> int: ...

    # partial files that nobody is writing as far as their journals tell; locks nothing
    def partials(self) -> tuple[Partial, ...]: ...

    def remove_partial(self, path: Path) -> int: ...  # 0 when it is gone already; E-BUSY while somebody writes it


@record
class Daemon:
    """supervisord as it is: not running (`pid` None) or with its programs; `specs` is what its files declare."""

    pid: int | None
    processes: Mapping[str, Process]
    specs: Mapping[str, ProgramSpec]  # `stop_timeout` in whole seconds, as supervisord counts them
    edited: tuple[str, ...] = ()  # sections and files that are not as lmctl would write them now
    stranded: tuple[str, ...] = ()  # scripts that name a Python which is gone, and are else as lmctl writes them
    problem: str = ""  # why a daemon that is there cannot be asked
    held: frozenset[str] = frozenset()  # programs that the launcher refuses to start
    untrusted: frozenset[str] = frozenset()  # those of `held` whose trust was revoked, and which nobody stopped
    orphans: Mapping[str, int] = NOTHING  # pids of programs that outlived a killed daemon
    killed: bool = False  # the last one was not told to end: whatever became of its programs, nobody wanted that
    lost: tuple[int, ...] = ()  # pids of daemons whose state folder was deleted while they ran
    unseen: Mapping[str, int] = NOTHING  # pids of programs whose daemon lives and cannot be asked
    fileless: frozenset[str] = frozenset()  # programs that run, and whose file is gone or damaged: not in `specs`
    keyless: frozenset[str] = frozenset()  # programs whose key is gone or damaged
    locks: Mapping[str, int] = NOTHING  # who does the work of lmctl's own programs now: pids, by program


class Supervisor(Protocol):
    """lmctl's own supervisord for one declaration. Raises E-SUPERVISOR."""

    def observe(self) -> Daemon: ...

    # write program files, launcher and the one configuration file; True when something changed. What is gone stays in
    # `Daemon.specs` until a reload or a shutdown has ended it; what is in `Daemon.fileless` stays as it is
    def write(self, programs: Sequence[ProgramSpec]) -> bool: ...

    # make the keys of programs that have none, or a damaged one: those that run must then be replaced
    def make_keys(self, programs: Collection[str]) -> None: ...

    # start the daemon if absent (programs with `autostart` start), else apply the written configuration: replace the
    # programs named, add the new, remove the gone. Nothing else is touched, whatever its section says. A replaced or
    # new program with `autostart` starts; any other stays stopped until `start`, but when the change fails for one
    # program, the others that ran run again. Refuses while programs of an earlier daemon run: `shutdown` ends those
    def reload(self, replace: frozenset[str]) -> None: ...

    # deliberate: releases them first; nothing for one that runs. Those that do not start are in the error's problems
    def start(self, *programs: str) -> None: ...

    # returns when its process group is empty; nothing when it does not run. Names who left the group with its port
    def stop(self, program: str) -> None: ...

    # stops every program and the daemon, also programs that outlived a daemon, and daemons that lost their folder
    def shutdown(self) -> None: ...

    # the launcher refuses to start it; `untrusted`: until an apply, which takes trust, not until a person starts it
    def hold(self, program: str, *, untrusted: bool = False) -> None: ...

    def release(self, program: str) -> None: ...  # a deliberate start: lifts the hold, clears the count of starts

    def log(self, program: str) -> Path: ...

    # how its last run ended by itself, in words ("terminated by SIGKILL"), empty when that is not known
    def ending(self, program: str) -> str: ...


MOST_RUNNING = 200  # programs of one supervisord at once: up to here each costs the same (bench/scale.py)


@record
class Listener:
    """Who listens on a port."""

    pid: int | None
    command: str


class Processes(Protocol):
    """Other processes of this machine."""

    def listener(self, port: int) -> Listener | None: ...

    def busy(self, ports: range) -> frozenset[int]: ...  # those of them at which something listens

    # which of `roots` a process is or descends from, the nearest one; None when it is none of theirs, or ended
    def root(self, pid: int, roots: Collection[int]) -> int | None: ...

    # resident bytes of each process with its descendants, but for those that ended
    def memory(self, roots: Collection[int]) -> Mapping[int, int]: ...

    # processes that have a file open or mapped, by file; all files at once, because it means looking at every process
    def holders(self, paths: Iterable[Path]) -> Mapping[Path, tuple[int, ...]]: ...

    def probe(self, listen: str, probe: Probe, root: int | None) -> Health: ...

    # what the program that should listen on an address answers to GET `path`, None where that is no 200
    def page(self, listen: str, path: str, root: int | None) -> str | None: ...


class Engines(Protocol):
    """Programs that can serve. Raises E-ENGINE."""

    def find(self, backend: str) -> Engine | None: ...

    # what the engine calls itself; where that is not known yet, runs it with --version
    def ask(self, backend: str) -> str | None: ...

    # the version, when the engine can run this argv from this folder; runs it with --version and --help once per file
    def check(self, backend: str, argv: Sequence[str], folder: Path) -> str | None: ...


class Desk(Protocol):
    """The gateway of this declaration; where none runs, nothing is asked of it."""

    # within it requests for these profiles wait; it begins when those under way ended, or after `seconds`
    def drained(self, profiles: Collection[str], seconds: float) -> AbstractContextManager[None]: ...

    def caught_up(self) -> None: ...  # returns once it goes by what is declared and runs now, or after some seconds


class Host(Protocol):
    """The outside world of one run; each part is made when it is first asked for."""

    @property
    def hub(self) -> Hub: ...

    @property
    def transfer(self) -> Transfer: ...

    @property
    def store(self) -> Store: ...

    @property
    def supervisor(self) -> Supervisor: ...

    @property
    def processes(self) -> Processes: ...

    @property
    def engines(self) -> Engines: ...

    @property
    def desk(self) -> Desk: ...

    @property
    def premises(self) -> Premises: ...

    @property
    def hardware(self) -> Hardware: ...

    @property
    def environ(self) -> Mapping[str, str]: ...  # what lmctl's own programs are given of this process's environment

    @property
    def stop(self) -> threading.Event: ...  # set by the first Ctrl-C: what is under way ends soon, nothing new begins

    def now(self) -> float: ...  # seconds since the epoch
