"""What the loopback Hub serves and how it misbehaves: repositories, files and faults as data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class Pattern:
    """Bytes that need no memory: a block of 1 MiB, repeated and numbered, up to `size` bytes."""

    size: int
    seed: int = 0

    @cached_property
    def _block(self) -> bytes:
        return b"".join(hashlib.sha256(b"%d-%d" % (self.seed, i)).digest() for i in range(MIB // 32))

    def block(self, index: int) -> bytes:
        return index.to_bytes(8, "big") + self._block[8:]

    def sha256(self) -> str:
        digest = hashlib.sha256()
        for piece in self.read(0, self.size):
            digest.update(piece)
        return digest.hexdigest()

    def read(self, start: int, end: int) -> Iterator[bytes]:
        while start < end:
            index, offset = divmod(start, MIB)
            piece = self.block(index)[offset : offset + end - start]
            yield piece
            start += len(piece)


@dataclass
class File:
    """One file of a repository; `content` is bytes, a Pattern or a path on disk."""

    path: str
    content: bytes | Pattern | Path

    @cached_property
    def size(self) -> int:
        if isinstance(self.content, Path):
            return self.content.stat().st_size
        return self.content.size if isinstance(self.content, Pattern) else len(self.content)

    @cached_property
    def lfs(self) -> bool:
        return self.size >= MIB or self.path.endswith((".gguf", ".safetensors", ".bin"))

    @cached_property
    def sha256(self) -> str:
        if isinstance(self.content, Path):
            with self.content.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        return self.content.sha256() if isinstance(self.content, Pattern) else hashlib.sha256(self.content).hexdigest()

    @cached_property
    def blob(self) -> str:
        """Git's name: of the content, or of the LFS pointer."""
        data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()
        if not self.lfs:
            data = b"".join(self.read(0, self.size))
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.blob

    def read(self, start: int, end: int) -> Iterator[bytes | memoryview]:
        if isinstance(self.content, Pattern):
            yield from self.content.read(start, end)
        elif isinstance(self.content, Path):
            with self.content.open("rb") as file:
                file.seek(start)
                while start < end and (piece := file.read(min(MIB, end - start))):
                    yield piece
                    start += len(piece)
        else:
            yield memoryview(self.content)[start:end]


@dataclass
class Fault:
    """How a request is answered instead; fields combine. `times` None: always; `skip` requests pass untouched first."""

    path: str | None = None  # None: every file of the repository
    where: str = "file"  # file (GET and HEAD of /resolve/) | get (only GET) | api | all
    times: int | None = None
    skip: int = 0
    status: int | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)  # replaced or added; None drops one
    body: bytes | None = None
    redirect: str | None = None  # 302 to this address; `{path}` is the asked one
    cut: int | None = None  # close the connection after so many bytes of the body
    stall: int | None = None  # send so many bytes, then nothing, with the connection open
    rate: float | None = None  # bytes per second
    flip: bool = False  # same size, one wrong byte at the end of what is sent
    ranges: str | None = None  # ignore (200) | wrong (other Content-Range) | refuse (416)
    encoding: str | None = None  # chunked | gzip | bomb | none (no length, closed) | long (length too long) | endless
    raw: bytes | None = None  # the whole answer, byte for byte, then the connection closes

    def meets(self, method: str, where: str, path: str | None) -> bool:
        if self.where != "all" and not (
            self.where == where or (self.where == "get" and (method, where) == ("GET", "file"))
        ):
            return False
        if self.path not in (None, path) or self.times == 0:
            return False
        if self.skip:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
        return True


@dataclass
class Repo:
    files: dict[str, dict[str, File]] = field(default_factory=dict)  # by commit
    refs: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)


@dataclass(frozen=True)
class Request:
    server: str  # "hub" or "elsewhere"
    method: str
    path: str
    headers: Mapping[str, str]
