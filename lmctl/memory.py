"""The memory of everything that runs together, against this machine. Pure; read from the lock, before any download."""

from __future__ import annotations

from lmctl import fit
from lmctl.all_backends import BACKENDS
from lmctl.desired import held
from lmctl.errors import Problem
from lmctl.record import replace
from lmctl.resource import Case
from lmctl.spec import Profile, program_id
from lmctl.text import human_bytes


def memory_verdict(case: Case) -> tuple[fit.Verdict, tuple[Problem, ...]]:
    """Return the verdict for all profiles that run or will run, and W-MEMORY where they do not fit."""
    needs = {profile.name: need for profile in case.declaration.profiles if (need := _need(case, profile))}
    groups = [group.members for group in case.declaration.groups if group.exclusive]
    machine = case.declaration.machine
    hardware = case.world.hardware
    if not hardware.gpus and machine.memory_gpu:
        hardware = replace(hardware, gpus=(machine.memory_gpu,))
    verdict = fit.verdict(needs, groups, hardware, machine.memory_reserve)
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


def _need(case: Case, profile: Profile) -> fit.Need | None:
    """Return what a profile needs, None for one that neither runs nor will, or that the lock does not know."""
    process = case.world.daemon.processes.get(program_id(profile.name))
    runs = (process is not None and process.running) or profile.name in case.scope.run
    if not runs and (profile.start != "always" or held(case, profile) or not case.scope.covers(profile.name)):
        return None
    artifacts = [case.lock.artifacts.get(wanted.id) for wanted in profile.artifacts]
    known = [artifact for artifact in artifacts if artifact is not None]
    if profile.weights is None:
        return fit.Need(0, known=False, note="nothing is known about the memory of a command")
    if artifacts[0] is None:
        return fit.Need(0, known=False, note="not known before it is locked")
    size = sum(artifact.size for artifact in known)
    return fit.need(artifacts[0].shape, BACKENDS[profile.backend].FORMAT, size, profile.settings)
