"""The classes of drift, and who may have moved."""

from __future__ import annotations

from typing import Literal, get_args

Class = Literal[
    "missing",  # it is declared and not there
    "modified",  # it is there, and not as declared
    "corrupt",  # a file whose size alone tells that it is another one
    "orphan_owned",  # lmctl brought or started it, and nothing asks for it any more
    "collision_unmanaged",  # something that is not lmctl's stands where it should be
    "pending_reload",  # it is written, and supervisord was not told
    "stale_process",  # it runs, and not as its files say
    "stopped",  # it should run
    "unhealthy",  # it runs and does not answer as it should
    "unverifiable",  # nobody can say how it is
    "lock_outdated",  # it is declared and not locked
]
Moved = Literal["file", "world", "both"]
CLASSES: tuple[Class, ...] = get_args(Class)
