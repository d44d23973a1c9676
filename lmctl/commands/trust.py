"""`lmctl trust`: show what a declaration would execute or open, and let this machine's owner allow exactly that."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lmctl import census, trust
from lmctl.asking import asked
from lmctl.command import Context
from lmctl.config import loading
from lmctl.config.find import MAIN, Request, discover
from lmctl.errors import LmctlError, escape
from lmctl.paths import read_regular
from lmctl.record import record
from lmctl.result import Result
from lmctl.spec import Json, Machine, program_id
from lmctl.text import Style
from lmctl.trust import Field, Trusted, whole

if TYPE_CHECKING:
    from lmctl.config.resolution import Resolved

_LIMIT = 1 << 20  # bytes of a declaration
_MEANS = {
    "command": "runs this program",
    "flags": "flags outside the engine's list",
    "remote_code": "runs code that comes with the weights",
    "env": "a variable outside the engine's list",
    "cloud": "decides where prompts are sent, and with which key",
}
_MARKS = {"trusted": "✓", "new": "+", "changed": "~", "gone": "-"}


@record
class Entry:
    """One field now (None: it is gone) and as it is recorded (None: it never was)."""

    field: Field | None
    known: Trusted | None

    @property
    def state(self) -> str:
        if self.field is None:
            return "gone"
        if self.known is None:
            return "new"
        return "trusted" if self.known.sha256 == self.field.digest else "changed"

    @property
    def address(self) -> str:
        some = self.field or self.known
        assert some is not None
        return some.address


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="the declaration; default: the one of this folder")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--show", action="store_true", help="show the fields and what changed since; record nothing")
    what.add_argument("--revoke", action="store_true", help="trust nothing of it any more, and start it no more")


def run(context: Context, args: argparse.Namespace) -> Result:
    """Show the fields, ask, and record their hashes; or take that back.

    Only what the files say can be trusted. Raises E-TRUST for what is no declaration, and without a yes.
    """
    if context.options.sets:
        raise LmctlError("E-USAGE", "--set cannot be trusted", fix="write it into a file of the declaration")
    file = _file(context, args.file, there=not args.revoke)
    if args.revoke:
        return _revoke(context, file.parent)
    resolved = _resolved(context, file)
    entries = _entries(resolved)
    declaration, fields = resolved.declaration, resolved.gated
    new = fields and any(entry.state != "trusted" for entry in entries)
    if args.show or not new:
        return Result(_data(resolved, entries), lambda style: _text(resolved, entries, style), declaration.warnings)
    if not context.options.yes:
        context.err.write(_text(resolved, entries, context.style))
    _ask(context, file, len(fields))
    trust.write(trust.path(context.folders, declaration.name), declaration.folder, fields)
    done = [Entry(field, trust.recorded(field)) for field in sorted(fields, key=lambda field: field.address)]
    text = f"Trusted: {_count(done)} of {declaration.name}. Next: lmctl plan.\n"
    addresses = tuple(f"trusted: {entry.address}" for entry in done)
    if not context.options.yes:
        return Result(_data(resolved, done), text, done=addresses)
    # nobody has seen them, or saw them before somebody pulled
    return Result(_data(resolved, done), lambda style: f"{_text(resolved, done, style)}{text}", done=addresses)


def _file(context: Context, name: str | None, *, there: bool) -> Path:
    """Return the declaration's file, with links resolved; `there`: it must be one. Raises E-TRUST, E-USAGE, E-FILE.

    What is gone was a folder, unless it is called like a file: the folder above it is another declaration's.
    """
    options = context.options
    if name is None:
        request = Request(options.directory, options.config, elsewhere=options.elsewhere)
        return discover(request, context.folders, context.environ)
    if options.config is not None:
        raise LmctlError("E-USAGE", "a file is named twice", fix="name it once")
    file = Path(os.path.realpath(options.directory / name))
    gone = not there and file.suffix != ".toml" and not file.is_file()
    file = file / MAIN if gone or file.is_dir() else file
    if there and not _is_declaration(file):
        what = f"{escape(name)} is no declaration of lmctl"
        raise LmctlError("E-TRUST", what, fix=f"name its {MAIN}")
    return file


def _is_declaration(file: Path) -> bool:
    """True for a file of which lmctl can say what is wrong with it: it has the name or the first keys of one."""
    import tomllib  # only for this command

    try:
        content = read_regular(file, _LIMIT)
        tree = tomllib.loads(content.decode("utf-8-sig"))
    except LmctlError:
        return False
    except (ValueError, RecursionError):
        return file.name == MAIN
    return file.name == MAIN or {"version", "name"} <= tree.keys()


def _resolved(context: Context, file: Path) -> Resolved:
    """Return what the files alone say: an override of the environment can grant nothing."""
    request = Request(file.parent, file, empty=True)
    return loading.resolve(request, context.folders, {}, context.hardware(), trusting=True)


def _entries(resolved: Resolved) -> list[Entry]:
    fields = {field.address: field for field in resolved.gated}
    consent = resolved.consent
    known = {one.address: one for one in consent.trusted if not one.permissions <= consent.allowed}
    return [Entry(fields.get(address), known.get(address)) for address in sorted({*fields, *known})]


def _ask(context: Context, file: Path, count: int) -> None:
    """Raise E-TRUST unless the person says yes."""
    command = f"lmctl trust {shlex.quote(str(file))}"
    answer = asked(context, f"Trust {'it' if count == 1 else f'all {count}'} on this machine?")
    if answer is None:
        fix = f"read `{command} --show`, then run `{command} --yes`"
        raise LmctlError("E-TRUST", "nobody is there to ask", fix=fix)
    if not answer:
        raise LmctlError("E-TRUST", "nothing was recorded", fix=f"run `{command}` once you want it")


def _revoke(context: Context, folder: Path) -> Result:
    """Forget the trust in a folder, and keep what it let run from being started again; nothing is stopped."""
    gone = trust.forget(context.folders, folder)
    held = [profile for name, profiles in gone.items() for profile in _hold(context, name, profiles)]
    data: dict[str, Json] = {"folder": str(folder), "revoked": [*gone], "held": [*held]}
    text = "nothing was trusted here"
    if gone:
        again = f" Not started again: {escape(', '.join(held), 1000)}." if held else ""
        text = f"Nothing of {', '.join(gone)} is trusted any more. What runs goes on until it is stopped.{again}"
    done = (*(f"revoked: {name}" for name in gone), *(f"held: {profile}" for profile in held))
    return Result(data, text, done=done)


def _hold(context: Context, name: str, profiles: frozenset[str]) -> list[str]:
    """Make the launcher refuse the programs of `profiles` until an apply, which takes trust; return which there are."""
    stub = census.stub(context.folders, name, Machine())
    supervisor = context.host(stub).supervisor
    there = sorted(spec.profile for spec in supervisor.observe().specs.values() if spec.profile in profiles)
    for profile in there:
        supervisor.hold(program_id(profile), untrusted=True)
    return there


def _data(resolved: Resolved, entries: Sequence[Entry]) -> dict[str, Json]:
    declaration = resolved.declaration
    return {
        "name": declaration.name,
        "file": str(declaration.file),
        "trusted": all(entry.state == "trusted" for entry in entries),
        "fields": [_entry(entry) for entry in entries],
    }


def _entry(entry: Entry) -> Json:
    some: dict[str, Json] = {"address": entry.address, "state": entry.state}
    if entry.field is not None:
        place = entry.field.place
        where: dict[str, Json] = {"file": place.file, "line": place.line, "column": place.column} if place else {}
        some |= {"permissions": [*sorted(entry.field.permissions)], "value": entry.field.shown, **where}
    if entry.known is not None and entry.state != "trusted":
        some["before"] = entry.known.shown
    return some


def _text(resolved: Resolved, entries: Sequence[Entry], style: Style) -> str:
    declaration = resolved.declaration
    if not entries:
        return f"{declaration.name}: nothing in it needs trust ({escape(str(declaration.file))})\n"
    lines = [f"What only you may allow of {declaration.name} ({escape(str(declaration.file))}):", ""]
    for entry in entries:
        lines += _lines(entry, style)
    lines += [f"note: {note}" for note in dict.fromkeys(_notes(declaration.folder, resolved.gated))]
    return "\n".join(lines) + "\n"


def _lines(entry: Entry, style: Style) -> Iterator[str]:
    state, field = entry.state, entry.field
    paint = {"trusted": style.green, "new": style.yellow, "changed": style.yellow, "gone": style.red}[state]
    head = f"{paint(_MARKS[state])} {state:<8} {style.bold(whole(entry.address))}"
    if field is None:
        yield f"{head}  no longer declared"
    else:
        means = ", ".join(_MEANS[permission] for permission in sorted(field.permissions))
        yield f"{head}  {field.place}: {means}" if field.place else f"{head}  {means}"
    if entry.known is not None and state != "trusted":
        yield f"    before: {entry.known.shown}"
    if field is not None:
        yield f"    {'now:    ' if state == 'changed' else ''}{field.shown}"
    yield ""


def _notes(folder: Path, fields: Sequence[Field]) -> Iterator[str]:
    """Yield what trust does not cover: programs and files of the declaration's own folder, which a pull can change."""
    for word in (word for field in fields if not isinstance(field.value, str) for word in field.value):
        name = word.rpartition("=")[2]
        if not name or "\0" in name:
            continue
        path = os.path.normpath(folder / name)
        real = os.path.realpath(path)
        inside = real.startswith(f"{folder}/")
        if inside and os.path.isfile(real):  # noqa: PTH113 (a word may be longer than a name)
            yield f"{whole(name)} lies in the declaration's folder: what it holds may change, and trust does not notice"
        elif not inside and path.startswith(f"{folder}/") and os.path.lexists(path):
            what = f"{whole(name)} is a link that leads out of the declaration's folder, to {whole(real)}"
            yield f"{what}: where it leads may change, and trust does not notice"


def _count(entries: Sequence[Entry]) -> str:
    return f"{len(entries)} field{'' if len(entries) == 1 else 's'}"
