"""Runs lmctl and says what is wrong with what it did: nobody else's file or model suffers, whatever happens."""

from __future__ import annotations

import configparser
import hashlib
import json
import os
import re
import signal
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
from e2e.conftest import Ran
from e2e_tools import daemons, listeners, until
from stateful.world import Engine, Way, World, to_its_end
from supervisor.options import UnhosedConfigParser
from sweep import judge

from lmctl.spec import program_id

_HEAD = {"supervisord", "unix_http_server", "rpcinterface:supervisor"}
# every exit code of the documentation but for 1, which is a bug, and those that nothing here asks for or sends
_CODES = {0, 3, 4, 5, 6, 7, 8, 9, 64, 65, 66}
_READS = {"plan", "status", "verify", "drift", "history", "prune"}
_BROUGHT = {"apply", "rollback"}  # the commands that make everything as it is declared, or was
_APPLIES = {"apply", "watch"}  # those that make it as it is declared, as far as they may
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Witness:
    """Looks at a world before and after each command, and between them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._well: dict[int, Engine] = {}  # what was seen to serve, and nobody may stop without a reason
        self._reported: set[tuple[str, str]] = set()

    # around a command

    def run(self, *words: str, way: Way = to_its_end) -> Ran:
        """Run lmctl in some way; fail when its end, or what it left, is none that it may have."""
        world = self.world
        theirs, sections, left = self._theirs(), self.sections(), self._temporary()
        spared, target, sound = self._spared(words), world.target(words), world.sound()
        changing = self._changing(words)
        ran = way(world, words)
        world.tell(f"lmctl {' '.join(words)} -> {ran.code}\n{ran.out}{ran.err}".rstrip())
        plain, killed = way is to_its_end, ran.code == -signal.SIGKILL
        wrong = [*_ended(ran, plain=plain, killed=killed and not plain)]
        wrong += [f"changed: {path}" for path in _differing(theirs, self._theirs())]
        spared |= {pid: engine for pid, engine in changing.items() if not self._ready(engine.profile)}
        wrong += [f"stopped: {engine}" for pid, engine in spared.items() if pid not in world.engines()]
        if words[0] == "stop" and ran.code == 0:
            wrong += [f"not stopped: {name}" for _, (name, _) in world.engines().items() if name in words]
        if words[0] == "apply" and plain and sound and ran.code != 0:
            wrong.append(f"nothing was wrong, and apply ended with {ran.code}")
        self._remember(words, ran)
        wrong += self._mixed(words, ran, sections, {program_id(name) for name in target})
        if words[0] in _BROUGHT and ran.code == 0:
            world.edited = False
            wrong += self._not_brought(words, target)
            if "Nothing" not in ran.out:
                wrong += [f"left over from before: {path}" for path in left & self._temporary()]
        self._well = {pid: engine for pid, engine in self._well.items() if pid in spared}
        if ran.code == 0:
            self._well |= self._answering()
        self.fail(wrong)
        return ran

    def _remember(self, words: tuple[str, ...], ran: Ran) -> None:
        if words[0] == "stop":
            self.world.stopped |= {*words[1:]}
        if words[0] == "start" and ran.code == 0:
            self.world.stopped -= {*words[1:]}

    def _spared(self, words: tuple[str, ...]) -> dict[int, Engine]:
        """Return the engines that a command has no reason to stop: unchanged ones, and those it is not about.

        What outlived its supervisord is started anew by whatever makes all as it is declared.
        """
        target, supervised = self.world.target(words), self.world.supervised()

        def reason(pid: int, engine: Engine) -> bool:
            if words[0] in _READS or (self.world.unread and words[0] not in {"stop", "down"}):
                return False
            if words[0] in {"stop", "start"} and engine.profile not in words[1:]:
                return False
            if words[0] in {"stop", "down"}:
                return True
            return pid not in supervised or target.get(engine.profile) != engine.serves

        return {pid: engine for pid, engine in self._well.items() if not reason(pid, engine)}

    def _changing(self, words: tuple[str, ...]) -> dict[int, Engine]:
        """Return the supervised engines that an apply has to start anew for what is declared today."""
        if words[0] not in _APPLIES:
            return {}
        there = self.world.supervised() & self._well.keys()
        return {pid: self._well[pid] for pid in there if self._well[pid].profile in self.world.declared}

    def _ready(self, name: str) -> bool:
        """Whether the weights that a profile asks for now are there: until then its old engine goes on."""
        path = self.world.place(self.world.declared[name].weights)
        return path is not None and path.exists()

    def _answering(self) -> dict[int, Engine]:
        """Return the supervised engines once they answer; what ends meanwhile is left out."""
        found = {}
        for pid in self.world.supervised():
            engine = self.world.engines().get(pid)
            if engine and until(lambda: answers(engine) or not psutil.pid_exists(pid)) and psutil.pid_exists(pid):  # noqa: B023
                found[pid] = engine
        return found

    def _theirs(self) -> dict[str, tuple[object, ...]]:
        """Return everything that is not lmctl's to write: path, and what it is."""
        hub = self.world.home / ".cache/huggingface/hub"
        tops = [self.world.machine.folder, self.world.home / ".config", hub / "models--theirs--model"]
        found = {}
        for path in _below(self.world.folder / "outside", *tops):
            if path.name != "localmodels.lock" and not judge.temporary(path.name):
                found[str(path)] = _what(path)
        return found

    # the file of supervisord

    def sections(self) -> set[str] | None:
        """Return the programs of supervisord.conf as its own parser reads it, None where somebody spoiled it."""
        path = self.world.machine.state() / "supervisord.conf"
        if self.world.edited:
            return None
        parser = UnhosedConfigParser()
        try:
            parser.read_string(path.read_text() if path.exists() else "")
        except configparser.Error as error:
            self.fail([f"supervisord.conf is torn: {error}"])
        return {name.removeprefix("program:") for name in parser.sections()} - _HEAD

    def _mixed(self, words: tuple[str, ...], ran: Ran, before: set[str] | None, target: set[str]) -> Iterator[str]:
        """Yield what is wrong with the programs that supervisord.conf names: old ones, new ones, and no others."""
        if before is None or self.world.edited:
            return
        now = self.sections() or set()
        if words[0] == "start":
            target = before | {program_id(name) for name in words[1:]}
        elif words[0] not in _BROUGHT | _APPLIES or self.world.unread:
            target = before
        if not before & target <= now <= before | target or (ran.code == 0 and now != target):
            yield f"supervisord.conf had {sorted(before)} and has {sorted(now)}, declared are {sorted(target)}"

    def _not_brought(self, words: tuple[str, ...], target: dict[str, object]) -> Iterator[str]:
        """Yield what is not as it was to be after an apply or a rollback that went well."""
        running = {engine.profile: engine.serves for engine in self.world.engines().values()}
        wanted = {name: serves for name, serves in target.items() if name in running or name not in self.world.stopped}
        if running != wanted:
            yield f"running are {running}, declared {wanted}"
        self.world.stopped -= {*running}
        if words[0] == "apply":
            planned = self.world.machine.run("plan", "--detailed-exitcode", code=None)
            if planned.code != 0:
                yield f"after an apply that went well, plan ended with {planned.code}: {planned.out}{planned.err}"

    def _temporary(self) -> set[Path]:
        return {path for path in _below(self.world.home) if judge.temporary(path.name)}

    # at any time

    def holds(self) -> None:
        """Fail when something is not as it is promised to be at any time."""
        world = self.world
        engines = world.engines()
        wrong = judge.torn(world.home, world.by_hand())
        wrong += [f"the token is in {place}" for place in world.leaks()]
        wrong += _twice(engine.profile for engine in engines.values())
        wrong += _twice(f"port {engine.serves.port}" for engine in engines.values())
        if len(daemons(world.machine)) > 1:
            wrong.append(f"supervisord runs {len(daemons(world.machine))} times")
        wrong += [f"listens on {one}" for one in self._addresses() if one != "127.0.0.1"]
        wrong += [f"gone: {pid} {engine}" for pid, engine in self._well.items() if pid not in engines]
        # one whose supervisord is gone has nowhere to write its log to, and is free to end of it
        served = {pid: engine for pid, engine in self._well.items() if pid in world.supervised()}
        wrong += [f"does not answer: {engine}" for engine in served.values() if not answers(engine)]
        wrong += self._unreported()
        self.sections()
        self.fail(wrong)

    def _addresses(self) -> list[str]:
        return [one.laddr.ip for process in self.world.machine.processes() for one in listeners(process)]

    def _unreported(self) -> Iterator[str]:
        """Yield declared weights that are not as locked without `lmctl verify --deep` saying so."""
        world, wrong = self.world, {}
        if world.unread:
            return
        for name in {entry.weights for entry in world.declared.values()}:
            path = world.place(name)
            if path is not None and path.exists() and not world.right(name):
                wrong[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        if not {*wrong.items()} - self._reported:
            return
        ran = world.machine.run("verify", "--deep", "--json", code=None)
        told = {one["path"] for one in ran.data["files"] if one["state"] == "corrupt"}
        if ran.code != 6 or not wrong.keys() <= told:
            yield f"verify --deep ended with {ran.code} and tells of {told}, wrong are {wrong}"
        self._reported |= {*wrong.items()}

    def settled(self) -> None:
        """Fail unless one apply, after all faults are gone, makes everything as it is declared."""
        self.world.heal()
        self.run("apply", "--prune", "--yes")
        self.holds()
        rows = self.world.machine.profiles()
        wrong = [f"{name} is {row['state']}" for name, row in rows.items() if row["state"] not in self._fine(name)]
        wrong += [f"{name} drifts: {row['drift']}" for name, row in rows.items() if row["drift"] != "none"]
        wrong += [f"not shown: {name}" for name in self.world.declared.keys() ^ rows.keys()]
        wrong += [f"left over: {path}" for path in judge.left(self.world.home)]
        self.fail(wrong)

    def _fine(self, name: str) -> set[str]:
        return {"healthy", "stopped", "held"} if name in self.world.stopped else {"healthy"}

    def fail(self, wrong: list[str]) -> None:
        """Fail with what is wrong, and the story of how it came to that."""
        if wrong:
            print("\n".join(["wrong:", *wrong, "", "what happened:", *self.world.story]))  # shown when it fails
            raise AssertionError("; ".join(wrong))


def answers(engine: Engine) -> bool:
    """Return whether the model that a profile names answers on its port."""
    try:
        with _OPENER.open(f"http://127.0.0.1:{engine.serves.port}/v1/models", timeout=60) as answer:
            return bool(json.load(answer)["data"][0]["id"] == engine.profile)
    except (OSError, ValueError):
        return False


def _ended(ran: Ran, *, plain: bool, killed: bool) -> Iterator[str]:
    """Yield what is wrong with the end of a command. A fault may strike the very line that tells of it."""
    if ran.code not in _CODES and not killed:
        yield f"ended with {ran.code}"
    if "Traceback" in ran.err or "E-BUG" in ran.err:
        yield "a bug showed"
    if plain and ran.code != 0 and not re.search(r"^error\[E-", ran.err, re.MULTILINE):
        yield f"ended with {ran.code} and no error"


def _twice(names: Iterator[str]) -> list[str]:
    return [f"{times} times: {name}" for name, times in Counter(names).items() if times > 1]


def _below(*tops: Path) -> Iterator[Path]:
    for top in tops:
        for folder, names, files in os.walk(top):
            yield from (Path(folder, name) for name in (*names, *files))


def _what(path: Path) -> tuple[object, ...]:
    status = path.lstat()
    if path.is_symlink():
        return "link", os.readlink(path)
    if path.is_dir():
        return "folder", status.st_mode
    return "file", status.st_mode, status.st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()


def _differing(before: dict[str, tuple[object, ...]], after: dict[str, tuple[object, ...]]) -> list[str]:
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
