"""What must hold after a fault at any point, and after the next apply."""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import re
import shutil
import sqlite3
import tempfile
import tomllib
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import psutil
from sweep.scenes import Scene

Engines = Mapping[int, tuple[str, str]]
_PARTS = (configparser.Error, json.JSONDecodeError, tomllib.TOMLDecodeError, sqlite3.Error, AssertionError, ValueError)


def torn(home: Path, but: Collection[Path] = ()) -> list[str]:
    """Return the files that are neither old nor new, but something between; `but` are those that somebody spoiled."""
    found = []
    for file in _files(home):
        check = _check(file, home)
        try:
            if check is not None and file not in but:
                check(file)
        except _PARTS as error:
            found.append(f"torn: {file.relative_to(home)}: {error}")
    return found


def _files(home: Path) -> Iterator[Path]:
    for folder, _, names in os.walk(home):
        paths = [Path(folder, name) for name in names]
        yield from (path for path in paths if not path.is_symlink() and not path.name.startswith("."))


def _check(file: Path, home: Path) -> Callable[[Path], None] | None:
    """Return how a file that lmctl keeps is read, None for one that it only appends to, or that is not lmctl's."""
    place = file.relative_to(home).as_posix()
    checks: list[tuple[str, Callable[[Path], None]]] = [
        (r"repo/.*\.(toml|lock)", _toml),
        (r"repo/.*\.gguf", _weights),
        (r"\.(local/state|cache)/.*\.json", lambda path: json.loads(path.read_bytes())),
        (r".*/supervisord\.conf", _conf),
        (r".*\.db", _database),
        (r".*/hub/[^/]+/blobs/[^/]+", _blob),
        (r".*/hub/[^/]+/refs/.*", _ref),
    ]
    return next((check for pattern, check in checks if re.fullmatch(pattern, place)), None)


def _toml(path: Path) -> None:
    assert tomllib.loads(path.read_text())["version"] == 1


def _weights(path: Path) -> None:
    assert path.read_bytes()[:4] == b"GGUF", "weights of the user's own were changed"


def _conf(path: Path) -> None:
    parser = configparser.RawConfigParser()
    parser.read_string(path.read_text())
    programs = [name for name in parser.sections() if name.startswith("program:")]
    assert "supervisord" in parser.sections()
    assert all(parser[name]["command"] == f"./launch {name.removeprefix('program:')}" for name in programs)


def _database(path: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:  # looking at it in its place would mend it
        for part in path.parent.glob(f"{path.name}*"):
            shutil.copy(part, folder)
        with closing(sqlite3.connect(Path(folder, path.name))) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def _blob(path: Path) -> None:
    if len(path.name) == 64:
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def _ref(path: Path) -> None:
    assert re.fullmatch(r"[0-9a-f]{40}", path.read_text())


def died(before: Engines, scene: Scene) -> list[str]:
    """Return the engines that nothing asked to change, and that no longer run as they did."""
    now = scene.engines()
    return [f"died: {name}" for pid, (name, _) in before.items() if name == "keep" and pid not in now]


def unsettled(scene: Scene, between: Engines) -> list[str]:
    """Return what keeps the machine from being as declared once the next apply is through.

    `between` is what ran when the fault had struck.
    """
    engines = scene.engines()
    hashes = dict(engines.values())
    found = [f"twice: {name}" for name, times in Counter(hashes_of(engines)).items() if times > 1]
    found += [
        f"started anew: {name}"
        for pid, (name, digest) in between.items()
        if hashes.get(name) == digest and pid not in engines and not psutil.pid_exists(pid)
    ]
    rows = scene.machine.profiles()
    found += [f"{row['state']}: {name}" for name, row in rows.items() if row["state"] != "healthy"]
    found += [f"not running: {name}" for name in {"mine", "hub", "keep"} - set(hashes)]
    found += [f"left over: {path.relative_to(scene.home)}" for path in left(scene.home)]
    if scene.machine.run("plan", "--detailed-exitcode", code=None).code != 0:
        found.append("the next plan is not empty")
    return found


def hashes_of(engines: Engines) -> list[str]:
    """Return the profile of every engine."""
    return [name for name, _ in engines.values()]


def left(home: Path) -> Iterator[Path]:
    """Yield what a run that was killed left half done below a home."""
    for folder, _, names in os.walk(home):
        inside = Path(folder)
        for name in names:
            if temporary(name) or inside.name in ("partial", "quarantine"):
                yield inside / name


def temporary(name: str) -> bool:
    """Return whether a file of this name is one that lmctl writes before it gets its own."""
    return name.startswith(".") and name.endswith(".tmp")
