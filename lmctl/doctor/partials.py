"""Partial files of downloads that nobody goes on with, by the rules of prune."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from lmctl.doctor.finding import Finding, ok, warn
from lmctl.host import Store
from lmctl.lockfile import COMMITTED, LOCAL
from lmctl.premises import Premises
from lmctl.resource import Case
from lmctl.resources import content
from lmctl.text import human_bytes

_CHECK = "partial files"


def judge(case: Case, store: Store) -> Iterator[Finding]:
    """Judge what interrupted downloads left, as one declaration sees it: what prune would take, and what stays."""
    found = list(content.stray_verdicts(case))
    dead = [stray for stray, why in found if why is None]
    kept = [(stray, why) for stray, why in found if why is not None]
    if dead:
        size = human_bytes(sum(stray.size for stray in dead))
        what = f"{len(dead)} that nobody goes on with, {size}"
        yield warn(_CHECK, what, "lmctl prune, or lmctl doctor --fix", partial(_remove, store, [s.path for s in dead]))
    for why in sorted({why for _, why in kept}):
        some = [stray for stray, reason in kept if reason == why]
        yield ok(_CHECK, f"{len(some)}, {human_bytes(sum(stray.size for stray in some))}: {why}")


def unknown(store: Store) -> Iterator[Finding]:
    """Count what is there where no declaration says what is wanted."""
    found = store.partials()
    if found:
        size = human_bytes(sum(one.size for one in found))
        yield ok(_CHECK, f"{len(found)}, {size}; whether they are needed is known where a declaration is")


def beside(folder: Path, premises: Premises) -> Iterator[Finding]:
    """Judge temporary files that killed runs left beside a declaration."""
    names = (COMMITTED, LOCAL)
    found = premises.left(folder, names)
    if found:
        what = f"{len(found)} temporary files of killed runs beside the declaration, such as {found[0].name}"
        yield warn("lock files", what, "lmctl doctor --fix", partial(premises.remove_left, folder, names))


def _remove(store: Store, paths: list[str]) -> None:
    for path in paths:
        store.remove_partial(Path(path))
