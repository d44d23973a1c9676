"""How a program's last run ended by itself, from what supervisord and the kernel say about it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from lmctl import launch
from lmctl.errors import escape

_LOOK = 256 << 10  # bytes of supervisord's log that are looked at
_OF_THE_LAUNCHER = f"exit status {launch.REFUSED}"


def ending(log: Path, program: str, starts: Sequence[launch.Record], oom_kills: int | None) -> str:
    """Return how the last run of `program` ended by itself, in words; empty when that is not known.

    `log` is supervisord's own, `oom_kills` how many processes the kernel has ended for want of memory where the program
    ran: when it was killed and there are more of them than at its start, memory is named as the cause.
    """
    found = re.findall(rb" exited: " + re.escape(program.encode()) + rb" \((.*); (?:not )?expected\)\n", _end(log))
    ended = [text.decode("utf-8", "replace") for text in found]
    last = next((text for text in reversed(ended) if text != _OF_THE_LAUNCHER), "")
    before = (launch.last_start(starts) or {}).get("oom")
    if "SIGKILL" in last and isinstance(before, int) and oom_kills is not None and oom_kills > before:
        return f"{escape(last)}: memory ran out, and the kernel ended it"
    return escape(last)


def _end(log: Path) -> bytes:
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - _LOOK))
            return file.read(_LOOK)
    except OSError:
        return b""
