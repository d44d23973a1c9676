"""The memory of everything that runs together, against this machine. Pure; read from the lock, before any download."""

from __future__ import annotations

from collections.abc import Callable

from lmctl import fit
from lmctl.all_backends import BACKENDS
from lmctl.desired import held
from lmctl.errors import Problem
from lmctl.record import replace
from lmctl.resource import Case
from lmctl.spec import Declaration, Hardware, Lock, Profile, program_id
from lmctl.text import human_bytes


def memory_verdict(case: Case) -> tuple[fit.Verdict, tuple[Problem, ...]]:
    """Return the verdict for all profiles that run or will run, and W-MEMORY where they do not fit."""
    needs = {profile.name: need for profile in case.declaration.profiles if (need := _need(case, profile))}
    groups = [group.members for group in case.declaration.groups if group.exclusive]
    declaration = case.declaration
    hardware = _hardware(declaration, case.world.hardware)
    verdict = fit.verdict(needs, groups, hardware, declaration.machine.memory_reserve)
    if verdict.fits is not False:
        return verdict, ()
    largest = ", ".join(
        f"{name} {human_bytes(size) if size else 'unknown'}"
        for name, size in sorted(verdict.need.items(), key=lambda item: -item[1])
    )
    gpu = f" and {human_bytes(sum(verdict.gpu))} on GPUs" if verdict.gpu else ""
    what = f"{human_bytes(verdict.total)} are needed ({largest}), {human_bytes(verdict.ram)}{gpu} may be used"
    fix = "declare less ctx or parallel, a smaller quant, or an exclusive group"
    return verdict, (Problem("W-MEMORY", what, fix),)


def fits(declaration: Declaration, lock: Lock, hardware: Hardware) -> Callable[[frozenset[str]], bool | None]:
    """Return what tells whether profiles fit when all of them run at once; None where it is not known.

    It remembers its answers, and knows nothing of names that are not declared.
    """
    needs = {profile.name: _declared_need(lock, profile) for profile in declaration.profiles}
    shown, known = _hardware(declaration, hardware), dict[frozenset[str], bool | None]()

    def answer(names: frozenset[str]) -> bool | None:
        if names not in known:
            together = {name: needs[name] for name in sorted(names & needs.keys())}
            known[names] = fit.verdict(together, (), shown, declaration.machine.memory_reserve).fits
        return known[names]

    return answer


def _hardware(declaration: Declaration, hardware: Hardware) -> Hardware:
    """Return the machine with the GPU memory that its owner declares, where none was found."""
    gpu = declaration.machine.memory_gpu
    return replace(hardware, gpus=(gpu,)) if gpu and not hardware.gpus else hardware


def _need(case: Case, profile: Profile) -> fit.Need | None:
    """Return what a profile needs, None for one that neither runs nor will."""
    process = case.world.daemon.processes.get(program_id(profile.name))
    runs = (process is not None and process.running) or profile.name in case.scope.run
    if not runs and (profile.start != "always" or held(case, profile) or not case.scope.covers(profile.name)):
        return None
    return _declared_need(case.lock, profile)


def _declared_need(lock: Lock, profile: Profile) -> fit.Need:
    """Return what a profile needs while it runs, as far as the lock knows its weights."""
    artifacts = [lock.artifacts.get(wanted.id) for wanted in profile.artifacts]
    known = [artifact for artifact in artifacts if artifact is not None]
    if profile.weights is None:
        return fit.Need(0, known=False, note="nothing is known about the memory of a command")
    if artifacts[0] is None:
        return fit.Need(0, known=False, note="not known before it is locked")
    size = sum(artifact.size for artifact in known)
    return fit.need(artifacts[0].shape, BACKENDS[profile.backend].FORMAT, size, profile.settings)
