"""The text of a lock file, checked value by value, to a Lock; every problem at once, each with its place."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any, cast, get_args

from lmctl.errors import LmctlError, Place, Problem, escape
from lmctl.portable import MOST_RELATIVE, too_long, twins
from lmctl.spec import Artifact, Format, Json, Lock, LockedFile, Role, Shape

VERSION = 1
MAX_FILE_SIZE = 1 << 50  # bytes; far beyond any weights file, far below what breaks arithmetic on disk space

_MAX_PROBLEMS = 20
_MAX_DOTS = 32  # tomllib needs quadratic time for a dotted key
_RESTORE = "restore it from version control, or delete it and run `lmctl lock`"
_TOP_KEYS = frozenset(["version", "artifact"])
_ARTIFACT_KEYS = frozenset(["id", "format", "commit", "shape", "file"])
_FILE_KEYS = frozenset(["path", "role", "size", "sha256", "blob"])
_FORMATS, _ROLES = frozenset(get_args(Format)), frozenset(get_args(Role))
_HEX40, _HEX64 = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{64}")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'')
_ID = re.compile(
    r"[A-Za-z0-9_][A-Za-z0-9._-]{0,95}/[A-Za-z0-9_][A-Za-z0-9._-]{0,95}"
    r"@(?P<revision>[A-Za-z0-9][A-Za-z0-9._/-]{0,127}):(?P<selection>.{0,1024})"
)
_REPO_FORMATS = frozenset(["gguf", "mlx", "safetensors"])


def is_commit(text: object) -> bool:
    """Return whether `text` is a full commit: 40 lowercase hex digits."""
    return isinstance(text, str) and _HEX40.fullmatch(text) is not None


def is_sha256(text: object) -> bool:
    """Return whether `text` is 64 lowercase hex digits."""
    return isinstance(text, str) and _HEX64.fullmatch(text) is not None


def stays_inside(path: str) -> bool:
    """Return whether `path` is relative, normalised, free of invisible characters, not too long and stays inside."""
    parts = path.split("/")
    return (
        path != ""
        and "\\" not in path
        and ":" not in parts[0]
        and not {"", ".", ".."} & set(parts)
        and escape(path, 2048) == path
        and too_long(path, MOST_RELATIVE) is None
    )


def parse(content: bytes, file: str) -> Lock:
    """Return the Lock that the bytes of a lock file declare; `file` is its name as shown to people.

    Raises E-LOCK-NEWER for a later version of the format, E-HASH for what is not a sha256, E-LOCK for all else.
    """
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        before = content[: error.start].decode()
        place = Place(file, before.count("\n") + 1, len(before) - before.rfind("\n"))
        raise LmctlError("E-LOCK", "this is not UTF-8", fix=_RESTORE, place=place) from None
    _guard(text, file)
    raw = _toml(text, file)
    version = raw.get("version")
    if type(version) is int and version > VERSION:
        what = f"it was written by a newer lmctl (lock version {version}; this one reads {VERSION})"
        raise LmctlError("E-LOCK-NEWER", what, fix="upgrade lmctl", place=_place(text, file, (), "version"))
    reader = _Reader(text, file)
    lock = reader.lock(raw)
    if reader.problems:
        raise LmctlError.of(reader.problems)
    return lock


def _guard(text: str, file: str) -> None:
    """Refuse what would keep the TOML parser busy, and name a merge conflict as one."""
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith(("<<<<<<< ", ">>>>>>> ")):
            fix = "take either side whole, then run `lmctl lock`"
            raise LmctlError("E-LOCK", "it holds an unresolved merge conflict", fix=fix, place=Place(file, number, 1))
        if line.count(".") > _MAX_DOTS:
            keys = re.split(r"[,\[\]{}=]", _QUOTED.sub("", line).partition("#")[0])
            if max(key.count(".") for key in keys) > _MAX_DOTS:
                raise LmctlError("E-LOCK", "a key is nested too deeply", fix=_RESTORE, place=Place(file, number, 1))


def _toml(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise LmctlError("E-LOCK", "it is nested too deeply", fix=_RESTORE, place=Place(file)) from None
    except ValueError as error:  # TOMLDecodeError, and what int() says about endless digits
        at = re.search(r" \(at line (\d+), column (\d+)\)$", str(error))
        place = Place(file, int(at[1]), int(at[2])) if at else Place(file)
        what = escape(str(error)[: at.start()] if at else str(error))
        raise LmctlError("E-LOCK", f"it is not TOML: {what}", fix=_RESTORE, place=place) from None


class _Reader:
    """Collects the problems of one lock file; lines are looked up only when there is something to report."""

    def __init__(self, text: str, file: str) -> None:
        self.text, self.file = text, file
        self.problems: list[Problem] = []
        self.sizes: dict[str, int] = {}  # by sha256: one content has one size

    def lock(self, raw: Mapping[str, Any]) -> Lock:
        self._keys(raw, _TOP_KEYS, ())
        if type(raw.get("version")) is not int or raw["version"] < VERSION:
            self._report("E-LOCK", f"version = {VERSION} is missing", (), "version")
        artifacts: dict[str, Artifact] = {}
        for at, table in _tables(raw.get("artifact", [])):
            if len(self.problems) >= _MAX_PROBLEMS:
                break
            artifact = self._artifact(table, at) if table is not None else None
            if table is None:
                self._report("E-LOCK", "artifact must be an array of tables", ())
            elif artifact is not None and artifact.id in artifacts:
                self._report("E-LOCK", f"{escape(artifact.id)} is there twice", (at,), "id")
            elif artifact is not None:
                artifacts[artifact.id] = artifact
        return Lock(artifacts)

    def _artifact(self, table: Mapping[str, Any], at: int) -> Artifact | None:
        count = len(self.problems)
        self._keys(table, _ARTIFACT_KEYS, (at,))
        name, form, commit = table.get("id"), table.get("format"), table.get("commit")
        if not isinstance(form, str) or form not in _FORMATS:
            self._report("E-LOCK", f"format must be one of {', '.join(sorted(_FORMATS))}", (at,), "format")
        elif not isinstance(name, str) or not _is_id(name, form):
            self._report("E-LOCK", "id is not repository@revision:selection or path=…", (at,), "id")
        elif form in _REPO_FORMATS:
            self._commit(name, commit, at)
        elif commit is not None and (form == "local" or not is_commit(commit)):
            self._report("E-LOCK", "commit does not belong here", (at,), "commit")
        shape = self._shape(table.get("shape", {}), at)
        files: dict[str, LockedFile] = {}
        for number, raw in _tables(table.get("file", [])):
            file = self._file(raw or {}, (at, number))
            if file is not None and file.path in files:
                self._report("E-LOCK", f"{escape(file.path)} is there twice", (at, number), "path")
            elif file is not None:
                files[file.path] = file
        if pair := twins(files):
            what = f"{escape(pair[0])} and {escape(pair[1])} are one file where case or normal form do not count"
            self._report("E-LOCK", what, (at,))
        if not table.get("file"):
            self._report("E-LOCK", "the artifact has no files", (at,))
        if len(self.problems) > count:
            return None
        return Artifact(str(name), cast(Format, form), commit, shape, tuple(files.values()))

    def _commit(self, name: str, commit: object, at: int) -> None:
        found = _ID.fullmatch(name)
        asked = found["revision"] if found else ""
        if not is_commit(commit):
            self._report("E-LOCK", f"{_shown(commit)} is not a commit of 40 lowercase hex digits", (at,), "commit")
        elif is_commit(asked) and asked != commit:
            self._report("E-LOCK", "the commit is not the one that the id asks for", (at,), "commit")

    def _shape(self, raw: object, at: int) -> Shape:
        def scalar(value: object) -> bool:
            return isinstance(value, str | bool | int) or (isinstance(value, float) and math.isfinite(value))

        values = raw.values() if isinstance(raw, dict) else [None]
        for value in values:
            if not (scalar(value) or (isinstance(value, list) and all(scalar(item) for item in value))):
                self._report("E-LOCK", "shape holds text, numbers and lists of them only", (at,), "shape")
                return {}
        return cast(dict[str, Json], raw)

    def _file(self, table: Mapping[str, Any], at: tuple[int, int]) -> LockedFile | None:
        count = len(self.problems)
        self._keys(table, _FILE_KEYS, at)
        path, role, size = table.get("path"), table.get("role"), table.get("size")
        sha256, blob = table.get("sha256"), table.get("blob")
        if not isinstance(path, str) or not stays_inside(path):
            self._report("E-LOCK", f"path must stay inside the repository or folder, not {_shown(path)}", at, "path")
        if not isinstance(role, str) or role not in _ROLES:
            self._report("E-LOCK", f"role must be one of {', '.join(sorted(_ROLES))}", at, "role")
        if type(size) is not int or not 0 < size <= MAX_FILE_SIZE:
            self._report("E-LOCK", f"size must be 1 to 2^50 bytes, not {_shown(size)}", at, "size")
        if not is_sha256(sha256):
            self._report("E-HASH", f"sha256 must be 64 lowercase hex digits, not {_shown(sha256)}", at, "sha256")
        elif type(size) is int and self.sizes.setdefault(str(sha256), size) != size:
            self._report("E-HASH", "sha256 is that of another file: the size differs", at, "sha256")
        if blob is not None and not is_commit(blob):
            self._report("E-HASH", f"blob must be 40 lowercase hex digits, not {_shown(blob)}", at, "blob")
        if len(self.problems) > count:
            return None
        return LockedFile(str(path), cast(Role, role), cast(int, size), str(sha256), blob)

    def _keys(self, table: Mapping[str, Any], known: frozenset[str], at: tuple[int, ...]) -> None:
        for key in table.keys() - known:
            near = difflib.get_close_matches(key, known, n=1)
            what = "a url is not allowed: files come from the Hub alone" if key == "url" else f"unknown key {key!r}"
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            self._report("E-LOCK", escape(what + hint), at, key)

    def _report(self, code: str, what: str, at: tuple[int, ...], key: str | None = None) -> None:
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(Problem(code, what, _RESTORE, _place(self.text, self.file, at, key)))


def _tables(raw: object) -> Iterator[tuple[int, dict[str, Any] | None]]:
    """Yield the tables of an array with their numbers; None where there is something else."""
    if not isinstance(raw, list):
        yield 0, None
        return
    for number, table in enumerate(raw):
        yield number, table if isinstance(table, dict) else None


def _is_id(name: str, form: object) -> bool:
    if escape(name, 4096) != name:
        return False
    if form == "local":
        return name.startswith("path=") and len(name) > len("path=")
    found = _ID.fullmatch(name)
    return form == "engine" or (found is not None and not {"", "..", "."} & set(found["revision"].split("/")))


def _shown(value: object) -> str:
    return "nothing" if value is None else escape(repr(value), 80)


def _place(text: str, file: str, at: tuple[int, ...], key: str | None) -> Place:
    """Return where `key` of the artifact (and file) numbered by `at` stands, else its header, else the file."""
    lines = text.split("\n")
    start, end = 0, len(lines)
    for number, header in zip(at, ("[[artifact]]", "[[artifact.file]]"), strict=False):
        headers = [n for n in range(start, end) if lines[n].strip() == header]
        if number >= len(headers):
            return Place(file)
        start, end = headers[number], headers[number + 1] if number + 1 < len(headers) else end
    for n in range(start, end):
        stripped = lines[n].strip()
        if n > start and stripped.startswith("[["):
            break
        if key is not None and re.match(rf"[\"']?{re.escape(key)}[\"']?\s*=", stripped):
            return _at(file, lines, n)
    return _at(file, lines, start) if at else Place(file)


def _at(file: str, lines: list[str], number: int) -> Place:
    return Place(file, number + 1, len(lines[number]) - len(lines[number].lstrip()) + 1)
