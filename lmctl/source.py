"""Files read from their beginning, within bounds: a local one or one on the Hub, and what its first bytes tell."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol

from lmctl.paths import open_regular

# The largest headers in use have about 20 MiB and, as tokens and merges, 800,000 strings.
MAX_HEADER, MAX_STRINGS = 64 << 20, 1 << 20  # bytes, strings
FIRST_CHUNK, LAST_CHUNK = 256 << 10, 4 << 20  # bytes asked of the source at once, doubling


class Source(Protocol):
    """Bytes read in ranges. `size` is None where it is not known."""

    @property
    def size(self) -> int | None: ...

    # bytes [start, start + length), fewer at the end
    def read(self, start: int, length: int) -> bytes: ...


class FileSource:
    """An open file as a source."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)

    def read(self, start: int, length: int) -> bytes:
        self._file.seek(start)
        return self._file.read(length)


@contextmanager
def open_local(path: Path) -> Iterator[FileSource]:
    """Hold a regular file open as a source; raises E-FILE or E-PERM."""
    with open_regular(path) as file:
        yield FileSource(file)


class Malformed(Exception):
    """What is wrong with the bytes of a header; its reader turns it into the error of its format."""

    def __init__(self, what: str, fix: str = "fetch the file again, or choose another one") -> None:
        super().__init__(what)
        self.fix = fix


class Cursor:
    """Moves forward through a header and holds one chunk of it, each twice as long as the one before.

    Raises Malformed where the file ends, or before more than MAX_HEADER bytes are passed.
    """

    def __init__(self, source: Source) -> None:
        self.at, self._strings = 0, 0
        self._source, self._size = source, source.size
        self._chunk, self._start, self._next = b"", 0, FIRST_CHUNK

    def first(self, length: int) -> bytes:
        """Return the file's first bytes, fewer when it is shorter, without moving."""
        self._chunk = self._source.read(0, FIRST_CHUNK)
        return self._chunk[:length]

    def take(self, length: int) -> bytes:
        begin = self._load(length)
        self.at += length
        return self._chunk[begin : begin + length]

    def number(self, kind: str) -> int:
        """Read one integer; `kind` is struct's letter."""
        return int.from_bytes(self.take(struct.calcsize(f"<{kind}")), "little")

    def skip(self, length: int) -> None:
        """Move on without reading."""
        self._check(length)
        self.at += length

    def skip_strings(self, count: int) -> None:
        """Walk over strings with 64-bit lengths; a tight loop, because vocabularies hold hundreds of thousands."""
        self._strings += count
        if self._strings > MAX_STRINGS:
            raise Malformed(f"the header claims {self._strings} strings, more than {MAX_STRINGS}")
        unpack = struct.Struct("<Q").unpack_from
        while count:
            begin = at = self._load(8)
            chunk, last = self._chunk, len(self._chunk) - 8
            while count and at <= last:
                at += 8 + unpack(chunk, at)[0]
                count -= 1
            self.skip(at - begin)

    def _check(self, length: int) -> None:
        end = self.at + length
        if end > MAX_HEADER:
            raise Malformed(f"the header claims to reach past {MAX_HEADER} bytes")
        if self._size is not None and end > self._size:
            raise Malformed(f"the header needs at least {end} bytes, the file has {self._size}")

    def _load(self, length: int) -> int:
        """Return where in the chunk the next `length` bytes begin."""
        self._check(length)
        if self.at + length > self._start + len(self._chunk):
            self._chunk = self._source.read(self.at, max(length, self._next))
            self._start, self._next = self.at, min(2 * self._next, LAST_CHUNK)
            if len(self._chunk) < length:
                raise Malformed(f"the file ends inside its header, at byte {self.at + len(self._chunk)}")
        return self.at - self._start


_FOREIGN = (
    ("GGUF", re.compile(rb"GGUF")),
    ("GGML, a format from before GGUF", re.compile(rb"GG(ML|MF|JT|LA)|(lm|fm|tj|al)gg")),
    ("a zip archive (a PyTorch checkpoint?)", re.compile(rb"PK\x03\x04")),
    ("a Python pickle", re.compile(rb"\x80[\x02-\x05]")),
    ("safetensors", re.compile(rb".{5}\0\0\0\{", re.DOTALL)),
    ("a Git LFS pointer, not the file itself", re.compile(rb"version https://git-lfs")),
    ("gzip", re.compile(rb"\x1f\x8b")),
    ("zeros: an unfinished download", re.compile(rb"\0{16}")),
    ("HTML", re.compile(rb"(\xef\xbb\xbf)?\s*<")),
    ("JSON", re.compile(rb"(\xef\xbb\xbf)?\s*[\[{]")),
)
PICKLES = frozenset(kind for kind, _ in _FOREIGN if "pickle" in kind or "PyTorch" in kind)


def sniff(first: bytes) -> str | None:
    """Return what a file with these first bytes (512 are enough) is, None when nothing is recognised."""
    if len(first) < 8:
        return f"a file of {len(first)} bytes, too short"
    return next((kind for kind, pattern in _FOREIGN if pattern.match(first)), None)


def mistaken(first: bytes, expected: str) -> Malformed:
    """Return the refusal of a file that is not `expected`, naming what it really is."""
    kind = sniff(first)
    if kind in ("HTML", "JSON"):
        fix = "fetch it again; a gated model needs its terms accepted and `hf auth login`"
        return Malformed(f"not {expected} but {kind}: a login or error page saved as a model", fix)
    return Malformed(f"not {expected} but {kind}" if kind else f"not {expected}: it begins with {first[:8].hex(' ')}")
