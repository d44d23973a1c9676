"""`lmctl watch`: apply what is saved as it is saved, and tell what is no longer as declared."""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from lmctl import plan
from lmctl.acting import reconciling, session, told
from lmctl.command import Context
from lmctl.config.find import Request, located
from lmctl.drift.records import Drift
from lmctl.errors import LmctlError, Problem, Terminated
from lmctl.lockfile import COMMITTED, LOCAL
from lmctl.mutex import exclusive
from lmctl.plan import Plan
from lmctl.reconcile import Applied, Wish
from lmctl.resource import Scope
from lmctl.result import Result, problem_json, write
from lmctl.session import Session
from lmctl.spec import Json
from lmctl.text import human_id
from lmctl.watcher.hook import Hook
from lmctl.watcher.loop import COMMAND, Loaded, Voice, Watcher
from lmctl.watcher.pace import Turn
from lmctl.watcher.places import Places, places
from lmctl.watcher.policy import Decision
from lmctl.watcher.settings import of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There is nothing to say: the table `[watch]` says how."""


def run(context: Context, args: argparse.Namespace) -> Result:
    """Watch until interrupted. Raises what is wrong with the configuration at first, E-BUSY for a second watcher."""
    around = _Around(context)
    first = around.load()
    with exclusive(first.session.state / "watch.lock", COMMAND), closing(around):
        Watcher(around, first).run()
    return Result()


class _Around:
    """The watcher's surroundings: the configuration of this run, and reconcile."""

    def __init__(self, context: Context) -> None:
        self._context, options = context, context.options
        self._request = Request(options.directory, options.config, options.sets, options.elsewhere)
        self._voice = _Voice(context)

    def tell(self) -> Voice:
        return self._voice

    def close(self) -> None:
        """End what is still being told."""
        self._voice.close()

    def load(self) -> Loaded:
        from lmctl.config import layers

        current = session(self._context)
        current.refuse_foreign_name()
        file, context = current.declaration.file, self._context
        settings = of(layers.read(file, self._request, context.folders, context.environ))
        self._voice.hear(current.declaration.name, settings.notify)
        return Loaded(current, settings)

    def places(self, known: Places, loaded: Loaded | None) -> Places:
        from lmctl.config import layers

        context = self._context
        try:
            file = located(self._request, context.folders, context.environ)
            real = file.resolve()
            inputs = layers.read(real, self._request, context.folders, context.environ)
        except (LmctlError, OSError, RuntimeError):  # not whole, or gone: what was read before tells when it is mended
            return known.again()
        found = [file, real, *map(Path, inputs.hashes), real.parent / COMMITTED, real.parent / LOCAL]
        if loaded is not None:
            current = loaded.session
            found.append(current.state / "trust.json")
            templates = (profile.settings.chat_template_file for profile in current.declaration.profiles)
            found += [path for path in templates if path is not None]
        return places(found, real.parent, inputs.patterns)

    def apply(self, session: Session, scope: Scope, wish: Wish) -> Applied:
        with reconciling(self._context, session) as (reconciler, seen):
            applied = reconciler.apply(scope, wish)
        if seen:
            self._voice.applied(applied)
            raise KeyboardInterrupt if seen[0] == signal.SIGINT else Terminated
        return applied


class _Voice:
    """JSON lines with --json, else lines that people read; problems on stderr. Each thing is said once."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._hook = Hook(context.environ)
        self._name, self._notify = "", tuple[str, ...]()
        self._said: dict[str, tuple[str, ...]] = {}
        self._plan = ""  # fingerprint of the last one that was shown

    def hear(self, name: str, notify: tuple[str, ...]) -> None:
        """Take on whose notices these are and who else hears them; the first time, say so."""
        self._hook.reap()
        if not self._name:
            self._event("watching", {"name": name}, f"watching {name}; interrupt to end")
        self._name, self._notify = name, notify

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

    def applied(self, applied: Applied) -> None:
        result = told(applied, [])
        text = result.text if isinstance(result.text, str) else result.text(self._context.style)
        data: dict[str, Json] = {**result.data, "exit_code": result.exit_code}
        self._event("applied", data, text.rstrip("\n"))
        self.problems("apply", result.errors)
        self._notice("applied", data)

    def drifts(self, begun: tuple[Drift, ...], over: tuple[Drift, ...]) -> None:
        data: dict[str, Json] = {"new": [_plain(one) for one in begun], "over": [_plain(one) for one in over]}
        lines = [f"drift: {one.kind} {human_id(one.address)} (mended by: {one.mend})" for one in begun]
        lines += [f"no drift any more: {one.kind} {human_id(one.address)}" for one in over]
        self._event("drift", data, "\n".join(lines))
        self._notice("drift", data)

    def problems(self, topic: str, problems: tuple[Problem, ...]) -> None:
        texts = tuple(str(problem).replace("error[", "warning[", 1) for problem in problems)
        before = self._said.get(topic, ())
        self._said[topic] = texts
        if texts == before or not (texts or topic == "configuration"):
            return
        data: dict[str, Json] = {"topic": topic, "problems": [problem_json(problem) for problem in problems]}
        mended = "" if texts else "the configuration is whole again"
        self._event("problems" if texts else "mended", data, mended)
        if not self._context.options.quiet:
            self._context.err.write("".join(f"{text}\n" for text in texts if text not in before))
            self._context.err.flush()
        self._notice("problems" if texts else "mended", data)

    def _notice(self, kind: str, data: Mapping[str, Json]) -> None:
        why = self._hook.tell(self._notify, {"event": kind, "name": self._name, **data})
        if why is not None and self._said.get("notify") != (why,):
            self._said["notify"] = (why,)
            self._context.err.write(f"warning[E-FILE]: {why}\n")
            self._context.err.flush()

    def _event(self, kind: str, data: Mapping[str, Json], text: str) -> None:
        out, options = self._context.out, self._context.options
        if options.json:
            write(out, json.dumps({"event": kind, **data}) + "\n")
        elif text and not options.quiet:
            write(out, f"{text}\n")


def _plain(drift: Drift) -> Json:
    return {"class": drift.kind, "address": drift.address, "mend": drift.mend, "fingerprint": drift.fingerprint}
