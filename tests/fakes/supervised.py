"""A state folder with a real supervisord for one test, and the proof that nothing of it is left behind."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from lmctl.hosts import pids, supervisor_daemon
from lmctl.hosts.supervisor import LocalSupervisor
from lmctl.spec import Process, ProgramSpec, program_id

SERVER = str(Path(__file__).with_name("server.py"))


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition that must come true."""
    assert supervisor_daemon.wait(lambda: bool(condition()), seconds), "it did not happen"


class Supervised:
    """Programs are named by a profile; `hash` marks every process of this test in its environment."""

    def __init__(self, folder: Path, log_max_bytes: int = 20 << 20) -> None:
        self.folder = folder
        self.mark = uuid.uuid4().hex
        self.supervisor = LocalSupervisor(folder, os.environ, log_max_bytes)

    def __enter__(self) -> Supervised:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.supervisor.shutdown()
        finally:
            left = self.processes()
            for pid in left:
                os.kill(pid, signal.SIGKILL)
        assert not left, "processes were left behind"

    def processes(self) -> list[int]:
        """Return every process of this test, wherever it went."""
        marked = [
            found.pid for found in pids.every() if (pids.variable(found.pid, "LMCTL_HASH") or "").startswith(self.mark)
        ]
        return [*marked, *(found.pid for found in pids.every() if supervisor_daemon.is_daemon(found.pid, self.folder))]

    def spec(
        self, profile: str, *args: str, version: int = 1, autostart: bool = True, stop: float = 10.0
    ) -> ProgramSpec:
        """Return a program that runs the stand-in engine on a free port, unless `args` say otherwise."""
        argv = ("{python}", SERVER, *(args or ("0",)))
        digest = f"{self.mark}{version}"
        name = program_id(profile)
        env: Mapping[str, str] = {}
        return ProgramSpec(name, profile, argv, env, "/", digest, "127.0.0.1:1", autostart=autostart, stop_timeout=stop)

    def up(self, *programs: ProgramSpec, replace: tuple[str, ...] = ()) -> None:
        """Write and reload; `replace` names profiles."""
        self.supervisor.write(programs)
        self.supervisor.reload(frozenset(map(program_id, replace)))

    def process(self, profile: str) -> Process:
        return self.supervisor.observe().processes[program_id(profile)]

    def states(self) -> dict[str, str]:
        """Return by profile how the daemon's programs are, those that it has just spawned as running."""
        daemon = self.supervisor.observe()
        return {
            daemon.specs[name].profile: "RUNNING" if process.running else process.state
            for name, process in daemon.processes.items()
        }

    def pid(self, profile: str) -> int:
        """Return the pid of a program, once it listens: until then a launcher may still be running under that pid."""
        until(lambda: b"listening" in self.output(profile))
        pid = self.process(profile).pid
        assert pid is not None
        return pid

    def port(self, profile: str) -> int:
        """Return the port that the stand-in engine took when it was last started."""
        until(lambda: b"listening on " in self.output(profile))
        return int(self.output(profile).rpartition(b"listening on ")[2].split()[0])

    def output(self, profile: str) -> bytes:
        path = self.supervisor.log(program_id(profile))
        return path.read_bytes() if path.exists() else b""

    def kill_daemon(self) -> int:
        """Kill the daemon as the kernel would; its programs go on."""
        pid = self.supervisor.observe().pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        until(lambda: pids.stat(pid) is None)
        return pid


def tick() -> None:
    """Let one turn of supervisord's loop pass, where the point is that nothing happens."""
    time.sleep(0.2)
