"""The machine of one example: what is declared and which weights lie where, the Hub, and lmctl run beside a witness."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import canary
import psutil
from e2e.conftest import Machine, Ran
from e2e_tools import daemons, profile, until
from fakes import llama_server
from fakes.hub import Hub
from fakes.ports import free_port
from weights.hello import hello

from lmctl import lockfile
from lmctl.spec import Artifact

NAMES = ("ada", "bob", "cy", "dot")
CONTEXTS = (512, 1024, 2048)


@dataclass(frozen=True)
class Weights:
    """Weights that a profile can ask for: a file beside the declaration, or a quant of a repository."""

    file: str
    content: bytes
    repo: str | None = None
    quant: str | None = None

    @property
    def id(self) -> str:
        return f"{self.repo}@main:{self.quant}" if self.repo else f"path={self.file}"

    @property
    def keys(self) -> dict[str, str | None]:
        return {"model": self.repo, "quant": self.quant} if self.repo else {"path": self.file}


WEIGHTS = {
    "one": Weights("one.gguf", hello("One.")),
    "two": Weights("two.gguf", hello("Two, and a little longer.")),
    "q4": Weights("b-Q4_K_M.gguf", hello("Of the Hub."), "org/b-GGUF", "Q4_K_M"),
    "q8": Weights("b-Q8_0.gguf", hello("Of the Hub, and larger."), "org/b-GGUF", "Q8_0"),
    "keep": Weights("keep-Q4_K_M.gguf", hello("I stay."), "org/keep-GGUF", "Q4_K_M"),
}
LOCAL = tuple(name for name, weights in WEIGHTS.items() if weights.repo is None)


def flipped(content: bytes) -> bytes:
    """Return the same number of bytes with another last one."""
    return content[:-1] + bytes([content[-1] ^ 1])


class Serves(NamedTuple):
    """What an engine was started for; two that are equal need no restart."""

    port: int
    ctx: int
    file: str


@dataclass(frozen=True)
class Entry:
    """A declared profile."""

    weights: str
    port: int
    ctx: int
    remark: str = ""

    @property
    def serves(self) -> Serves:
        return Serves(self.port, self.ctx, WEIGHTS[self.weights].file)

    def toml(self, name: str) -> str:
        remark = f"# {self.remark}\n" if self.remark else ""
        return remark + profile(name, **WEIGHTS[self.weights].keys, port=self.port, ctx=self.ctx)


class Engine(NamedTuple):
    """A running engine, as its argv tells."""

    profile: str
    serves: Serves


Way = Callable[["World", tuple[str, ...]], Ran]  # how lmctl is run: to its end, killed, or on a full disk


def to_its_end(world: World, words: tuple[str, ...]) -> Ran:
    return world.machine.run(*words, code=None)


class World:
    """A home in which lmctl runs, and what a person did to it.

    `folder` is outside of the home; `story` is what was done, for whoever reads a failure.
    """

    def __init__(self, folder: Path, hub: Hub) -> None:
        self.folder, self.hub = folder, hub
        self.machine = Machine(
            folder / "h", folder / "h/repo", {"HF_ENDPOINT": hub.url, "LMCTL_GATEWAY__ENABLED": "false"}
        )
        self.declared: dict[str, Entry] = {}
        self.stopped: set[str] = set()  # whom somebody stopped: until they are started, no apply has to
        self.edited = False  # supervisord.conf is somebody's, not lmctl's
        self.spoiled: set[Path] = set()  # weights that somebody wrote into
        self.unread = False  # the declaration is gone or cannot be read
        self.story: list[str] = []
        self._ports = [free_port() for _ in range(2 * len(NAMES))]

    @property
    def home(self) -> Path:
        return self.machine.home

    def furnish(self) -> None:
        """Fill the home: an engine, local weights, somebody else's model in the cache, and files outside of it."""
        self.machine.folder.mkdir(parents=True)
        for name in LOCAL:
            (self.machine.folder / WEIGHTS[name].file).write_bytes(WEIGHTS[name].content)
        config = self.home / ".config/lmctl/machine.toml"
        config.parent.mkdir(parents=True)
        config.write_text(f'[engines."llama.cpp"]\nbinary = "{llama_server.install(self.home)}"\n')
        theirs = self.home / ".cache/huggingface/hub/models--theirs--model"
        for path in (theirs / "blobs" / ("a" * 40), self.folder / "outside/notes.txt"):
            path.parent.mkdir(parents=True)
            path.write_text("not lmctl's")
        (self.folder / "outside/link").symlink_to(self.home / "repo")
        for weights in WEIGHTS.values():
            if weights.repo:
                files = {one.file: one.content for one in WEIGHTS.values() if one.repo == weights.repo}
                self.hub.add(weights.repo, files)

    # what a person does

    def tell(self, what: str) -> None:
        self.story.append(what)

    def declare(self, **entries: Entry) -> None:
        """Write the declaration with exactly these profiles."""
        self.declared, self.unread = entries, False
        self.machine.declare("".join(entry.toml(name) for name, entry in entries.items()))
        self.tell("declared: " + "; ".join(f"{name} {entry}" for name, entry in entries.items()))

    def change(self, name: str, **fields: object) -> None:
        self.declare(**{**self.declared, name: replace(self.declared[name], **fields)})  # type: ignore[arg-type]

    def misbehave(self, fault: Mapping[str, object] | None) -> None:
        """Let the Hub misbehave from now on, None to let it be honest again; it then forgets what it was at."""
        self.hub.heal()
        for repo in {weights.repo for weights in WEIGHTS.values() if weights.repo} if fault else ():
            self.hub.fault(repo, **(fault or {}))
        self.tell(f"the Hub: {fault or 'honest'}")

    def free_port(self) -> int:
        """Return a port that no declared profile and no engine has."""
        taken = {entry.port for entry in self.declared.values()}
        taken |= {engine.serves.port for engine in self.engines().values()}
        return next(port for port in self._ports if port not in taken)

    def place(self, name: str) -> Path | None:
        """Return the file in which weights lie, None where nothing was locked or fetched yet."""
        weights = WEIGHTS[name]
        if weights.repo is None:
            return self.machine.folder / weights.file
        locked = self.lock().get(weights.id)
        if locked is None:
            return None
        folder = self.home / ".cache/huggingface/hub" / f"models--{weights.repo.replace('/', '--')}"
        path = folder / "snapshots" / str(locked.commit) / weights.file
        return path if path.is_symlink() else None

    def by_hand(self) -> set[Path]:
        """Return the files that are as a person left them."""
        conf, declaration = self.machine.state() / "supervisord.conf", self.machine.folder / "localmodels.toml"
        return {*self.spoiled, *([conf] if self.edited else []), *([declaration] if self.unread else [])}

    # what is to be seen

    def lock(self) -> Mapping[str, Artifact]:
        """Return what the lock file holds; an error when it is torn."""
        return lockfile.read(self.machine.folder / lockfile.COMMITTED).artifacts

    def right(self, name: str) -> bool:
        """Whether weights are as locked, or are not there and can be fetched."""
        path, locked = self.place(name), self.lock().get(WEIGHTS[name].id)
        if path is None or not path.exists():
            return WEIGHTS[name].repo is not None
        return locked is None or hashlib.sha256(path.read_bytes()).hexdigest() == locked.files[0].sha256

    def sound(self) -> bool:
        """Whether nothing is wrong that lmctl cannot mend by itself."""
        lying = any(repo.faults for repo in self.hub.repos.values())
        return not self.unread and not lying and all(self.right(entry.weights) for entry in self.declared.values())

    def generations(self) -> list[int]:
        return sorted(int(path.name) for path in (self.machine.state() / "snapshots").glob("[1-9]*"))

    def target(self, words: tuple[str, ...]) -> dict[str, Serves]:
        """Return what a command may bring about, by profile: today's declaration, or that of a generation."""
        if words[0] != "rollback":
            return {name: entry.serves for name, entry in self.declared.items()}
        file = self.machine.state() / "snapshots" / words[1] / "localmodels.toml"
        found = {}
        for name, keys in tomllib.loads(file.read_text())["profiles"].items():
            asked = {key: keys.get(key) for key in ("model", "quant", "path")}
            weights = next(w for w in WEIGHTS.values() if {**dict.fromkeys(asked), **w.keys} == asked)
            found[name] = Serves(keys["port"], keys["ctx"], weights.file)
        return found

    def engines(self) -> dict[int, Engine]:
        """Return the running engines by pid."""
        found = {}
        for process in self.machine.processes():
            try:
                argv = process.cmdline()
            except psutil.Error:
                continue
            if "--alias" in argv:
                after = dict(pairwise(argv))
                serves = Serves(int(after["--port"]), int(after["--ctx-size"]), Path(after["--model"]).name)
                found[process.pid] = Engine(after["--alias"], serves)
        return found

    def supervised(self) -> set[int]:
        """Return the pids of what supervisord itself started and still has."""
        found: set[int] = set()
        for pid in daemons(self.machine):
            try:
                found |= {child.pid for child in psutil.Process(pid).children()}
            except psutil.Error:
                continue
        return found

    def heal(self) -> None:
        """Take away every fault that is not lmctl's to mend: the Hub's lies and the weights that are not as locked."""
        self.hub.heal()
        if self.unread:
            self.declare(**self.declared)
        for name, weights in WEIGHTS.items():
            path, locked = self.place(name), self.lock().get(weights.id)
            if weights.repo is None and path is not None and not (path.exists() and self.right(name)):
                both = {hashlib.sha256(one).hexdigest(): one for one in (weights.content, flipped(weights.content))}
                path.write_bytes(both[locked.files[0].sha256] if locked else weights.content)
            elif weights.repo and path is not None and not self.right(name):
                path.resolve().unlink()  # as `lmctl verify --deep` advises
        self.spoiled.clear()
        self.tell("healed")

    def close(self) -> None:
        """End everything of this machine and remove it."""
        self.hub.close()
        until(self._killed)
        self.machine.said.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _killed(self) -> bool:
        """Kill whatever runs here, what starts others first; return whether nothing did."""
        first, left = daemons(self.machine), self.machine.processes()
        for process in sorted(left, key=lambda one: one.pid not in first):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        return not left

    def leaks(self) -> list[str]:
        """Return where the token is."""
        found = [*canary.in_files(self.home), *canary.in_processes(self.machine.processes())]
        return found + list(canary.in_texts(self.machine.said))
