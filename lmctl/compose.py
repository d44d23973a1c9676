"""The parts of the outside world, put together: the only module that knows the implementations of `host`."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from lmctl import adhoc, services
from lmctl.command import Context, Options
from lmctl.config import loading
from lmctl.config.find import Request, last_resort
from lmctl.errors import LmctlError, Place, Problem
from lmctl.hosts.engines import Engines
from lmctl.hosts.hardware import detect
from lmctl.hosts.store import DiskStore
from lmctl.hosts.supervisor import LocalSupervisor
from lmctl.paths import Folders
from lmctl.record import replace
from lmctl.result import style_for
from lmctl.spec import Declaration, Hardware

if TYPE_CHECKING:
    from lmctl.hosts.desk import GatewayDesk
    from lmctl.hosts.endpoint import Endpoint
    from lmctl.hosts.hub import HuggingFace
    from lmctl.hosts.premises import LocalPremises
    from lmctl.hosts.processes import LocalProcesses
    from lmctl.hosts.transfer import HubTransfer

# Parts that only a run with something to do needs are imported when they are first asked for: a plan that finds
# nothing must not wait for huggingface_hub, urllib3 or psutil.


class LocalHost:
    """This machine, for one declaration."""

    def __init__(
        self, declaration: Declaration, options: Options, folders: Folders, environ: Mapping[str, str]
    ) -> None:
        self._declaration, self._options = declaration, options
        self._folders, self._environ = folders, environ
        self._hub_cache = declaration.machine.hub_cache or folders.hub
        self._own = folders.hf_home / "lmctl"
        self._stop = threading.Event()

    @property
    def stop(self) -> threading.Event:
        return self._stop

    @cached_property
    def hardware(self) -> Hardware:
        return detect(self._folders.cache, ask=self._environ if self._options.acts else None)

    @property
    def environ(self) -> Mapping[str, str]:
        return services.passed(self._environ)

    @cached_property
    def store(self) -> DiskStore:
        return DiskStore(
            self._hub_cache, self._own, self._folders.home, self._environ, self._declaration.machine, stop=self._stop
        )

    @cached_property
    def supervisor(self) -> LocalSupervisor:
        state = self._folders.declaration(self._declaration.name)
        return LocalSupervisor(state, self._environ, self._declaration.machine.log_max_bytes)

    @cached_property
    def engines(self) -> Engines:
        return Engines(self._declaration.machine.binaries, self._environ.get("PATH", ""), self._folders.cache)

    @cached_property
    def desk(self) -> GatewayDesk:
        from lmctl.hosts.desk import GatewayDesk

        return GatewayDesk(self._folders.declaration(self._declaration.name))

    @cached_property
    def premises(self) -> LocalPremises:
        from lmctl.hosts.premises import LocalPremises

        return LocalPremises(self._environ, self._folders, self._declaration.machine)

    @cached_property
    def processes(self) -> LocalProcesses:
        from lmctl.hosts.processes import LocalProcesses

        return LocalProcesses(self._folders.declaration(self._declaration.name))

    @cached_property
    def _endpoint(self) -> Endpoint:
        from lmctl.hosts.endpoint import Endpoint

        return Endpoint.of(self._environ, self._folders, self._declaration.machine, self._options.offline)

    @cached_property
    def hub(self) -> HuggingFace:
        from lmctl.hosts.hub import HuggingFace

        return HuggingFace(self._endpoint, stop=self.stop)

    @cached_property
    def transfer(self) -> HubTransfer:
        from lmctl.hosts.limits import Limits
        from lmctl.hosts.transfer import HubTransfer

        machine = self._declaration.machine
        limits = Limits(connections=machine.connections, files=machine.files, rate=machine.rate)
        return HubTransfer(self._endpoint, self._hub_cache, self._own, limits, stop=self.stop)

    def now(self) -> float:
        return time.time()


def make_context(options: Options, environ: Mapping[str, str], colour: Literal["auto", "always", "never"]) -> Context:
    """Return the context of a run in this process. Raises E-STATE when there is no home."""
    home = environ.get("HOME", "")
    if not home.startswith("/"):
        raise LmctlError("E-STATE", "HOME names no folder", fix="set HOME to an absolute path")
    folders = Folders.of(environ, Path(home))

    @cache
    def hardware() -> Hardware:
        return detect(folders.cache, ask=environ if options.acts else None)

    def declaration(
        *,
        empty: bool = False,
        written: bool = False,
        file: Path | None = None,
        earlier: Mapping[str, bytes] | None = None,
    ) -> Declaration:
        named = file or options.config
        request = Request(options.directory, named, options.sets, options.elsewhere, empty, earlier)
        try:
            found = (load_written if written else load_declaration)(request, folders, environ, hardware())
            return replace(found, sets=options.sets) if options.sets else found
        except LmctlError as error:
            raise _placed(error, last_resort(request, folders, environ)) from None

    def host(found: Declaration) -> LocalHost:
        return LocalHost(found, options, folders, environ)

    style = style_for(sys.stderr, colour, environ)
    return Context(options, folders, environ, sys.stderr, style, hardware, declaration, host, sys.stdout)


def _placed(error: LmctlError, file: Path | None) -> LmctlError:
    """Return `error` with whole paths where it is about `file`, which lies in no folder that one stands in."""
    if file is None:
        return error
    problems = [
        replace(problem, place=replace(place, file=str(file.parent / place.file)))
        if (place := problem.place) and os.path.lexists(file.parent / place.file)
        else problem
        for problem in error.problems
    ]
    return LmctlError.of(problems)


def load_written(request: Request, folders: Folders, environ: Mapping[str, str], hardware: Hardware) -> Declaration:
    """Return the declaration that was asked for, and nothing that runs undeclared."""
    found = loading.load(request, folders, environ, hardware)
    if found.file != Path(os.path.realpath(adhoc.alone(folders))):
        adhoc.refuse_name(found.name, Place(found.file.name))
    return found


def load_declaration(request: Request, folders: Folders, environ: Mapping[str, str], hardware: Hardware) -> Declaration:
    """Return the declaration that was asked for, with what runs undeclared beside it, else the stand-in alone."""
    try:
        found = load_written(request, folders, environ, hardware)
    except LmctlError as error:
        request = _instead(request, folders, error)
        found = load_written(request, folders, environ, hardware)
        if error.code == "E-EMPTY" and not adhoc.profiles(folders, found.name):
            raise
    found = _with_undeclared(found, request, folders, environ, hardware)
    # what nobody declared is asked where it listens: no other port is taken for it
    return replace(found, front=replace(found.front, enabled=False)) if found.name == adhoc.NAME else found


def _instead(request: Request, folders: Folders, error: LmctlError) -> Request:
    """Return what to read where nothing is declared, because a model may run undeclared; else raise `error`."""
    alone = adhoc.alone(folders)
    if error.code == "E-EMPTY":
        return replace(request, empty=True)
    if error.code != "E-FILE" or request.file or request.elsewhere or not alone.exists():
        raise error
    return Request(alone.parent, alone, request.sets, empty=True)


def _with_undeclared(
    found: Declaration, request: Request, folders: Folders, environ: Mapping[str, str], hardware: Hardware
) -> Declaration:
    """Return the declaration with what runs undeclared beside it; a declared name is the declared profile's."""
    shadowed = adhoc.shadowed(folders, found)
    extra = adhoc.sets(folders, found.name, without=shadowed)
    if extra:
        found = loading.load(replace(request, sets=(*extra, *request.sets), empty=True), folders, environ, hardware)
    warnings = (
        Problem("W-NOEFFECT", f"the undeclared model {name} is ignored: its name is declared")
        for name in sorted(shadowed)
    )
    return replace(found, warnings=(*found.warnings, *warnings)) if shadowed else found
