"""Line and column of every key of a TOML text: tomllib tells none. Only read when something is wrong or explained."""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from dataclasses import dataclass, field

Path = tuple[str | int, ...]

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}\n#]+")
_STRINGS = (
    ('"""', re.compile(r'"""(?:\\[\s\S]|[^\\])*?"{3,5}(?!")')),
    ("'''", re.compile(r"'''[\s\S]*?'{3,5}(?!')")),
    ('"', re.compile(r'"(?:\\[^\n]|[^"\\\n])*"')),
    ("'", re.compile(r"'[^'\n]*'")),
)


class Broken(Exception):
    """The text stops being TOML at `offset`."""

    def __init__(self, offset: int, what: str) -> None:
        super().__init__(what)
        self.offset = offset


class Repeated(Exception):
    """What is declared at `first` is declared again at `second`."""

    def __init__(self, path: Path, first: int, second: int) -> None:
        super().__init__(path)
        self.path, self.first, self.second = path, first, second


@dataclass
class Scanner:
    """One pass over a text; `found` maps each path to the offset of its key, or of the value inside an array."""

    text: str
    at: int = 0
    found: dict[Path, int] = field(default_factory=dict)
    values: set[Path] = field(default_factory=set)
    tables: set[Path] = field(default_factory=set)
    arrays: dict[Path, int] = field(default_factory=dict)

    def scan(self) -> dict[Path, int]:
        """Return the offset of every path. Raises Broken or Repeated where the text is no TOML."""
        here: Path = ()
        while True:
            self._skip(_BLANK)
            if self.at >= len(self.text):
                return self.found
            if self.text[self.at] == "[":
                here = self._header()
            else:
                self._assignment(here)
            self._skip(_SPACE)
            if self.at < len(self.text) and self.text[self.at] not in "#\n":
                raise Broken(self.at, "expected a new line")

    def _skip(self, what: re.Pattern[str]) -> None:
        match = what.match(self.text, self.at)
        self.at = match.end() if match else self.at

    def _expect(self, mark: str) -> None:
        if not self.text.startswith(mark, self.at):
            raise Broken(self.at, f"expected {mark!r}")
        self.at += len(mark)

    def key(self) -> tuple[str, ...]:
        """Return the parts of the dotted key at the current offset."""
        parts = []
        while True:
            self._skip(_SPACE)
            bare = _BARE.match(self.text, self.at)
            if bare:
                parts.append(bare[0])
                self.at = bare.end()
            else:
                start = self.at
                self._string()
                parts.append(tomllib.loads(f"k = {self.text[start : self.at]}")["k"])
            self._skip(_SPACE)
            if not self.text.startswith(".", self.at):
                return tuple(parts)
            self.at += 1

    def _string(self) -> None:
        for quote, whole in _STRINGS:
            if self.text.startswith(quote, self.at):
                match = whole.match(self.text, self.at)
                if not match:
                    raise Broken(self.at, "unterminated string")
                self.at = match.end()
                return
        raise Broken(self.at, "expected a key or a value")

    def _resolve(self, path: Path) -> Path:
        """Return `path` with the current index after each array of tables."""
        whole: Path = ()
        for part in path:
            whole = (*whole, part)
            if whole in self.arrays:
                whole = (*whole, self.arrays[whole])
        return whole

    def _header(self) -> Path:
        start, double = self.at, self.text.startswith("[[", self.at)
        self.at += 2 if double else 1
        parts = self.key()
        self._expect("]]" if double else "]")
        parent = self._resolve(parts[:-1])
        path: Path = (*parent, parts[-1])
        self._parents(parent, (), start)
        if double:
            if path in self.values or path in self.tables:
                raise Repeated(path, self.found[path], start)
            self.arrays[path] = self.arrays.get(path, -1) + 1
            self.found.setdefault(path, start)
            path = (*path, self.arrays[path])
        elif path in self.values or path in self.tables or path in self.arrays:
            raise Repeated(path, self.found[path], start)
        self.tables.add(path)
        if path not in self.found or not double:
            self.found[path] = start
        return path

    def _parents(self, path: Path, under: Path, start: int) -> None:
        for length in range(len(under) + 1, len(path) + 1):
            if path[:length] in self.values:
                raise Repeated(path[:length], self.found[path[:length]], start)
            self.found.setdefault(path[:length], start)

    def _assignment(self, here: Path) -> None:
        start = self.at
        parts = self.key()
        self._expect("=")
        path: Path = (*here, *parts)
        self._parents(path[:-1], here, start)
        if path in self.values or path in self.tables or path in self.found:
            raise Repeated(path, self.found[path], start)
        self.found[path] = start
        self._value(path)
        self.values.add(path)

    def _value(self, path: Path) -> None:
        self._skip(_SPACE)
        mark = self.text[self.at : self.at + 1]
        if mark == "[":
            self._array(path)
        elif mark == "{":
            self._inline(path)
        elif mark in {'"', "'"}:
            self._string()
        else:
            scalar = _SCALAR.match(self.text, self.at)
            if not scalar:
                raise Broken(self.at, "expected a value")
            self.at = scalar.end()

    def _array(self, path: Path) -> None:
        start, index = self.at, 0
        self.at += 1
        while True:
            self._skip(_BLANK)
            if self.at >= len(self.text):
                raise Broken(start, "unclosed array")
            if self.text[self.at] == "]":
                self.at += 1
                return
            self.found[(*path, index)] = self.at
            self._value((*path, index))
            index += 1
            self._skip(_BLANK)
            if self.text.startswith(",", self.at):
                self.at += 1
            elif not self.text.startswith("]", self.at):
                raise Broken(start if self.at >= len(self.text) else self.at, "unclosed array")

    def _inline(self, path: Path) -> None:
        start = self.at
        self.at += 1
        while True:
            self._skip(_BLANK)
            if self.at >= len(self.text):
                raise Broken(start, "unclosed inline table")
            if self.text[self.at] == "}":
                self.at += 1
                return
            self._assignment(path)
            self._skip(_BLANK)
            if self.text.startswith(",", self.at):
                self.at += 1
            elif not self.text.startswith("}", self.at):
                raise Broken(start if self.at >= len(self.text) else self.at, "unclosed inline table")


class Positions:
    """Where each key of one text stands; a text that is no TOML has no positions."""

    def __init__(self, text: str) -> None:
        self.text = text.replace("\r\n", "\n")
        self._lines = [0, *(match.end() for match in re.finditer("\n", self.text))]
        scanner = Scanner(self.text)
        try:
            scanner.scan()
        except (Broken, Repeated, ValueError, RecursionError) as error:
            self.error: Exception | None = error
        else:
            self.error = None
        self.offsets = scanner.found

    def place(self, offset: int) -> tuple[int, int]:
        """Return line and column of an offset, both from 1."""
        line = bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def find(self, path: Path) -> tuple[int, int] | None:
        """Return line and column of `path`, or of the nearest table around it that is written out."""
        for length in range(len(path), 0, -1):
            offset = self.offsets.get(path[:length])
            if offset is not None:
                return self.place(offset)
        return None


def parse_key(text: str) -> tuple[str, ...]:
    """Return the parts of a dotted key; raises Broken."""
    scanner = Scanner(text)
    parts = scanner.key()
    if scanner.at != len(text):
        raise Broken(scanner.at, "expected the end of the key")
    return parts
