"""Kinds of tests that need something of the machine: where it forbids that they skip, and say why.

`@pytest.mark.needs("strace")` names the kind. With `--every-kind` a run in which every test of a kind was skipped ends
with a status of its own: otherwise what such tests hold could be lost without anybody noticing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from shlex import quote

import pytest
from sweep import points

NOT_RUN = 20  # exit status: all tests of a kind were skipped
NOBODY = 65534
REPOSITORY = Path(__file__).resolve().parents[1]
OWN_FILES = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]


def _unshared(*flags: str) -> str | None:
    if not shutil.which("unshare"):
        return "there is no unshare"
    done = subprocess.run([*OWN_FILES, *flags], capture_output=True, text=True)
    return None if done.returncode == 0 else f"this kernel forbids it: {done.stderr.strip()[:100]}"


def _namespaces() -> str | None:
    return _unshared("--net", "true") if shutil.which("ip") else "there is no ip"


def _tmpfs() -> str | None:
    return _unshared("mount", "-t", "tmpfs", "-o", "size=64k", "none", tempfile.gettempdir())


def _userns() -> str | None:
    """A user namespace has limits of its own."""
    if not shutil.which("unshare"):
        return "there is no unshare"
    script = "echo 0 > /proc/sys/user/max_inotify_instances"
    argv = ["unshare", "--user", "--map-root-user", "sh", "-euc", script]
    done = subprocess.run(argv, capture_output=True, text=True)
    return None if done.returncode == 0 else f"this kernel forbids it: {done.stderr.strip()[:100]}"


def _uid() -> str | None:
    if os.geteuid() != 0:
        return "only root can be somebody else"
    if not shutil.which("setpriv"):
        return "there is no setpriv"
    try:
        with as_nobody() as before:
            done = subprocess.run([*before, sys.executable, "-m", "lmctl", "--version"], capture_output=True, text=True)
    except RuntimeError as error:
        return str(error)
    return None if done.returncode == 0 else f"nobody else can run lmctl here: {done.stderr.strip()[-200:]}"


KINDS: dict[str, Callable[[], str | None]] = {  # why tests of a kind cannot run here, None where they can
    "strace": points.available,
    "namespaces": _namespaces,
    "tmpfs": _tmpfs,
    "uid": _uid,
    "userns": _userns,
}


@cache
def why_not(kind: str) -> str | None:
    return KINDS[kind]()


@contextlib.contextmanager
def own_files(script: str, folder: Path) -> Iterator[list[str]]:
    """Yield what stands before a command that runs in `folder` and sees the mounts that `script` makes.

    They are seen by such commands alone, and gone with this process, however it ends.
    """
    argv = [*OWN_FILES, "sh", "-euc", f"{script}\necho made\nexec cat"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as held:
        assert held.stdin is not None and held.stdout is not None
        said = held.stdout.readline()
        try:
            if said != b"made\n":
                raise RuntimeError(f"nothing can be mounted: {os.fsdecode(said).strip()[:200]}")
            user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
            yield ["nsenter", "--target", str(held.pid), "--mount", *user, "env", "-C", str(folder)]
        finally:
            held.stdin.close()


@contextlib.contextmanager
def as_nobody(folder: Path = Path("/"), *reached: Path) -> Iterator[list[str]]:
    """Yield what stands before a command that uid 65534 runs in `folder`; it reaches Python, lmctl and `reached`.

    They may lie below folders that only root may enter: in these commands' sight nothing else lies there, and anybody
    may enter.
    """
    own = f"--reuid={NOBODY}"
    somebody = ["setpriv", own, f"--regid={NOBODY}", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
    script = "\n".join(_opened([Path(sys.prefix), Path(sys.base_prefix), REPOSITORY, *reached]))
    plain = contextlib.nullcontext(["env", "-C", str(folder)])  # needs no more rights than to be somebody else
    with own_files(script, folder) if script else plain as before:
        yield [*before, *somebody]


def _opened(needed: Sequence[Path]) -> Iterator[str]:
    """Yield commands after which others may enter all folders above `needed`."""
    closed: dict[Path, list[Path]] = {}
    for path in dict.fromkeys(part for one in needed for part in _open_parts(one.resolve())):
        shut = [above for above in reversed(path.parents) if not above.stat().st_mode & 0o001]
        if shut:
            closed.setdefault(shut[0], []).append(path)
    for shut, paths in closed.items():
        outermost = [path for path in paths if not set(path.parents) & set(paths)]
        yield "stash=$(mktemp -d)"
        yield "mount -t tmpfs none $stash"  # so that nothing of it stays behind
        for number, path in enumerate(outermost):
            made = f"mkdir $stash/{number}" if path.is_dir() else f"touch $stash/{number}"
            yield f"{made}; mount --bind {quote(str(path))} $stash/{number}"
        yield f"mount -t tmpfs -o mode=755 none {quote(str(shut))}"
        for number, path in enumerate(outermost):
            made = f"mkdir -p {quote(str(path))}" if path.is_dir() else f"touch {quote(str(path))}"
            yield f"mkdir -p {quote(str(path.parent))}; {made}; mount --bind $stash/{number} {quote(str(path))}"
        yield "umount -R $stash; rmdir $stash"


def _open_parts(path: Path) -> list[Path]:
    status = path.stat()
    open_ = status.st_mode & 0o005 == 0o005 or status.st_uid == NOBODY
    return [path] if open_ else sorted(path.iterdir())


def pytest_addoption(parser: pytest.Parser) -> None:
    help_ = f"end with status {NOT_RUN} when all tests of a kind ({', '.join(KINDS)}) were skipped"
    parser.addoption("--every-kind", action="store_true", help=help_)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"needs(kind): skipped, with the reason, where there is no {' or '.join(KINDS)}")
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(Tally(config.getoption("every_kind")))


def _kind(item: pytest.Item) -> list[str]:
    return [str(mark.args[0]) for mark in item.iter_markers("needs")]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.user_properties += [("needs", kind) for kind in _kind(item)]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for kind in _kind(item):
        why = why_not(kind)
        if why is not None:
            pytest.skip(f"needs {kind}: {why}")


class Tally:
    """Counts in the process that reports, whichever process a test ran in."""

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._ran: set[str] = set()
        self._skipped: dict[str, str] = {}

    @property
    def missing(self) -> dict[str, str]:
        """Return the kinds of which every test was skipped, and why one was."""
        return {kind: why for kind, why in sorted(self._skipped.items()) if kind not in self._ran}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        for name, kind in report.user_properties:
            if name != "needs":
                continue
            if report.skipped:
                why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
                self._skipped[str(kind)] = why
            elif report.when == "call" or report.failed:
                self._ran.add(str(kind))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._strict and self.missing:
            session.exitstatus = NOT_RUN

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for kind, why in self.missing.items() if self._strict else ():
            terminalreporter.write_line(f"Every test that needs {kind} was skipped. {why}", red=True)
