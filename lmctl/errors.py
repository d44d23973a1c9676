"""The one error class, the exit code of every error code, and text made safe to show."""

from __future__ import annotations

from collections.abc import Iterable

from lmctl.record import record

DONE, BUG, CHANGES, PARTIAL = 0, 1, 2, 3
INTERRUPTED, TERMINATED, BROKEN_PIPE = 130, 143, 141
REFUSED, BUSY, INTEGRITY, NETWORK, DISK, UNHEALTHY = 4, 5, 6, 7, 8, 9
USAGE, CONFIGURATION, STALE_LOCK = 64, 65, 66

_CODES = {
    CONFIGURATION: "TOML ENCODING EMPTY FILE LIMIT KEY TYPE RANGE DURATION NAME REPO REVISION PATH MATCH CONFLICT REF"
    " INCLUDE ARG FLAG ENV BIND MACHINE SECRET BACKEND PLATFORM",
    USAGE: "USAGE",
    STALE_LOCK: "LOCK LOCK-STALE LOCK-NEWER",
    BUSY: "BUSY",
    REFUSED: "TRUST UNSAFE PRUNE PLAN-STALE NAME-TAKEN REMOTECODE MEMORY CONSENT",
    INTEGRITY: "HASH GGUF SHARD SAFETENSORS PICKLE UPSTREAM",
    NETWORK: "NETWORK HUB AUTH GATED MISSING RATE OFFLINE",
    DISK: "SPACE PERM IO STATE",
    UNHEALTHY: "PORT SUPERVISOR ENGINE UNHEALTHY CRASHLOOP",
    BUG: "BUG",
    INTERRUPTED: "INTERRUPTED",
}
EXIT_CODES: dict[str, int] = {f"E-{name}": exit_code for exit_code, names in _CODES.items() for name in names.split()}
WARNINGS = frozenset(["W-STALE", "W-SECRET", "W-TEMPLATE", "W-MEMORY", "W-NOEFFECT", "W-ROOT", "W-HELD", "W-TRUST"])


def escape(text: str, limit: int = 200) -> str:
    """Return `text` on one line, cut at `limit` characters; what cannot be printed or seen is escaped."""
    cut = text if len(text) <= limit else text[: limit - 1] + "…"
    return "".join(c if c.isprintable() else _escaped(ord(c)) for c in cut)


def _escaped(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


@record
class Place:
    """Where in a file a problem lies; line and column count from 1, columns in characters."""

    file: str
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        return ":".join(str(part) for part in (escape(self.file), self.line, self.column) if part is not None)


@record
class Problem:
    """One thing that is wrong: its code, what happened, what to do next, where, and which change of a plan met it."""

    code: str
    what: str
    fix: str | None = None
    place: Place | None = None
    change: str | None = None

    def __str__(self) -> str:
        kind = "warning" if self.code.startswith("W-") else "error"
        place = f"{self.place}: " if self.place else ""
        fix = f" — {self.fix}" if self.fix else ""
        head, *rows = self.what.split("\n")  # what it rests on may stand below it
        return "\n".join([f"{kind}[{self.code}]: {place}{head}{fix}", *rows])


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP arrived; unwinds like Ctrl-C does."""

    exit_code = TERMINATED


class OutputError(OSError):
    """What stands on stdout could not be written; unlike every other OSError it is nobody's bug."""


class LmctlError(Exception):
    """Everything lmctl refuses or fails at, as one or more problems; the first one decides the exit code."""

    def __init__(self, code: str, what: str, *, fix: str | None = None, place: Place | None = None) -> None:
        super().__init__(what)
        self.problems: tuple[Problem, ...] = (Problem(code, what, fix, place),)

    @classmethod
    def of(cls, problems: Iterable[Problem]) -> LmctlError:
        """Return one error that carries all of `problems` (at least one)."""
        found = tuple(problems)
        error = cls(found[0].code, found[0].what)
        error.problems = found
        return error

    @property
    def code(self) -> str:
        return self.problems[0].code

    @property
    def exit_code(self) -> int:
        return EXIT_CODES[self.code]

    def __str__(self) -> str:
        return "\n".join(str(problem) for problem in self.problems)
