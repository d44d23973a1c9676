"""lmctl's own supervisord for one declaration: observed in one call, changed program by program."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from lmctl import launch
from lmctl.errors import LmctlError, Problem, escape
from lmctl.host import Daemon
from lmctl.hosts import (
    pids,
    supervisor_conf,
    supervisor_daemon,
    supervisor_info,
    supervisor_keys,
    supervisor_left,
    supervisor_lost,
    supervisor_rpc,
)
from lmctl.hosts.supervisor_daemon import Group
from lmctl.hosts.supervisor_files import Files
from lmctl.hosts.supervisor_rpc import Client, Info, NotThere, Rpc, failure, why
from lmctl.hosts.xmlrpc import Fault
from lmctl.mutex import holding
from lmctl.record import replace as copy
from lmctl.spec import RESIDENT, ProgramSpec

_STOPPABLE = {"STARTING", "RUNNING", "BACKOFF"}
_EACH = 0.2  # seconds in which a daemon on a busy machine starts one program: before, it answers nobody
_LATE, _TOO_LATE = 1.0, 6.0  # seconds beyond a program's own time to stop: then it is killed, then given up


class LocalSupervisor:
    """Implements `host.Supervisor` for the state folder of one declaration.

    `environ` is this process's; `log_max_bytes` is for one program, None leaves what is written; `timeout` in seconds
    is for one answer.
    """

    def __init__(
        self, folder: Path, environ: Mapping[str, str], log_max_bytes: int | None = 20 << 20, timeout: float = 5.0
    ) -> None:
        self._folder = folder
        self._environ = environ
        self._files = Files(folder, log_max_bytes)
        self._client = Client(Rpc(supervisor_daemon.socket_path(folder), timeout))

    def observe(self) -> Daemon:
        """Return the daemon as it is. Reads a few small files and asks once; starts and imports nothing heavy."""
        specs, edited = self._files.declared()
        starts = {name: launch.read_starts(str(self._files.starts(name))) for name in specs}
        held = frozenset(name for name, records in starts.items() if launch.held(records))
        untrusted = frozenset(name for name, records in starts.items() if launch.untrusted(records))
        daemon = Daemon(None, {}, specs, edited, self._files.stranded(), held=held, untrusted=untrusted)
        keyed = (name for name, spec in specs.items() if spec.key_file is not None)
        keyless = frozenset(name for name in keyed if not supervisor_keys.sound(self._folder, name))
        locks = {name: pid for name in RESIDENT if (pid := holding(self._folder / f"{name}.lock")) is not None}
        daemon = copy(daemon, keyless=keyless, locks=locks)
        try:
            number, infos = self._everything()
        except NotThere:
            if not self._silent():
                lost, killed = supervisor_lost.seen(self._folder), supervisor_daemon.was_killed(self._folder)
                return copy(daemon, orphans=supervisor_left.alive(self._folder), lost=lost, killed=killed)
            problem = "supervisord runs, but its socket is gone"
        except (LmctlError, Fault) as error:
            problem = error.problems[0].what if isinstance(error, LmctlError) else why(error)
        else:
            processes = {info["name"]: supervisor_info.process(info, starts.get(info["name"], [])) for info in infos}
            return copy(daemon, pid=number, processes=processes, fileless=supervisor_info.fileless(infos, specs))
        unseen = supervisor_left.alive(self._folder)
        return copy(daemon, pid=supervisor_daemon.pid(self._folder), problem=problem, unseen=unseen)

    def write(self, programs: Sequence[ProgramSpec]) -> bool:
        """Write what `programs` need, where it differs; True when something did. See `Files.write`."""
        changed = self._files.write(programs, self._kept(programs))
        if not self._silent():
            self._files.sweep(supervisor_left.alive(self._folder))
        return changed

    def make_keys(self, programs: Collection[str]) -> None:
        """Make the keys of programs that have no sound one. Raises E-SPACE, E-PERM or E-IO."""
        supervisor_keys.make(self._folder, programs)

    def reload(self, replace: frozenset[str]) -> None:
        """Bring the daemon to the written configuration as `host.Supervisor` says.

        What fails for one program keeps no other from its change; programs that ran and were replaced then run again,
        also those that do not start by themselves. Raises E-SUPERVISOR, also for programs that outlived a daemon: they
        are ended by `shutdown` alone.
        """
        named = self._files.named()
        if not self._ready():
            return self._start_daemon(named)
        # a program that somebody added by hand is none of lmctl's: it goes on until the daemon ends
        added, removed = (frozenset(filter(supervisor_conf.ours, names)) for names in self._client.reread())
        before = {info["name"]: info for info in self._everything()[1]}
        leaving = {*removed, *(replace & before.keys())}
        problems = self._stop_all(leaving)
        problems += self._remove(leaving - _failed(problems))
        coming = (replace & named | added) - _failed(problems)
        for name in coming:
            self._files.begin_series(name, keep_hold=name not in replace)
        problems += self._client.tell_each("addProcessGroup", coming, fine=(supervisor_rpc.ALREADY_ADDED,))
        self._files.sweep(_failed(problems))
        if problems:
            ran = {name for name in coming - _failed(problems) if name in before and before[name]["pid"]}
            problems += self._run(ran)
            raise LmctlError.of(problems)
        return None

    def start(self, *programs: str) -> None:
        """Start programs that the daemon knows, once those that are stopping have ended.

        One that cannot be started keeps no other from it. Raises E-SUPERVISOR with all of these.
        """
        for name in programs:
            self.release(name)
        supervisor_daemon.wait(lambda: not self._are_stopping(programs), self._patience(*programs) + _TOO_LATE)
        if problems := self._run(programs):
            raise LmctlError.of(problems)

    def stop(self, program: str) -> None:
        """Stop a program and everything in its process group, also one whose daemon is gone. Raises E-SUPERVISOR."""
        if not self._ready():
            supervisor_lost.refuse(self._folder)
            groups = supervisor_left.groups(supervisor_left.alive(self._folder))
            self._end_orphans({name: group for name, group in groups.items() if name == program})
            problems = self._escaped([program])
        else:
            problems = self._stop_all([program])
        if problems:
            raise LmctlError.of(problems)

    def shutdown(self) -> None:
        """Stop all programs at once, then the daemon, and return when all are gone. Raises E-SUPERVISOR."""
        problems: list[Problem] = []
        told, number = False, supervisor_daemon.pid(self._folder)
        groups = supervisor_left.groups(supervisor_left.alive(self._folder))
        try:
            number, infos = self._everything()
            problems = self._stop_all([info["name"] for info in infos])
            self._client.tell("shutdown", fine=(supervisor_rpc.SHUTDOWN_STATE,))
            told = True
        except NotThere:
            pass
        except (LmctlError, Fault) as error:
            if number is None:  # nobody who could be ended without being asked
                raise error if isinstance(error, LmctlError) else failure(why(error)) from None
        if number is not None and not (told and supervisor_daemon.wait(lambda: pids.stat(number) is None, 5.0)):
            supervisor_daemon.end(number, self._patience() + 2.0)
        if not supervisor_daemon.wait(lambda: not supervisor_daemon.lives(self._folder), 5.0):
            raise failure("supervisord does not end", fix=f"{supervisor_daemon.see(self._folder)}, then end it")
        supervisor_lost.end(self._folder)
        self._end_orphans(groups, grace=number is None)
        supervisor_daemon.remove_socket(self._folder)
        supervisor_daemon.forget(self._folder)
        self._files.sweep(())
        seen = _failed(problems)
        problems += [problem for problem in self._escaped(self._files.named()) if problem.change not in seen]
        if problems:
            raise LmctlError.of(problems)

    def hold(self, program: str, *, untrusted: bool = False) -> None:
        """Make the launcher refuse to start a program, across restarts of the daemon."""
        self._files.hold(program, launch.UNTRUSTED if untrusted else True)

    def release(self, program: str) -> None:
        """Lift the hold of a program and begin a new series of starts."""
        self._files.begin_series(program, keep_hold=False)

    def log(self, program: str) -> Path:
        """Return the file that the output of a program goes to."""
        return self._files.log(program)

    def ending(self, program: str) -> str:
        """Return how the last run of a program ended by itself, in words; empty when that is not known."""
        from lmctl.hosts import endings  # a plan asks nothing of the kind

        number = supervisor_daemon.pid(self._folder)
        kills = launch.oom_kills(number) if number else None
        starts = launch.read_starts(str(self._files.starts(program)))
        return endings.ending(self._folder / "supervisord.log", program, starts, kills)

    def _patience(self, *names: str) -> float:
        """Return the longest time, in seconds, that one of these programs (of all, if none is named) has to stop."""
        return max(self._files.patience(names or self._files.declared()[0]).values(), default=0.0)

    def _everything(self) -> tuple[int, list[Info]]:
        if not supervisor_daemon.trusted_socket(self._folder):
            raise NotThere
        return self._client.everything()

    def _silent(self) -> bool:
        """Return whether a daemon lives that does not listen."""
        return supervisor_daemon.lives(self._folder) or supervisor_daemon.pid(self._folder) is not None

    def _kept(self, programs: Sequence[ProgramSpec]) -> list[ProgramSpec]:
        """Return what runs, is none of `programs` and lost its file: a reload would end what no section names."""
        lost = self._files.lost({spec.id for spec in programs})
        if not lost or not self._silent():
            return []
        try:
            running = supervisor_info.fileless(self._everything()[1], ())
        except (NotThere, LmctlError, Fault):
            return lost  # nobody can say whether they run
        return [spec for spec in lost if spec.id in running]

    def _ready(self) -> bool:
        """Return False when no daemon is there, True when it takes orders. Raises E-SUPERVISOR in between."""
        try:
            self._everything()
        except NotThere:
            if not self._silent():
                return False
            raise failure("supervisord runs, but its socket is gone") from None
        except Fault as fault:
            ending = fault.faultCode == supervisor_rpc.SHUTDOWN_STATE and self._silent()
            if ending and supervisor_daemon.wait(lambda: not self._silent(), 10.0):
                return False
            raise failure(why(fault)) from fault
        return True

    def _start_daemon(self, named: Collection[str]) -> None:
        supervisor_lost.refuse(self._folder)
        if left := supervisor_left.alive(self._folder):
            specs = self._files.declared()[0]
            shown = ", ".join(f"{escape(specs[n].profile) if n in specs else n} (pid {left[n]})" for n in left)
            raise failure(f"programs of an earlier supervisord still run: {shown}")
        for name in named:
            self._files.begin_series(name, keep_hold=True)
        asked = {name for spec in self._files.declared()[0].values() for name in spec.inherit}
        supervisor_daemon.start(self._folder, self._environ, asked)
        if not supervisor_daemon.wait(self._up, 10.0 + _EACH * len(named)) and not self._ready():
            raise failure("supervisord was started, but does not answer", fix=supervisor_daemon.see(self._folder))
        self._files.sweep(())

    def _up(self) -> bool:
        """Return whether a daemon that was just started answers: first it starts what starts by itself."""
        try:
            return self._ready()
        except LmctlError:
            return False

    def _are_stopping(self, names: Sequence[str]) -> bool:
        return any(info is not None and info["statename"] == "STOPPING" for info in self._client.programs(names))

    def _remove(self, names: Iterable[str]) -> list[Problem]:
        fine = (supervisor_rpc.BAD_NAME,)
        again = _failed(self._client.tell_each("removeProcessGroup", names, fine=fine))
        self._stop_all(again)  # started again in the meantime: once more
        return self._client.tell_each("removeProcessGroup", again, fine=fine)

    def _run(self, names: Iterable[str]) -> list[Problem]:
        return self._client.tell_each("startProcess", names, False, fine=(supervisor_rpc.ALREADY_STARTED,))

    def _stop_all(self, names: Iterable[str]) -> list[Problem]:
        """Stop programs side by side until their groups are empty; return what could not be stopped, by program."""
        patience = self._files.patience(names)
        groups: dict[str, set[Group]] = {name: set() for name in patience}
        begin, pending = time.monotonic(), sorted(patience)
        while pending:
            over = {name: time.monotonic() - begin - patience[name] for name in pending}
            infos = dict(zip(pending, self._client.programs(pending), strict=True))
            for name, info in infos.items():
                if info and (group := Group.of(info["pid"])):
                    groups[name].add(group)
            # the daemon counts an older, longer time, or does nothing
            supervisor_daemon.end_groups(group for name in pending if over[name] > _LATE for group in groups[name])
            stoppable = [name for name, info in infos.items() if info and info["statename"] in _STOPPABLE]
            fine = (supervisor_rpc.NOT_RUNNING, supervisor_rpc.BAD_NAME)
            if refused := self._client.tell_each("stopProcess", stoppable, False, fine=fine):
                raise LmctlError.of(refused)
            pending = [name for name in pending if not supervisor_info.ended(infos[name]) and over[name] < _TOO_LATE]
            time.sleep(0.03 if pending else 0.0)
        left = supervisor_daemon.end_groups(group for found in groups.values() for group in found)
        stay = {name: left[group][0] for name, found in groups.items() for group in found if group in left}
        text = "process {} does not end, not even when killed"
        problems = [Problem("E-SUPERVISOR", text.format(pid), change=name) for name, pid in stay.items()]
        return problems + self._escaped(name for name in patience if name not in stay)

    def _escaped(self, names: Iterable[str]) -> list[Problem]:
        found = (supervisor_left.escaped(self._files, name) for name in names)
        return [problem for problem in found if problem is not None]

    def _end_orphans(self, groups: Mapping[str, Group], *, grace: bool = True) -> None:
        """End programs that outlived a daemon: they hold their ports, and nobody restarts them.

        Without `grace` they had their time to stop already; with it each has the longest that one of them has.
        """
        left = supervisor_daemon.end_groups(groups.values(), self._patience(*groups) if grace else 0.0)
        for numbers in left.values():
            raise failure(f"process {numbers[0]} of an earlier supervisord does not end", fix="end it by hand")


def _failed(problems: Iterable[Problem]) -> set[str]:
    return {problem.change for problem in problems if problem.change}
