"""The unit that starts a declaration's supervisord at login: systemd's on Linux, launchd's on macOS.

A unit carries the digest of itself: what somebody wrote or edited is told from what lmctl wrote, and left alone.
"""

from __future__ import annotations

import hashlib
import os
import plistlib
import re
import stat
from pathlib import Path
from typing import Literal
from xml.sax.saxutils import escape as xml_escape

from lmctl.errors import LmctlError, escape
from lmctl.paths import disk_error, make_private, read_regular, write_atomic
from lmctl.record import record

State = Literal["absent", "ours", "edited", "foreign"]

_LIMIT = 64 << 10  # bytes of a unit
_MARK = re.compile(rb"Written by lmctl for [^\n]*; sha256 with zeros here: ([0-9a-f]{64})")
_ZEROS = "0" * 64
_SYSTEMD = """\
# Written by lmctl for {shown}; sha256 with zeros here: {digest}
# `lmctl service uninstall` removes it. Once it is edited, lmctl leaves it alone.
[Unit]
Description=lmctl: models of {name}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh {script}
TimeoutStartSec=2min
TimeoutStopSec=5min

[Install]
WantedBy=default.target
"""


@record
class Unit:
    """Where a unit lies and what it shall hold; `link` makes systemd start it, None where lying there is enough."""

    path: Path
    content: bytes
    link: Path | None = None

    @property
    def name(self) -> str:
        return self.path.name

    def state(self) -> State:
        """Return whose the file is. Raises what keeps it from being read."""
        try:
            status = self.path.lstat()
        except FileNotFoundError:
            return "absent"
        except OSError as error:
            raise disk_error(self.path, error) from error
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            return "foreign"
        content = read_regular(self.path, _LIMIT)
        mark = _MARK.search(content)
        if mark is None:
            return "foreign"
        plain = content.replace(mark[1], _ZEROS.encode(), 1)
        return "ours" if hashlib.sha256(plain).hexdigest().encode() == mark[1] else "edited"

    def enabled(self) -> bool:
        """Return whether it is started at login."""
        if self.link is None:
            return self.path.exists()
        return self.link.is_symlink() and Path(os.path.realpath(self.link)) == Path(os.path.realpath(self.path))

    def link_left(self) -> bool:
        """Return whether the link that enables the unit is there."""
        return self.link is not None and self.link.is_symlink()

    def write(self) -> bool:
        """Write the unit and enable it; True when something changed. Raises E-NAME-TAKEN for what is not lmctl's."""
        self._refuse("E-NAME-TAKEN", "move it away, or keep it and start supervisord by it")
        changed = not self.path.exists() or read_regular(self.path, _LIMIT) != self.content
        if changed:
            make_private(self.path.parent)
            write_atomic(self.path, self.content, mode=0o644)
        if self.link is not None and not self.enabled():
            if os.path.lexists(self.link):
                what = f"{escape(str(self.link))} leads to another unit"
                raise LmctlError("E-NAME-TAKEN", what, fix="look at it, and remove it by hand")
            make_private(self.link.parent)
            try:
                self.link.symlink_to(self.path)
            except OSError as error:
                raise disk_error(self.link, error) from error
            return True
        return changed

    def remove(self) -> bool:
        """Disable the unit and remove it; False when there was none. Raises E-PRUNE for what is not lmctl's."""
        self._refuse("E-PRUNE", "remove it by hand if it is not needed")
        there = self.path.exists() or self.enabled()
        try:
            if self.link is not None and self.link.is_symlink() and self.link.readlink() == self.path:
                self.link.unlink()
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(self.path, error) from error
        return there

    def _refuse(self, code: str, fix: str) -> None:
        state = self.state()
        if state in ("edited", "foreign"):
            why = "was edited since lmctl wrote it" if state == "edited" else "was not written by lmctl"
            raise LmctlError(code, f"{escape(str(self.path))} {why}", fix=fix)


def unit(system: str, home: Path, config: Path, state: Path) -> Unit:
    """Return the unit of the declaration whose state folder is `state`.

    `system` is linux or darwin, `config` the folder that $XDG_CONFIG_HOME names. Raises E-PATH for a folder whose
    name no unit can hold.
    """
    name, script = state.name, state / "service"
    text = str(script)
    if not text.isprintable() or "\ufffd" in text:
        raise LmctlError("E-PATH", f"{escape(text)} cannot be named in a unit", fix="choose another state folder")
    if system == "darwin":
        return Unit(home / f"Library/LaunchAgents/org.lmctl.{name}.plist", _launchd(name, script))
    folder = config / "systemd/user"
    file = f"lmctl-{name}.service"
    return Unit(folder / file, _systemd(name, script), folder / "default.target.wants" / file)


def _systemd(name: str, script: Path) -> bytes:
    shown = str(script.parent)
    plain = _SYSTEMD.format(shown=shown, digest=_ZEROS, name=name, script=_word(str(script)))
    return _sealed(plain.encode())


def _word(text: str) -> str:
    """Return an argument as systemd reads it: quoted, without specifiers and variables."""
    quoted = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{quoted.replace("%", "%%").replace("$", "$$")}"'


def _launchd(name: str, script: Path) -> bytes:
    """Return an agent that ends as soon as supervisord runs, and takes nothing along when it does."""
    agent = {
        "Label": f"org.lmctl.{name}",
        "ProgramArguments": ["/bin/sh", str(script)],
        "RunAtLoad": True,
        "AbandonProcessGroup": True,
        "ProcessType": "Background",
    }
    shown = xml_escape(str(script.parent)).replace("--", "- -")
    note = f"<!-- Written by lmctl for {shown}; sha256 with zeros here: {_ZEROS} -->\n"
    head, mark, rest = plistlib.dumps(agent).partition(b"<plist")
    return _sealed(head + note.encode() + mark + rest)


def _sealed(plain: bytes) -> bytes:
    """Return the content with its digest in the place of the zeros."""
    return plain.replace(_ZEROS.encode(), hashlib.sha256(plain).hexdigest().encode(), 1)
