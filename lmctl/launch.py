"""What supervisord starts: counts the starts of one program, reads its file and becomes the program.

It runs in the state folder of a declaration before every engine, so it imports nothing that is slow to load.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import stat
import sys
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

REFUSED = 75  # the exit code on which supervisord does not start a program again
LIMIT, WINDOW = 5, 600.0  # starts within seconds; one more is refused
_FILE_LIMIT, _LOG_LIMIT = 1 << 20, 1 << 16

_INHERITED = frozenset(["HOME", "USER", "PATH", "LANG", "TZ", "TMPDIR", "CUDA_VISIBLE_DEVICES"])
_INHERITED_PREFIXES = ("LC_", "SSL_CERT_", "HIP_", "ROCR_")

Record = Mapping[str, object]  # {"at", "pid", "hash", "oom"} of a start, {"hold": True or UNTRUSTED} or {"clear"}
UNTRUSTED = "untrusted"  # why a program is held that nobody stopped


def clock() -> float:
    """Return the seconds since boot, suspended time included, whatever happens to the date."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


def oom_kills(process: int | str = "self", root: str = "/") -> int | None:
    """Return how many processes the kernel has ended for want of memory in a process's control group.

    None where the kernel does not tell. `root` holds `proc` and `sys`.
    """
    for kind, path in _control_groups(f"{root}proc/{process}/cgroup"):
        # in a container the group's own path may not be there, and the mount shows the group itself
        for folder in (f"{root}sys/fs/cgroup/{kind}{path}", f"{root}sys/fs/cgroup/{kind}"):
            counts = [_oom_count(f"{folder}/{name}") for name in ("memory.events", "memory.oom_control")]
            if found := [count for count in counts if count is not None]:
                return found[0]
    return None


def _control_groups(path: str) -> list[tuple[str, str]]:
    """Return where a process's memory is accounted: version 2 ("", path), version 1 ("memory", path)."""
    try:
        with open(path) as file:
            lines = [line.rstrip("\n").split(":", 2) for line in file]
    except (OSError, ValueError):
        return []
    first = [("memory", line[2]) for line in lines if len(line) == 3 and "memory" in line[1].split(",")]
    return first + [("", line[2]) for line in lines if len(line) == 3 and line[:2] == ["0", ""]]


def _oom_count(path: str) -> int | None:
    try:
        with open(path) as file:
            words = [line.split() for line in file]
        return sum(int(number) for name, number in words if name in ("oom_kill", "oom_group_kill"))
    except (OSError, ValueError):
        return None


def inherited(environ: Mapping[str, str], named: Collection[str] = ()) -> dict[str, str]:
    """Return the part of an environment that engines get to see, and the `named` variables."""
    return {k: v for k, v in environ.items() if k in _INHERITED or k.startswith(_INHERITED_PREFIXES) or k in named}


def parse(text: bytes) -> list[Record]:
    """Return the records of a file of starts; lines that a crash left torn are skipped."""
    records: list[Record] = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def render(records: Iterable[Record]) -> bytes:
    """Return the bytes of a file of starts."""
    return b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records)


def held(records: Sequence[Record]) -> bool:
    """Return whether the program was told not to start."""
    return bool(_holds(records))


def untrusted(records: Sequence[Record]) -> bool:
    """Return whether it was told so for want of trust alone."""
    reasons = [record["hold"] for record in _holds(records)]
    return bool(reasons) and all(reason == UNTRUSTED for reason in reasons)


def with_hold(records: Sequence[Record], reason: bool | str = True) -> list[Record]:
    """Return the records with one more reason not to start the program; a reason that is there already is enough."""
    known = any(record["hold"] == reason for record in _holds(records))
    return [*records] if known else [*records, {"hold": reason}]


def _holds(records: Sequence[Record]) -> list[Record]:
    return [record for record in _since_clear(records) if "hold" in record]


def count(records: Sequence[Record], now: float) -> int:
    """Return how many starts of this boot, this series and the last ten minutes there were; `now` is `clock()`."""
    times = [record["at"] for record in _since_clear(records) if "at" in record]
    return sum(isinstance(at, float) and now - WINDOW < at <= now for at in times)


def last_start(records: Sequence[Record]) -> Record | None:
    """Return the record of the latest start, also of one that a deliberate start has cleared since."""
    return next((record for record in reversed(records) if "at" in record), None)


def cleared(records: Sequence[Record], *, keep_hold: bool = False) -> list[Record]:
    """Return the records of a series that begins anew; which start was the last stays known, but is not counted."""
    last = last_start(records)
    kept: list[Record] = [last] if last else []
    return [*kept, {"clear": True}, *(_holds(records) if keep_hold else [])]


def pause(n: int) -> float:
    """Return the seconds that start `n` of a series waits, counted from 1."""
    return 0.0 if n < 2 else 2.0 ** (n - 2)


def verdict(records: Sequence[Record], now: float) -> int | str:
    """Return the number of this start in its series, or why it is refused; `now` is `clock()`."""
    if held(records):
        way = "lmctl trust, then lmctl apply" if untrusted(records) else "lmctl start"
        return f"it is held ({way} lifts that)"
    before = count(records, now)
    return before + 1 if before < LIMIT else f"{LIMIT} starts within {WINDOW / 60:.0f} minutes"


def _since_clear(records: Sequence[Record]) -> Sequence[Record]:
    clears = [index for index, record in enumerate(records) if "clear" in record]
    return records[clears[-1] + 1 :] if clears else records


def update(path: str, change: Callable[[list[Record]], Iterable[Record]]) -> None:
    """Replace the records of the file at `path` by `change` of them; no other process reads or writes in between.

    Written in place, because the kernel's lock is on the file itself: appended to where the old lines stay.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        before = os.read(descriptor, _LOG_LIMIT)
        after = render(change(parse(before)))
        if before and after.startswith(before):
            os.pwrite(descriptor, after[len(before) :], len(before))
        else:
            os.pwrite(descriptor, after, 0)
            os.ftruncate(descriptor, len(after))
    finally:
        os.close(descriptor)


def read_starts(path: str) -> list[Record]:
    """Return the records of the file at `path`, none where there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return parse(os.read(descriptor, _LOG_LIMIT))
    except OSError:
        return []
    finally:
        os.close(descriptor)


def read_program(path: str) -> dict[str, object]:
    """Return a program file's object. Raises ValueError or OSError for what lmctl would not have written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            raise ValueError("its program file is not a regular file that only its owner can open")
        content = file.read(_FILE_LIMIT + 1)
    if len(content) > _FILE_LIMIT:
        raise ValueError("its program file is too large")
    try:
        program = json.loads(content)
    except RecursionError:
        raise ValueError("its program file is nested too deeply") from None
    if not isinstance(program, dict) or program.get("schema") != 1:
        raise ValueError("its program file is not of schema 1")
    return program


def _texts(program: Mapping[str, object]) -> tuple[list[str], dict[str, str], list[str], str, str]:
    """Return argv, env, inherit, cwd and hash. Raises ValueError where one has another type."""
    argv, env, cwd, digest = (program.get(key) for key in ("argv", "env", "cwd", "hash"))
    inherit = program.get("inherit", [])
    if (
        not isinstance(argv, list)
        or not argv
        or not isinstance(env, dict)
        or not isinstance(inherit, list)
        or not isinstance(cwd, str)
        or not isinstance(digest, str)
        or not all(isinstance(text, str) for text in (*argv, *env.values(), *inherit))
    ):
        raise ValueError("its program file lacks argv, env, cwd or hash")
    return argv, env, inherit, cwd, digest


def _admit(program: str, digest: str) -> float:
    """Record this start and return the seconds to wait first. Raises ValueError when it is refused."""
    answer: list[int | str] = []

    def change(records: list[Record]) -> list[Record]:
        now = clock()
        answer.append(verdict(records, now))
        if isinstance(answer[0], str):
            return records
        # a program that fails now and then for weeks must not outgrow the limit
        kept = records if len(records) < 100 else [{"clear": True}, *records[-LIMIT:]]
        return [*kept, {"at": now, "pid": os.getpid(), "hash": digest, "oom": oom_kills()}]

    update(f"starts/{program}", change)
    if isinstance(answer[0], str):
        raise ValueError(answer[0])
    return pause(answer[0])


def _become(program: str) -> None:
    content = read_program(f"programs/{program}.json")
    argv, env, inherit, cwd, digest = _texts(content)
    if content.get("id") != program:
        raise ValueError("its program file belongs to another program")
    if seconds := _admit(program, digest):
        _say(f"it ended by itself, the next start waits {seconds:g} s")
        time.sleep(seconds)
    environ = {**inherited(os.environ, inherit), **env, "LMCTL_HASH": digest}
    os.chdir(cwd)
    if argv[0] == "{python}":
        argv = [sys.executable, *argv[1:]]
    # Python ignores these two, and what is ignored stays so across exec
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(argv[0], argv, environ)  # noqa: S606 no shell is meant


def main(argv: Sequence[str]) -> int:
    """Become the program whose id is the one argument; return 75 with one line on stderr when that cannot be."""
    program = argv[0] if len(argv) == 1 else ""
    try:
        if not program.replace("-", "").isalnum():
            raise ValueError("its id is not one that lmctl gives")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _become(program)
    except OSError as error:
        why = f"{os.strerror(error.errno or 0)}: {error.filename!a}"
    except ValueError as error:
        why = ascii(str(error))[1:-1]
    _say(f"{ascii(program[:64])[1:-1]} is not started: {why}")
    return REFUSED


def _say(text: str) -> None:
    print(f"lmctl: {text}", file=sys.stderr, flush=True)  # supervisord puts it into the program's log


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
