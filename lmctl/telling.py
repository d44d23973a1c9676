"""What the watcher says: to a person or a script, to the program of `watch.notify`, and to `lmctl status`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from itertools import chain
from pathlib import Path

from lmctl import plan
from lmctl.acting import told
from lmctl.command import Context
from lmctl.drift.records import Drift
from lmctl.errors import LmctlError, Problem
from lmctl.plan import Plan
from lmctl.reconcile import Applied
from lmctl.result import problem_json, write
from lmctl.spec import Json
from lmctl.text import human_id
from lmctl.watcher import report
from lmctl.watcher.hook import Hook
from lmctl.watcher.pace import Turn
from lmctl.watcher.policy import Decision
from lmctl.watcher.report import Report

_MENDED = {"configuration": "the configuration is whole again", "world": "nothing is in the way any more"}


class Telling:
    """JSON lines with --json, else lines that people read; problems on stderr. Each thing is said once.

    `clock` gives seconds since the epoch.
    """

    def __init__(self, context: Context, clock: Callable[[], float]) -> None:
        self._context, self._clock = context, clock
        self._hook = Hook(context.environ)
        self._name, self._notify = "", tuple[str, ...]()
        self._said: dict[str, tuple[Problem, ...]] = {}
        self._plan = ""  # fingerprint of the last one that was shown
        self._state, self._since = Path(), 0.0

    def begin(self, name: str, state: Path) -> None:
        """Say who is watched; its state folder is where everybody else learns of it."""
        self._name, self._state, self._since = name, state, self._clock()
        self._report(None)
        self._event("watching", {"name": name}, f"watching {name}; interrupt to end")

    def hear(self, notify: tuple[str, ...]) -> None:
        """Take on who else hears these notices."""
        self._hook.reap()
        self._notify = notify

    def looked(self) -> None:
        self._report(self._clock())

    def close(self) -> None:
        """End programs that are being told something."""
        self._hook.reap(0.0)

    def planned(self, planned: Plan, turn: Turn, decision: Decision) -> None:
        new, self._plan = planned.fingerprint != self._plan, planned.fingerprint
        stays = (decision.stays,) if decision.stays and not planned.empty else ()
        if turn.files or new:
            shown = plan.to_json(planned)
            data: dict[str, Json] = {"files": list(turn.files), "plan": dict(shown)}
            text = plan.text(planned, self._context.style) if stays and new else ""
            self._event("planned", data, text.rstrip("\n"))
        self.problems("plan", (*planned.warnings, *decision.waits, *stays))

    def applied(self, applied: Applied, *, early: bool) -> None:
        result = told(applied, [])
        text = result.text if isinstance(result.text, str) else result.text(self._context.style)
        data: dict[str, Json] = {**result.data, "exit_code": result.exit_code, "early": early}
        more = "what is saved by now counts\n" if early else ""
        self._event("applied", data, (text + more).rstrip("\n"))
        # what was ended early is planned anew at once: that is nobody's problem
        self.problems("apply", tuple(one for one in result.errors if not early or one.code != "E-INTERRUPTED"))
        self._notice("applied", data)

    def drifts(self, begun: tuple[Drift, ...], over: tuple[Drift, ...]) -> None:
        data: dict[str, Json] = {"new": [_plain(one) for one in begun], "over": [_plain(one) for one in over]}
        lines = [f"drift: {one.kind} {human_id(one.address)} (mended by: {one.mend})" for one in begun]
        lines += [f"no drift any more: {one.kind} {human_id(one.address)}" for one in over]
        self._event("drift", data, "\n".join(lines))
        self._notice("drift", data)

    def problems(self, topic: str, problems: tuple[Problem, ...]) -> None:
        before, self._said[topic] = self._said.get(topic, ()), problems
        if problems == before:
            return
        data: dict[str, Json] = {"topic": topic, "problems": [problem_json(problem) for problem in problems]}
        kind = "problems" if problems else "mended"
        self._event(kind, data, "" if problems else _MENDED.get(topic, ""))
        self._warn(*(problem for problem in problems if problem not in before))
        self._notice(kind, data)

    def _notice(self, kind: str, data: Mapping[str, Json]) -> None:
        why = self._hook.tell(self._notify, {"event": kind, "name": self._name, **data})
        found = (Problem("E-FILE", why),) if why is not None else ()
        if found != self._said.get("notify", ()):
            self._said["notify"] = found
            self._warn(*found)

    def _report(self, looked: float | None) -> None:
        found = Report(os.getpid(), self._since, looked, tuple(chain(*self._said.values())))
        try:
            report.write(self._state, found)
        except LmctlError as error:
            self.problems("report", error.problems)
        else:
            self.problems("report", ())

    def _warn(self, *problems: Problem) -> None:
        if not self._context.options.quiet:
            texts = (str(problem).replace("error[", "warning[", 1) for problem in problems)
            self._context.err.write("".join(f"{text}\n" for text in texts))
            self._context.err.flush()

    def _event(self, kind: str, data: Mapping[str, Json], text: str) -> None:
        out, options = self._context.out, self._context.options
        if options.json:
            write(out, json.dumps({"event": kind, **data}) + "\n")
        elif text and not options.quiet:
            write(out, f"{text}\n")


def _plain(drift: Drift) -> Json:
    return {"class": drift.kind, "address": drift.address, "mend": drift.mend, "fingerprint": drift.fingerprint}
