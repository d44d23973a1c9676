"""Names of files that every system can keep, and keep apart: teams share them between Linux, macOS and WSL2."""

from __future__ import annotations

from collections.abc import Iterable

# bytes; a name of 255 leaves no room for the suffix that a partial file or a lock has, and macOS takes 1024 for a path
MOST_NAME, MOST_PATH, MOST_RELATIVE = 254, 4095, 1024


def same_name(value: str) -> str:
    """Return the form in which two names must differ: normal form, case folded. macOS keeps no others apart."""
    if value.isascii():
        return value.casefold()
    import unicodedata  # seldom needed

    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", value).casefold())


def too_long(path: str, most: int = MOST_PATH) -> str | None:
    """Return what of `path`, with `/` between its parts, is longer than every system takes; None when nothing is.

    `most` is in bytes: what is stored below other folders may not be as long as what is not.
    """
    size = len(path.encode("utf-8", "replace"))
    longest = max(len(part.encode("utf-8", "replace")) for part in path.split("/"))
    if longest > MOST_NAME:
        return f"a name of {longest} bytes, and not every system takes more than {MOST_NAME}"
    return f"{size} bytes, and not every system takes more than {most} there" if size > most else None


def twins(paths: Iterable[str]) -> tuple[str, str] | None:
    """Return two paths that are one file where case or normal form do not count, None when there are none."""
    first: dict[str, str] = {}
    for path in paths:
        known = first.setdefault(same_name(path), path)
        if known != path:
            return known, path
    return None
