"""One declaration on this machine: its locks, its ledger, and a fresh look at the world around it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from lmctl import addresses, adhoc, lockfile, neighbours
from lmctl.backend import Engine
from lmctl.errors import LmctlError, escape
from lmctl.host import Daemon, Found, Host, Store
from lmctl.ledger import Ledger, Memory, Owned
from lmctl.paths import Folders, make_private, read_regular, remove_left, write_atomic
from lmctl.record import record, replace
from lmctl.resource import Case, References, Scope, Stray, World
from lmctl.resources import content, program
from lmctl.spec import Declaration, Hardware, Lock

if TYPE_CHECKING:
    from lmctl.units import Unit

_TEMPLATE_LIMIT = 1 << 20  # bytes of a chat template


@record
class Session:
    """What a command works on. `host` is made by the composition root for this declaration."""

    declaration: Declaration
    folders: Folders
    host: Host
    ledger: Ledger
    pinned: Lock | None = None  # counts instead of what the lock files say

    @classmethod
    def of(cls, declaration: Declaration, folders: Folders, host: Host) -> Session:
        return cls(declaration, folders, host, Ledger(folders.declaration(declaration.name) / "ledger.db"))

    @property
    def state(self) -> Path:
        """The declaration's own state folder."""
        return self.folders.declaration(self.declaration.name)

    @property
    def writer(self) -> Path:
        """The lock of whoever changes programs; nobody holds it while bytes are fetched or a program is awaited."""
        return self.state / "lock"

    @property
    def turn(self) -> Path:
        """The lock of one apply, prune or lock at a time, held from its beginning to its end, before `writer`."""
        return self.state / "apply.lock"

    @property
    def record(self) -> Path:
        """The file that says which folder this declaration's name belongs to."""
        return self.folders.state / "declarations" / f"{self.declaration.name}.json"

    @property
    def unit(self) -> Unit:
        """The unit that starts this declaration's supervisord at login. Raises E-PATH."""
        from lmctl import units  # what reads and writes them is slow to import, and no plan asks

        return units.unit(self.host.hardware.os, self.folders.home, self.folders.config.parent, self.state)

    def lock(self) -> Lock:
        """Return the committed and the local lock as one; where both know an artifact, the committed one counts.

        What only models ask for that nothing declares is locked beside them.
        """
        cache = self.folders.cache
        if self.pinned is not None:
            found = self.pinned
        else:
            committed, local = (lockfile.read_cached(path, cache) for path in lock_paths(self.declaration))
            found = lockfile.merged(committed, local)
        if not self.beside.exists():
            return found
        return lockfile.merged(found, self._undeclared(lockfile.read_cached(self.beside, cache)))

    def _undeclared(self, lock: Lock) -> Lock:
        """Return what of `lock` only models ask for that run undeclared now."""
        alone = adhoc.only_for(self.declaration, adhoc.undeclared(self.folders, self.declaration))
        return Lock({name: artifact for name, artifact in lock.artifacts.items() if name in alone})

    @property
    def beside(self) -> Path:
        """The lock of what runs undeclared."""
        return self.state / lockfile.UNDECLARED

    def forget(self, names: frozenset[str]) -> frozenset[str]:
        """Let go of models that run undeclared, and of what only they had locked; return those that there were."""
        gone = adhoc.forget(self.folders, self.declaration.name, names)
        if gone and self.declaration.profiles and self.beside.exists():
            with suppress(LmctlError):  # a lock that cannot be read keeps nobody from stopping
                lockfile.write(self.beside, self._undeclared(lockfile.read(self.beside)), 0o600)
        return gone

    def look(self, scope: Scope, lock: Lock | None = None) -> Case:
        """Observe everything that planning for `scope` depends on; reads only.

        A run that has begun passes on the `lock` that it began with: what somebody pulls meanwhile waits for the next.
        """
        memory = self.ledger.read()
        lock = self.lock() if lock is None else lock
        case = Case(self.declaration, lock, self._world(lock, memory, scope), scope)
        return self._with_users(case)

    def _world(self, lock: Lock, memory: Memory, scope: Scope) -> World:
        owned = {row.path: row for row in memory.owned}
        signatures = {path: self.host.store.signature(Path(path)) for path, row in owned.items() if row.kind != "link"}
        known, found = _known(owned.values()), {}
        for profile in self.declaration.profiles:
            for wanted in profile.artifacts if scope.covers(profile.name) else ():
                artifact = lock.artifacts.get(wanted.id)
                if artifact is not None and wanted.id not in found:
                    found[wanted.id] = self.host.store.locate(artifact, wanted, known)
        hardware, daemon = self.host.hardware, self.host.supervisor.observe()
        return World(
            daemon=daemon,
            hardware=hardware,
            now=self.host.now(),
            found=found,
            received=self._received(found),
            memory=memory,
            owned=owned,
            engines=self._engines(hardware, scope),
            templates=self._templates(scope),
            there=frozenset(path for path, seen in signatures.items() if seen == owned[path].signature),
            gone=frozenset(path for path, seen in signatures.items() if seen is None),
            changed={path: seen for path, seen in signatures.items() if seen and seen != owned[path].signature},
            strays=self._strays(),
            environ=self.host.environ,
            taken_ports=self._taken_ports(daemon, memory),
        )

    def _received(self, found: Mapping[str, tuple[Found, ...]]) -> Mapping[str, int]:
        """Ask what interrupted downloads left of the files that are missing; where none is, nothing is asked."""
        missing = [one for files in found.values() for one in files if one.signature is None]
        return {one.file.sha256: count for one in missing if (count := self.host.store.received(one))}

    def _taken_ports(self, daemon: Daemon, memory: Memory) -> Mapping[int, str]:
        """Look at who has which port only where one has to be chosen or taken."""
        ports = addresses.unsettled(self.declaration, daemon, memory)
        busy = dict.fromkeys(self.host.processes.busy(ports), "") if ports else {}
        return busy | neighbours.ports(self.folders.state, self.record.parent, self.record) if ports else busy

    def _with_users(self, case: Case) -> Case:
        """Ask who else uses the candidates for pruning: only for those, it means looking at every process."""
        refers = content.referenced(case)
        stray = any(row.kind == "blob" and row.sha256 not in refers for row in case.world.owned.values())
        if not stray and not case.world.strays:
            return case
        leaving = case.scope.leaving
        others = neighbours.references(self.record.parent, self.record, self.folders.cache, leaving)
        words = neighbours.served(self.folders.state, self.declaration.name, leaving)
        if words is None:
            others = None
        outside = frozenset(path for path in case.world.owned if not self.host.store.holds(Path(path)))
        served = _served(case, words or frozenset())
        world = replace(case.world, references=References(others), served=served, outside=outside)
        case = replace(case, world=world)
        candidates = [row.path for row, why in content.verdicts(case) if why is None]
        store = self.host.store
        users = self._users(candidates, program.ending(case))
        held, let_go = ({path: found[n] for path, found in users.items()} for n in (0, 1))
        linked = {path: why for path in candidates if (why := _linked(store, case, path)) is not None}
        shared = frozenset(path for path in candidates if store.shared(Path(path)))
        return replace(case, world=replace(case.world, held=held, let_go=let_go, linked=linked, shared=shared))

    def _users(
        self, paths: Sequence[str], ending: Mapping[int, str]
    ) -> Mapping[str, tuple[tuple[int, ...], tuple[str, ...]]]:
        """Return who has each file open, but for the programs that this run removes first, and these programs.

        Pruning comes last and looks once more: by then they have let go, or their removal failed.
        """
        held = self.host.processes.holders(map(Path, paths))
        roots = {pid: self.host.processes.root(pid, ending) for pid in {pid for pids in held.values() for pid in pids}}
        return {
            path: (
                tuple(pid for pid in held[Path(path)] if roots[pid] is None),
                tuple(sorted({ending[root] for pid in held[Path(path)] if (root := roots[pid]) is not None})),
            )
            for path in paths
        }

    def _engines(self, hardware: Hardware, scope: Scope) -> Mapping[str, Engine | LmctlError | None]:
        found: dict[str, Engine | LmctlError | None] = {}
        for backend in {profile.backend for profile in self.declaration.profiles if scope.covers(profile.name)}:
            try:
                found[backend] = self.host.engines.find(backend)
            except LmctlError as error:
                found[backend] = error
        return found

    def _templates(self, scope: Scope) -> Mapping[Path, bytes | LmctlError]:
        found: dict[Path, bytes | LmctlError] = {}
        covered = (profile for profile in self.declaration.profiles if scope.covers(profile.name))
        for path in filter(None, (profile.settings.chat_template_file for profile in covered)):
            try:
                found[path] = read_regular(path, _TEMPLATE_LIMIT)
            except LmctlError as error:
                found[path] = error
        return found

    def _strays(self) -> tuple[Stray, ...]:
        now = self.host.now()
        return tuple(Stray(str(p.path), p.size, now - p.modified) for p in self.host.store.partials())

    def refuse_foreign_name(self, *, ending: bool = False) -> None:
        """Raise E-NAME-TAKEN when another folder uses this declaration's name on this machine.

        `ending`: what runs is to be ended, so a broken record keeps nobody from it. Otherwise it raises E-STATE.
        """
        if not self.record.exists():
            return
        try:
            folder = _recorded_folder(self.record)
        except LmctlError:
            if ending:
                return
            raise
        if folder != str(self.declaration.folder):
            gone = "" if Path(folder).is_dir() else ", which is gone"
            what = f"the name {self.declaration.name!r} belongs to {escape(folder)} on this machine{gone}"
            take = "run `lmctl apply --take`; `lmctl apply --take --dry-run` shows what it then does"
            fix = take if gone else f"choose another `name`, or {take}"
            if ending:
                fix = f"`lmctl down {self.declaration.name}` ends what runs of it, from any folder"
            raise LmctlError("E-NAME-TAKEN", what, fix=fix)

    def register(self) -> None:
        """Write which folder the name belongs to, when that is not what is written already."""
        value = {"folder": str(self.declaration.folder), "file": str(self.declaration.file)}
        text = json.dumps(value, sort_keys=True).encode()
        make_private(self.record.parent)
        if not self.record.exists() or self.record.read_bytes() != text:
            write_atomic(self.record, text)

    def tidy(self) -> None:
        """Remove what killed runs left half written; whoever calls holds the declaration's lock."""
        for folder in (self.state, self.state / "programs", self.state / "keys", self.record.parent):
            remove_left(folder)
        remove_left(self.declaration.folder, {path.name for path in lock_paths(self.declaration)})


def lock_paths(declaration: Declaration) -> tuple[Path, Path]:
    """Return the committed lock file and the git-ignored one of this machine."""
    return declaration.folder / lockfile.COMMITTED, declaration.folder / lockfile.LOCAL


def _recorded_folder(record: Path) -> str:
    try:
        return str(neighbours.folder_of(record)[0])
    except ValueError as error:
        what = f"{escape(str(record))} is broken"
        raise LmctlError("E-STATE", what, fix="remove it and apply again") from error


def _known(owned: Iterable[Owned]) -> Mapping[str, Path]:
    """Return where each content was verified, what lmctl brought itself before what it found."""
    ranked = sorted((row for row in owned if row.kind != "link"), key=lambda row: (row.kind == "blob", row.verified_at))
    return {row.sha256: Path(row.path) for row in ranked}


def _linked(store: Store, case: Case, path: str) -> str | None:
    """Return why a link may lead to the content at `path` that lmctl did not place, None when there is none."""
    try:
        others = {*store.links(Path(path))} - {*content.own_links(case, path)}
    except LmctlError:
        return "its snapshots cannot be read"
    return "another tool's snapshot leads to it" if others else None


def _served(case: Case, others: frozenset[str]) -> frozenset[str]:
    """Return the ledger's files to which the argv of a program leads that stays, or a folder that it names.

    `others` are the words of what other declarations would run.
    """
    world, declared = case.world, {profile.name for profile in case.declaration.profiles}
    removes = case.scope.whole and case.scope.only is None
    staying = (spec for spec in world.daemon.specs.values() if spec.profile in declared or not removes)
    words = others.union(word for spec in staying for word in spec.argv)
    paths = [Path(word) for word in words if word.startswith("/")]
    inside = [entry for path in paths for entry in _within(path)]
    real = {os.path.realpath(path) for path in (*paths, *inside)}
    return frozenset(path for path in world.owned if os.path.realpath(path) in real)


def _within(path: Path) -> list[Path]:
    """Return what lies in a folder; nothing of what is none, or may not be looked into."""
    try:
        return list(path.iterdir())
    except OSError:
        return []
