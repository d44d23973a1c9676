"""What was found out about one thing of this machine, and how bad it is."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from typing import Literal

from lmctl.errors import (
    CONFIGURATION,
    DISK,
    DONE,
    EXIT_CODES,
    INTEGRITY,
    NETWORK,
    REFUSED,
    STALE_LOCK,
    UNHEALTHY,
    LmctlError,
    escape,
)
from lmctl.record import record
from lmctl.spec import Json

State = Literal["ok", "warn", "fail"]

# what keeps the most from working comes first: without a disk nothing can be done, without a Hub what is there serves
_WORST = (DISK, CONFIGURATION, STALE_LOCK, UNHEALTHY, INTEGRITY, REFUSED, NETWORK)


@record
class Finding:
    """One look at one thing. `code` is an error's where it fails; `mend` puts it right without taking anything."""

    check: str
    state: State
    what: str
    fix: str | None = None
    code: str | None = None
    mend: Callable[[], None] | None = None

    def plain(self) -> dict[str, Json]:
        """Return the documented form."""
        return {
            "check": self.check,
            "state": self.state,
            "what": self.what,
            "fix": self.fix,
            "code": self.code,
            "fixable": self.mend is not None,
        }


def ok(check: str, what: str) -> Finding:
    return Finding(check, "ok", what)


def warn(check: str, what: str, fix: str, mend: Callable[[], None] | None = None) -> Finding:
    return Finding(check, "warn", what, fix, mend=mend)


def fail(check: str, error: LmctlError, state: State = "fail") -> Finding:
    """Return the finding of something that ends in `error`; of several problems the first is told."""
    problem, more = error.problems[0], len(error.problems) - 1
    place = f"{problem.place}: " if problem.place else ""
    rest = f" (and {more} more)" if more else ""
    return Finding(check, state, f"{place}{problem.what}{rest}", problem.fix, problem.code)


def unreadable(error: OSError) -> LmctlError:
    """Return the error that a look which the disk refuses is reported as: E-PERM or E-IO."""
    what = f"{escape(os.fsdecode(error.filename or 'a file of lmctl'), 300)}: {os.strerror(error.errno or 0)}"
    if error.errno in (errno.EACCES, errno.EPERM):
        return LmctlError("E-PERM", what, fix="check who owns it and its permissions")
    return LmctlError("E-IO", what, fix="check the disk")


def worst(findings: Iterable[Finding]) -> int:
    """Return 0 when nothing fails, else the exit code of the failure that keeps the most from working."""
    codes = {EXIT_CODES[found.code] for found in findings if found.state == "fail" and found.code}
    return next((code for code in _WORST if code in codes), min(codes, default=DONE))
