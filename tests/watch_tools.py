"""A watcher that runs, the events that it told, and the team of two that it watches."""

from __future__ import annotations

import json
import os
import signal
import threading
from typing import Any

from e2e_tools import profile, until
from fakes.llama_server import install

HEAD = '[watch]\ndebounce = "300ms"\n'


class Watch:
    """A running watcher and the events that it told."""

    def __init__(self, machine: Any, *words: str) -> None:
        self.process = machine.start("watch", *(words or ("--json",)))
        self.events: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def of(self, kind: str, start: int = 0) -> list[dict[str, Any]]:
        return [event for event in self.events[start:] if event.get("event") == kind]

    def next(self, kind: str, start: int = 0) -> dict[str, Any]:
        """Wait for the first event of a kind after `start` events."""

        def found() -> dict[str, Any] | None:
            assert self.process.poll() is None or self.of(kind, start), self.process.stderr.read()
            return next(iter(self.of(kind, start)), None)

        return until(found)

    def seen(self, *names: str, start: int) -> dict[str, Any]:
        """Wait for the plan that follows from the change of these files."""

        def found() -> dict[str, Any] | None:
            plans = (event for event in self.of("planned", start) if event["files"])
            return next((one for one in plans if {*names} <= {os.path.basename(f) for f in one["files"]}), None)

        return until(found)

    def settled(self) -> None:
        """Wait until what was applied last left nothing to do."""

        def nothing_left() -> bool:
            last = max(n for n, event in enumerate(self.events) if event.get("event") == "applied")
            return any(event["plan"]["changes"] == [] for event in self.of("planned", last))

        until(nothing_left)

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Interrupt it; return its exit code and what it said on stderr."""
        self.process.send_signal(number)
        code = self.process.wait(timeout=120)
        self._reader.join()
        with self.process.stdout, self.process.stderr as err:
            return code, err.read()


def team_of_two(machine: Any, tmp_path: Any, port: Any) -> Any:
    """Bring up two profiles of a stand-in engine, each in a file of its own."""
    machine.environ["PATH"] = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    install(tmp_path)
    machine.hello()
    (machine.folder / "profiles").mkdir()
    for name in ("chat", "code"):
        text = profile(name, path="../hello.gguf", port=port(), ctx=512).partition("\n")[2]
        (machine.folder / f"profiles/{name}.toml").write_text(text)
    (machine.folder / "localmodels.toml").write_text(
        f'version = 1\nname = "team"\ninclude = ["profiles/*.toml"]\n{HEAD}'
    )
    machine.run("apply")
    return machine


def pids(machine: Any) -> dict[str, int]:
    return {name: row["pid"] for name, row in machine.profiles().items()}


def edited(machine: Any, name: str = "chat", ctx: int = 1024) -> str:
    """Return the text of a profile with another ctx."""
    text = (machine.folder / f"profiles/{name}.toml").read_text()
    return "".join(f"ctx = {ctx}\n" if line.startswith("ctx") else line for line in text.splitlines(keepends=True))
