"""What looks like a secret, by what it says and by what it is called; values without secrets, to be told and kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

HIDDEN = "(hidden)"
NAMES_SECRET = re.compile(r"(?i)(^|_)(token|secret|password|passwd|api_?keys?|credentials?)$")
LOOKS_SECRET = re.compile(r"\bhf_[A-Za-z0-9]{30,}|\bsk-[A-Za-z0-9_-]{16,}")


def names_secret(name: str) -> bool:
    """Return whether a key or a flag is called like a secret."""
    return NAMES_SECRET.search(name.lstrip("-").replace("-", "_").replace(".", "_")) is not None


def hidden(value: Any, name: str = "") -> Any:
    """Return a JSON value, called `name`, as it may be told and kept.

    What looks like a secret gives way to a few digits of its sha256, so that another one is told from it; what is only
    called like one may be short enough to be guessed by them, and gives way to a word. Both stay as they are when
    this is done again.
    """
    match value:
        case str():
            return HIDDEN if names_secret(name) else LOOKS_SECRET.sub(_digest, value)
        case Mapping():
            return {key: hidden(held, key) for key, held in value.items()}
        case list() | tuple():
            return HIDDEN if names_secret(name) else type(value)(_words(value))
        case _:
            return value


def _words(words: Iterable[Any]) -> Iterator[Any]:
    """Yield the items of a list, which may be the words of a command: the one after a flag is the flag's value."""
    flag = ""
    for word in words:
        if not isinstance(word, str):
            yield hidden(word)
            flag = ""
            continue
        name, equals, _ = word.partition("=")
        if flag and not word.startswith("-"):
            yield HIDDEN
        elif equals and word.startswith("-") and names_secret(name):
            yield f"{name}={HIDDEN}"
        else:
            yield hidden(word)
        flag = word if word.startswith("-") and not equals and names_secret(word) else ""


def _digest(found: re.Match[str]) -> str:
    return f"(hidden {hashlib.sha256(found[0].encode()).hexdigest()[:8]})"


class Secret(bytes):
    """Bytes that nothing shows: neither a traceback nor a record that is printed."""

    def __repr__(self) -> str:
        return HIDDEN

    __str__ = __repr__
