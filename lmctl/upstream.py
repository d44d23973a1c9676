"""What moved between two states of an artifact: what is locked, and what its revision names now."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from lmctl.errors import escape
from lmctl.host import Hub, RemoteFile
from lmctl.lock_reader import is_commit
from lmctl.record import record
from lmctl.resolving import listed
from lmctl.selection import select
from lmctl.spec import Artifact, Json, LockedFile, Wanted
from lmctl.text import Style, human_bytes, human_id, table

State = Literal["current", "moved", "same files", "pinned", "not locked"]


@record
class Side:
    """One state of an artifact: the commit, or the sha256 of a local one; `files` as (path, bytes, name of content)."""

    mark: str
    files: tuple[tuple[str, int, str], ...]

    @classmethod
    def locked(cls, artifact: Artifact) -> Side:
        return cls(artifact.commit or artifact.files[0].sha256, tuple(map(_locked, artifact.files)))

    def plain(self) -> Json:
        """Return the documented form."""
        return {"commit": self.mark, "files": len(self.files), "bytes": sum(size for _, size, _ in self.files)}


@record
class Moved:
    """An artifact as it is locked (`before` None: it is not) and as it is now (None: a revision that cannot move)."""

    id: str
    before: Side | None
    after: Side | None

    @property
    def state(self) -> State:
        if self.after is None:
            return "pinned"
        if self.before is None:
            return "not locked"
        if self.before.mark == self.after.mark:
            return "current"
        return "moved" if self.changed else "same files"

    @property
    def changed(self) -> tuple[tuple[str, int | None, int | None], ...]:
        """Every file with other content, as path, bytes before and bytes after; None where there is no such file."""
        before, after = _by_path(self.before), _by_path(self.after)
        differ = (path for path in sorted(before.keys() | after.keys()) if before.get(path) != after.get(path))
        return tuple((path, before.get(path, (None,))[0], after.get(path, (None,))[0]) for path in differ)

    @property
    def fetch(self) -> int:
        """Bytes of content that the locked state does not have, each content once."""
        held = {content for _, _, content in self.before.files} if self.before else set()
        new = {content: size for _, size, content in (self.after.files if self.after else ()) if content not in held}
        return sum(new.values())

    def plain(self) -> dict[str, Json]:
        """Return the documented form."""
        changed: list[Json] = [{"path": path, "before": old, "after": new} for path, old, new in self.changed]
        before, after = (side.plain() if side else None for side in (self.before, self.after))
        return {
            "id": self.id,
            "state": self.state,
            "before": before,
            "after": after,
            "changed": changed if self.after else [],
            "fetch": self.fetch,
        }


def compare(wanted: Wanted, locked: Artifact | None, hub: Hub) -> Moved:
    """Return where `wanted`, of a repository, stands on the Hub: asked for names and sizes, for no byte of a file.

    A revision that is a commit is not asked for. Raises what the Hub does, and E-MATCH, E-SHARD, E-PICKLE where
    what is there now is not what the declaration asks for.
    """
    before = Side.locked(locked) if locked else None
    if before is not None and is_commit(wanted.revision or ""):
        return Moved(wanted.id, before, None)
    listing = listed(wanted, hub)
    if before is not None and listing.commit == before.mark:
        return Moved(wanted.id, before, before)
    files = tuple(_remote(file) for file, _ in select(listing, wanted))
    return Moved(wanted.id, before, Side(listing.commit, files))


def told(found: Iterable[Moved], style: Style) -> str:
    """Return the table of what moved, and below it each file whose content is another one."""
    moves = list(found)
    rows = [["ARTIFACT", "LOCKED", "NOW", "FILES", "FETCH"], *(_row(move) for move in moves)]
    lines = []
    for move in (move for move in moves if move.changed):
        lines += [style.bold(escape(human_id(move.id)))] if len(moves) > 1 else []
        lines += [_line(*file, style) for file in move.changed]
    return table(rows, style) + "".join(f"{line}\n" for line in lines)


def _row(move: Moved) -> list[str]:
    before, after = move.before, move.after or move.before
    files = f"{len(move.changed)} of {len(after.files)}" if after and move.changed else "same"
    locked, now = (side.mark[:12] if side else "-" for side in (before, after))
    return [escape(human_id(move.id)), locked, now, files, human_bytes(move.fetch) if move.fetch else "-"]


def _line(path: str, before: int | None, after: int | None, style: Style) -> str:
    shown = escape(path)
    if before is None:
        return f"  {style.green('+')} {shown}  {human_bytes(after or 0)}"
    if after is None:
        return f"  {style.red('-')} {shown}  {human_bytes(before)}"
    return f"  {style.yellow('~')} {shown}  {human_bytes(before)} -> {human_bytes(after)}"


def _by_path(side: Side | None) -> dict[str, tuple[int, str]]:
    return {path: (size, content) for path, size, content in side.files} if side else {}


def _locked(file: LockedFile) -> tuple[str, int, str]:
    return file.path, file.size, file.etag


def _remote(file: RemoteFile) -> tuple[str, int, str]:
    return file.path, file.size, file.sha256 or file.blob
