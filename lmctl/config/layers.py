"""Everything that says something about the configuration, weakest first, each part with its places."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

from lmctl.config import names
from lmctl.config.find import LOCAL, MACHINE, Request, included, inside, matches
from lmctl.config.positions import Broken, Positions, parse_key
from lmctl.config.positions import Path as KeyPath
from lmctl.config.toml import DEPTH, LIMIT, bound, parse
from lmctl.errors import LmctlError, Place, Problem, escape
from lmctl.paths import Folders, read_regular
from lmctl.record import record

Tree = dict[str, Any]


@record
class Layer:
    """One source of keys. `tree` has the shape of localmodels.toml; `prefix` is what a profile file leaves out."""

    file: str  # as shown to people
    kind: str  # main | profile | local | environment | set | machine
    tree: Tree
    folder: Path  # relative paths start here
    text: str = ""
    prefix: KeyPath = ()

    @cached_property
    def _positions(self) -> Positions:
        return Positions(self.text)

    @property
    def own(self) -> Tree:
        """The keys as the file itself has them."""
        tree = self.tree
        for part in self.prefix:
            tree = tree[str(part)]
        return tree

    @property
    def committed(self) -> bool:
        return self.kind in {"main", "profile"}

    @property
    def overrides(self) -> bool:
        """Whether no file holds it."""
        return self.kind in {"environment", "set"}

    def place(self, path: KeyPath) -> Place:
        """Return where `path` (from the declaration's root) stands, or the file when nothing of it is written there."""
        if self.overrides:
            return Place(self.file)
        found = self._positions.find(path[len(self.prefix) :]) if path[: len(self.prefix)] == self.prefix else None
        return Place(self.file, *found) if found else Place(self.file)


@dataclass
class Inputs:
    """What was read: the layers, and the fingerprints under which the result may be kept."""

    file: Path
    layers: list[Layer] = field(default_factory=list)
    machine: Layer | None = None
    patterns: tuple[str, ...] = ()
    listing: tuple[str, ...] = ()
    hashes: dict[str, str | None] = field(default_factory=dict)  # absolute path -> sha256; None: not there
    contents: dict[str, bytes] = field(default_factory=dict)  # absolute path -> what was read
    leads: dict[str, dict[str, str]] = field(default_factory=dict)  # path that a committed file names -> its `reach`
    problems: list[Problem] = field(default_factory=list)
    unread: set[str] = field(default_factory=set)  # profiles whose file could not be read
    machine_unread: bool = False
    overrides_unread: bool = False  # something of the local file, the environment or --set
    instead: Mapping[Path, bytes | None] = field(default_factory=dict)  # content to judge before it is written
    alone: bool = False  # of the declaration's folder nothing else is read

    @property
    def folder(self) -> Path:
        return self.file.parent


def read(
    file: Path,
    request: Request,
    folders: Folders,
    environ: Mapping[str, str],
    instead: Mapping[Path, bytes | None] | None = None,
) -> Inputs:
    """Read every layer; what is wrong with one file is collected, so that all files are judged.

    `instead` is content to take for what lies on disk, None for a file that is to go; what the request says of an
    earlier time goes before it. Raises what concerns localmodels.toml itself.
    """
    if request.earlier is not None:
        instead = {file.parent / name: content for name, content in request.earlier.items()}
    inputs = Inputs(file, instead=instead or {}, alone=request.earlier is not None)
    main = _file(inputs, file, file.name)
    assert main is not None
    inputs.layers.append(Layer(file.name, "main", main[0], file.parent, main[1]))
    inputs.patterns = _patterns(main[0])
    place = inputs.layers[0].place(("include",))
    inputs.listing = _listing(inputs, place)
    for name in inputs.listing:
        if not _collect(inputs, _profile, inputs, name):
            inputs.unread.add(PurePosixPath(name).stem)
    inputs.machine_unread = not _collect(inputs, _machine, inputs, folders)
    before = len(inputs.problems)
    _collect(inputs, _local, inputs)
    for layer in _environment(environ, inputs):
        inputs.layers.append(layer)
    for text in request.sets:
        _collect(inputs, _set, inputs, text)
    inputs.overrides_unread = len(inputs.problems) > before
    return inputs


def _listing(inputs: Inputs, place: Place) -> tuple[str, ...]:
    """Return the included files, without those that are to go and with those that are to come."""
    there = [pattern for pattern in inputs.patterns if inputs.instead.get(inputs.folder / pattern) is None]
    names = set() if inputs.alone else set(included(inputs.folder, there, place))
    for path, content in inputs.instead.items():
        name = path.relative_to(inputs.folder).as_posix()
        if content is None:
            names.discard(name)
        elif any(matches(pattern, name) for pattern in inputs.patterns):
            names.add(inside(inputs.folder, name, place))
    return tuple(sorted(names))


def _collect(inputs: Inputs, step: Any, *arguments: Any) -> bool:
    """Take a step and note why it fails; return whether it did not."""
    try:
        step(*arguments)
    except LmctlError as error:
        inputs.problems += error.problems
        return False
    return True


def _file(inputs: Inputs, path: Path, shown: str, *, optional: bool = False) -> tuple[Tree, str] | None:
    content = inputs.instead.get(path)
    if optional and content is None and (path in inputs.instead or not os.path.lexists(path)):
        inputs.hashes[str(path)] = None
        return None
    if content is None:
        content = read_regular(path, LIMIT)
    inputs.hashes[str(path)] = sha256(content).hexdigest()
    inputs.contents[str(path)] = content
    return parse(content, shown)


def _patterns(tree: Tree) -> tuple[str, ...]:
    """Return the globs that may be followed; the others are reported when the file is judged."""
    listed = tree.get("include", [])
    patterns = []
    for pattern in listed if isinstance(listed, list) else []:
        try:
            patterns.append(str(names.include(pattern)))
        except LmctlError:
            continue
    return tuple(patterns)


def _profile(inputs: Inputs, name: str) -> None:
    path = PurePosixPath(name)
    found = _file(inputs, inputs.folder / name, name)
    assert found is not None
    tree, text = found
    if "include" in tree:
        place = Place(name, *(Positions(text).find(("include",)) or ()))
        chain = f"{inputs.file.name} -> {escape(name, 80)} -> {escape(str(tree['include']), 80)}"
        what = f"{chain}: a profile includes nothing"
        raise LmctlError("E-INCLUDE", what, fix="list it in the declaration's `include`", place=place)
    try:
        names.name(path.stem)
    except LmctlError as error:
        problem = error.problems[0]
        raise LmctlError(problem.code, problem.what, fix="rename the file", place=Place(name)) from error
    whole = {"profiles": {path.stem: tree}}
    folder = (inputs.folder / name).parent
    inputs.layers.append(Layer(name, "profile", whole, folder, text, ("profiles", path.stem)))


def _local(inputs: Inputs) -> None:
    path = inputs.folder / LOCAL
    if inputs.alone and path not in inputs.instead:
        return
    found = _file(inputs, path, LOCAL, optional=True)
    if found:
        inputs.layers.append(Layer(LOCAL, "local", found[0], inputs.folder, found[1]))


def _machine(inputs: Inputs, folders: Folders) -> None:
    path = folders.config / MACHINE
    found = _file(inputs, path, MACHINE, optional=True)
    if found:
        inputs.machine = Layer(MACHINE, "machine", found[0], folders.config, found[1])


def relevant(environ: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return the variables that set keys, sorted."""
    return tuple(sorted((k, v) for k, v in environ.items() if k.startswith("LMCTL_") and "__" in k))


def _environment(environ: Mapping[str, str], inputs: Inputs) -> Iterator[Layer]:
    read = tuple(inputs.layers)
    for variable, text in relevant(environ):
        path = variable.removeprefix("LMCTL_").lower().split("__")
        if path[0] in {"profiles", "groups", "cloud"} and len(path) > 1:
            known = (name for layer in read for name in _tables(layer.tree, path[0]))
            path[1] = next((name for name in known if _shell_name(name) == path[1]), path[1])
        try:
            yield _assigned(variable, "environment", tuple(path), text, inputs.folder)
        except LmctlError as error:
            inputs.problems += error.problems


def _tables(tree: Tree, key: str) -> Tree:
    value = tree.get(key, {})
    return value if isinstance(value, dict) else {}


def _shell_name(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _set(inputs: Inputs, text: str) -> None:
    path, value = assignment(text)
    inputs.layers.append(_assigned(f"--set {escape('.'.join(path), 80)}", "set", path, value, inputs.folder))


def assignment(text: str) -> tuple[tuple[str, ...], str]:
    """Return key and value of KEY=VALUE. Raises E-USAGE without a value and E-KEY without a key."""
    left, equals, value = text.partition("=")
    shown = escape(left, 80)
    if not equals:
        raise LmctlError("E-USAGE", f"{shown} has no value", fix="write KEY=VALUE")
    try:
        return parse_key(left.strip()), value
    except (Broken, ValueError) as error:
        raise LmctlError("E-KEY", f"{shown} names no key", fix="write it like profiles.code.ctx=4096") from error


def value_of(text: str, shown: str) -> Any:
    """Return the TOML value that `text` is, else the text itself. Raises E-LIMIT."""
    if len(text) > LIMIT:
        raise LmctlError("E-LIMIT", "the value is too long", place=Place(shown))
    bound(text, shown)
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _assigned(shown: str, kind: str, path: tuple[str, ...], text: str, folder: Path) -> Layer:
    """Return the layer of one key."""
    if len(path) > DEPTH:
        raise LmctlError("E-LIMIT", f"a key of more than {DEPTH} parts", place=Place(shown))
    tree: Any = value_of(text, shown)
    for part in reversed(path):
        tree = {part: tree}
    return Layer(shown, kind, tree, folder)
