"""The end of a log, safe to show: what an engine prints may hold anything."""

from __future__ import annotations

from pathlib import Path

from lmctl.errors import escape

LINE = 64 << 10  # bytes after which a line is cut
_TAIL = 4 << 20  # bytes that are looked at for the last lines
LAST_WORDS = 20  # lines
_LOOK, _WIDTH = 64 << 10, 200  # bytes that are looked at for the last words, and characters that one of them may have


def shown(line: bytes) -> str:
    """Return a line as it may be printed."""
    return escape(line[:LINE].decode("utf-8", "replace").expandtabs(), LINE)


def end(path: Path, size: int = _TAIL) -> tuple[list[bytes], int]:
    """Return the lines in the last `size` bytes, of which the last one has not ended, and the position behind them.

    Raises OSError.
    """
    with path.open("rb") as file:
        position = file.seek(0, 2)
        start = file.seek(max(0, position - size))
        return file.read(position - start).split(b"\n"), position


def last_words(path: Path) -> tuple[str, ...]:
    """Return the last lines that a program printed, cut where they are long; none where there is no log.

    Empty lines are left out, and what the launcher said where the program said anything itself.
    """
    try:
        lines, _ = end(path, _LOOK)
    except OSError:
        return ()
    filled = [line for line in lines if line.strip()]
    spoken = [line for line in filled if not line.startswith(b"lmctl: ")] or filled
    return tuple(escape(shown(line).rstrip(), _WIDTH) for line in spoken[-LAST_WORDS:])
