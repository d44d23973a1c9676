"""`lmctl watch`: apply what is saved as it is saved, and tell what is no longer as declared."""

from __future__ import annotations

import argparse
import signal
import time
from contextlib import closing
from pathlib import Path

from lmctl.acting import reconciling, session
from lmctl.command import Context
from lmctl.config.find import Request, located
from lmctl.errors import LmctlError, Terminated
from lmctl.lockfile import COMMITTED, LOCAL
from lmctl.mutex import exclusive
from lmctl.reconcile import Applied, Wish
from lmctl.record import replace
from lmctl.resource import Scope
from lmctl.result import Result
from lmctl.session import Session
from lmctl.spec import Declaration
from lmctl.telling import Telling
from lmctl.watcher import report
from lmctl.watcher.loop import COMMAND, Loaded, Voice, Watcher
from lmctl.watcher.places import Places, places
from lmctl.watcher.settings import of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There is nothing to say: the table `[watch]` says how."""


def run(context: Context, args: argparse.Namespace) -> Result:
    """Watch until interrupted. Raises what is wrong with the configuration at first, E-BUSY for a second watcher."""
    around = _Around(context)
    first = around.load()
    state = first.session.state
    fix = "it applies what is saved already; end it to watch from here"
    with exclusive(state / report.LOCK, COMMAND, fix=fix), closing(around):
        around.begin(first)
        Watcher(around, first).run()
    return Result()


class _Around:
    """The watcher's surroundings: the configuration of this run, and reconcile."""

    def __init__(self, context: Context) -> None:
        self._context, options = context, context.options
        self._request = Request(options.directory, options.config, options.sets, options.elsewhere)
        self._voice = Telling(context, time.time)

    def tell(self) -> Voice:
        return self._voice

    def begin(self, first: Loaded) -> None:
        """Say whose changes are watched from now on."""
        self._voice.begin(first.session.declaration.name, first.session.state)

    def close(self) -> None:
        """End what is still being told."""
        self._voice.close()

    def load(self) -> Loaded:
        from lmctl.config import layers

        current = session(self._context)
        current.refuse_foreign_name()
        file, context = current.declaration.file, self._context
        settings = of(layers.read(file, self._request, context.folders, context.environ))
        self._voice.hear(settings.notify)
        return Loaded(current, settings)

    def obsolete(self, session: Session) -> bool:
        try:
            return _wanted(self._context.declaration()) != _wanted(session.declaration)
        except (LmctlError, OSError, RuntimeError):  # as in `places`: not whole, or gone
            return False

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

    def apply(self, session: Session, scope: Scope, wish: Wish) -> Applied | None:
        applied = None
        with reconciling(self._context, session) as (reconciler, seen):
            try:
                applied = reconciler.apply(scope, wish)
            except KeyboardInterrupt:
                if seen:
                    raise  # else the lookout was quicker than the lock
        if seen:
            if applied is not None:
                self._voice.applied(applied, early=False)
            raise KeyboardInterrupt if seen[0] == signal.SIGINT else Terminated
        return applied


def _wanted(declaration: Declaration) -> Declaration:
    """Return what is declared, however it is written."""
    return replace(declaration, hash="", sources={}, warnings=(), inert=())
