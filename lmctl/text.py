"""Words for people: colours, aligned columns, bytes and durations."""

from __future__ import annotations

import os
from collections.abc import Mapping


class Style:
    """Colours for a terminal; without them every text reads the same, so colour never carries meaning alone."""

    def __init__(self, colour: bool = False) -> None:
        self.colour = colour

    def _sgr(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.colour and text else text

    def bold(self, text: str) -> str:
        return self._sgr("1", text)

    def dim(self, text: str) -> str:
        return self._sgr("2", text)

    def red(self, text: str) -> str:
        return self._sgr("31", text)

    def green(self, text: str) -> str:
        return self._sgr("32", text)

    def yellow(self, text: str) -> str:
        return self._sgr("33", text)

    def cyan(self, text: str) -> str:
        return self._sgr("36", text)


PLAIN = Style()


def table(rows: list[list[str]], style: Style = PLAIN) -> str:
    """Return rows in aligned columns, the first one as a bold header; numbers stand right."""
    if not rows:
        return ""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = [len(rows) > 1 and all(_numeric(row[i]) for row in rows[1:]) for i in range(len(widths))]
    lines = []
    for n, row in enumerate(rows):
        cells = [cell.rjust(w) if r else cell.ljust(w) for cell, w, r in zip(row, widths, right, strict=True)]
        line = "  ".join(cells).rstrip()
        lines.append(style.bold(line) if n == 0 else line)
    return "\n".join(lines) + "\n"


def _numeric(cell: str) -> bool:
    return cell in {"", "-"} or cell[0].isdigit()


def human_bytes(count: float) -> str:
    """Return bytes as people read them: 512 B, 1.5 KiB, 18.5 GiB."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(count) < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError


def human_id(artifact: str) -> str:
    """Return an artifact's id or address as people read it: without the colon that no quant follows."""
    return artifact.removesuffix(":")


def human_time(seconds: float) -> str:
    """Return a duration as people read it: 8s, 3m 20s, 5h 2m, 4d 1h."""
    whole = round(seconds)
    for size, unit, below, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size}{unit}" + (f" {rest}{small}" if rest else "")
    return f"{whole}s"


def width(environ: Mapping[str, str]) -> int:
    """Return the columns of the terminal, 80 when there is none."""
    try:
        return os.get_terminal_size().columns
    except OSError:
        return int(environ.get("COLUMNS", "80")) if environ.get("COLUMNS", "80").isdigit() else 80
