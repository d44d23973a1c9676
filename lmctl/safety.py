"""The rules that keep a file from being pruned, in the order in which people are told. Pure."""

from __future__ import annotations

from lmctl.ledger import Owned
from lmctl.record import record
from lmctl.text import human_time


@record
class Facts:
    """What the rules look at besides the ledger's row. `now` is seconds since the epoch."""

    unchanged: bool  # the file's signature is the recorded one
    referenced: bool  # by this declaration's lock and profiles
    others: frozenset[str] | None  # sha256 that other declarations refer to; None: one of them cannot be read
    served: bool  # a program's argv leads to it
    outside: bool  # of the cache as it is configured now: other rules cannot be decided there
    linked: str | None  # why a link may lead to it that lmctl did not place
    holders: tuple[int, ...]  # processes that have it open or mapped
    whole: bool  # the run covers every profile
    declared: bool  # the configuration declares at least one profile
    after: float  # seconds a file must be unreferenced
    now: float


def keeps(row: Owned, facts: Facts) -> str | None:
    """Return why the file stays, None when every rule lets it go; the byte limit and the root are apply's to check.

    Source: the eight rules of prune; a rule that cannot be decided keeps the file.
    """
    rules = (
        (row.kind != "blob", "not brought by lmctl"),
        (row.protect, "protected"),
        (not facts.unchanged, "changed since lmctl brought it"),
        (facts.referenced, "declared"),
        (not facts.declared, "nothing is declared: that never means remove everything"),
        (not facts.whole, "this run names or leaves out profiles"),
        (facts.others is None, "another declaration on this machine cannot be read"),
        (row.sha256 in (facts.others or frozenset()), "another declaration refers to it"),
        (facts.outside, "outside the Hugging Face cache as it is configured now"),
        (facts.linked is not None, facts.linked or ""),
        (facts.served, "a program's command names it"),
        (bool(facts.holders), "in use by pid " + ", ".join(map(str, facts.holders))),
    )
    for holds, why in rules:
        if holds:
            return why
    since = facts.now if row.unreferenced_since is None else row.unreferenced_since
    left = since + facts.after - facts.now
    return f"unreferenced, goes in {human_time(left)} (lmctl prune --now)" if left > 0 else None
