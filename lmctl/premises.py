"""What this machine offers lmctl to work on, as a Protocol: folders, file systems, limits, and what is left over."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from lmctl.record import record


@record
class Ground:
    """A folder and what lies below it; while it does not exist, the nearest one above it (`there`)."""

    path: Path
    there: Path
    folder: bool = False  # not a file, and not out of reach
    ours: bool = False
    mode: int = 0
    writable: bool = False
    device: int = 0
    free: int = 0  # bytes that this user may still write
    kind: str = ""  # of the file system, such as ext4; empty: not known
    options: frozenset[str] = frozenset()  # it is mounted with, such as ro
    folds_case: bool = False  # names that differ in case alone are one

    @property
    def exists(self) -> bool:
        return self.path == self.there


@record
class HubFacts:
    """The Hub that would be asked. `token` names the variable or file that holds the token, empty: there is none."""

    url: str
    token: str = ""
    mode: int | None = None  # of the file, where it is one


class Premises(Protocol):
    """What this machine offers lmctl to work on, and what killed runs left of it. Raises E-PERM and E-IO."""

    def ground(self, path: Path) -> Ground: ...

    def root(self) -> bool: ...  # whether this is the superuser

    def files(self, programs: int) -> tuple[int, int | None]: ...  # open files needed, and the most there may be

    # the socket of the daemon that had this state folder, while none has it
    def stale_socket(self, state: Path) -> Path | None: ...

    def remove_socket(self, state: Path) -> None: ...  # if it is stale; the declaration's lock is held

    def login_script(self, state: Path, *, on: bool) -> Path: ...  # what a unit starts at login: written, or removed

    # temporary files of killed writers: of a declaration's state folder, or of these files of any folder
    def left(self, folder: Path, names: Iterable[str] | None = None) -> tuple[Path, ...]: ...

    def remove_left(self, folder: Path, names: Iterable[str] | None = None) -> None: ...

    def loose(self, folder: Path) -> tuple[Path, ...]: ...  # what other users may open in a folder of lmctl

    def tighten(self, folder: Path) -> None: ...  # takes that from them

    # which Hub is asked and where its token comes from; raises E-MACHINE and E-AUTH
    def hub(self) -> HubFacts: ...
